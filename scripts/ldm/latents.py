# Copyright (c) MONAI Consortium
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""What a latent diffusion model is trained on: latents of real images, encoded once and repeated."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import AutoencoderKL
from torch.utils.data import Dataset

from ..bundle.components import choice
from ..bundle.files import replacing, write_table
from ..images.items import Prepared
from .autoencoder import encode
from .conditions import Condition

__all__ = ["Latents", "ModelFacts", "draw_copies"]


# fewest and most copies of a subject under the published conditions (arXiv 2509.16582)
DUPLICATION: Mapping[str, tuple[int, int]] = {"none": (1, 1), "low": (1, 4), "high": (1, 14)}


def draw_copies(subjects: Sequence[str], duplication: str, seed: int) -> dict[str, int]:
    """Return how often each subject's images stand in the training set: once, 1-4 or 1-14 times at random.

    Args:
        subjects: ids; repetitions count once.
        duplication: `none`, `low` or `high`.
        seed: of the draw.

    Raises:
        ValueError: for another duplication.
    """
    names, (least, most) = sorted(set(subjects)), choice("duplication", DUPLICATION, duplication)
    counts = np.random.RandomState(seed).randint(least, most + 1, size=len(names))
    return dict(zip(names, counts.tolist()))


class Latents(Dataset):
    """Scaled latents of images or volumes, encoded once, with their conditions; what ``DiffusionPrepareBatch`` takes.

    ``self[i]`` is the i-th record: `image` (C, h, w) or (C, x, y, z), its latent times `scale_factor`, which gives all
    latents together unit deviation, and `condition` (1, D) where D > 0.

    Args:
        images: of :func:`prepared_images`.
        autoencoder: in evaluation mode, on `device`.
        condition: fitted to the images.
        copies: of each subject; None: one.
        divisor: what the latent's sides must be multiples of, as the diffusion model halves them.
        batch_size, device: of the encoding.

    Raises:
        ValueError: if the latents cannot be halved so often.
    """

    def __init__(
        self,
        images: Sequence[Prepared],
        autoencoder: AutoencoderKL,
        condition: Condition | None = None,
        copies: Mapping[str, int] | None = None,
        divisor: int = 1,
        batch_size: int = 64,
        device: torch.device | str = "cpu",
    ) -> None:
        self.images, self.condition = images, condition or Condition()
        self.copies = [1 if copies is None else copies[s["subject_id"]] for s in images]
        stacked = torch.stack([torch.as_tensor(s["image"]).float() for s in images])
        latents = encode(autoencoder, stacked, batch_size, device)
        if any(n % divisor for n in latents.shape[2:]):
            raise ValueError(
                f"latents of images {tuple(stacked.shape[2:])} are {tuple(latents.shape[2:])}, expected multiples of "
                f"{divisor}, as the diffusion model halves them; choose another spatial_size or fewer channels"
            )
        self.scale_factor = 1 / float(latents.std())
        self.latents = latents * self.scale_factor
        self.conditions = np.stack([self.condition(s) for s in images])
        self.rows = np.repeat(np.arange(len(images)), self.copies)

    @property
    def condition_dim(self) -> int:
        """Entries of a condition, 0 without one."""
        return self.conditions.shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = int(self.rows[index])
        record = {"image": self.latents[row]}
        if self.condition_dim:
            record["condition"] = torch.from_numpy(self.conditions[row])[None]
        return record

    def save(self, output_dir: str | Path) -> None:
        """Write what sampling needs besides weights: model.json, and records.csv with each record's subject and copies.

        conditions.npy (R, D) has the records' rows.
        """
        output = Path(output_dir)
        write_table(output / "records.csv", [self._record(s, count) for s, count in zip(self.images, self.copies)])
        with replacing(output / "conditions.npy") as path, path.open("wb") as file:
            np.save(file, self.conditions)
        facts = ModelFacts(self.scale_factor, tuple(self.latents.shape[1:]), self.condition_dim)
        facts.write(output / "model.json", self.condition)

    def _record(self, image: Prepared, copies: int) -> dict[str, object]:
        level = float(image.get("level", np.nan))  # that of a planar image or a volume is unknown
        row: dict[str, object] = {
            "image": image["id"],
            "subject_id": image["subject_id"],
            "level": "" if np.isnan(level) else level,
        }
        sentence = self.condition.sentence(image)
        row |= {"copies": copies, **{column: image.get(column, "") for column in self.condition.columns}}
        return row if sentence is None else row | {"text": sentence}


@dataclass(frozen=True)
class ModelFacts:
    """What a diffusion model was trained with: the latents' factor and shape, (C, h, w) or (C, x, y, z), and the
    entries of a condition."""

    scale_factor: float
    latent_shape: tuple[int, ...]
    condition_dim: int

    @classmethod
    def read(cls, path: Path) -> ModelFacts:
        """Return the facts in a model.json."""
        facts = json.loads(path.read_text(encoding="utf-8"))
        return cls(float(facts["scale_factor"]), tuple(facts["latent_shape"]), int(facts["condition_dim"]))

    def write(self, path: Path, condition: Condition) -> None:
        """Write a model.json, which tells a reader how the condition was made too."""
        scales = {column: scale.facts() for column, scale in condition.scales.items()}
        made: dict[str, object] = {"kind": condition.kind, "columns": condition.columns, "scales": scales}
        if condition.template:
            made["text"] = condition.template.text
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(asdict(self) | {"condition": made}, indent=1), encoding="utf-8")
