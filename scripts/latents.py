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

"""What a latent diffusion model is trained on: latents of real slices, encoded once, repeated and conditioned."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.networks.nets import AutoencoderKL
from numpy.typing import NDArray
from torch.utils.data import Dataset

from .autoencoder import encode
from .components import choice
from .files import replacing, write_table

__all__ = ["Condition", "Latents", "draw_copies", "pixels", "planar_slices", "tissue_shares"]

MISSING = (None, "", "n/a")  # what a table has where it has no value
DUPLICATION = {"none": (1, 1), "low": (1, 4), "high": (1, 14)}  # copies of a subject (arXiv 2509.16582)


def planar_slices(
    items: Sequence[dict[str, Any]], preprocessing: Callable, levels: Sequence[float] | None = None
) -> list[dict[str, Any]]:
    """Return the items' slices as dicts: `image` (1, H, W) in [0, 1], `id` and the item's other columns.

    Args:
        items: of images or volumes, as :func:`find_images` returns them.
        preprocessing: the bundle's chain; it makes a list of slices of a volume.
        levels: in mm below the top of the object; of a volume only the slices nearest to these are kept. None: all.
    """
    slices: list[dict[str, Any]] = []
    for item in items:
        made = preprocessing(dict(item))
        if isinstance(made, list):
            number = np.arange(len(made))
            if levels is not None:
                distance = np.abs(np.array([[s["level"] for s in made]]) - np.array(levels, float)[:, None])
                number = np.unique(distance.argmin(1))
            slices += [item | made[i] | {"id": f"{item['id']}#z={i}"} for i in number.tolist()]
        else:
            slices.append(item | made)
    return slices


def pixels(items: Sequence[dict[str, Any]], preprocessing: Callable) -> NDArray[np.float32]:
    """Return the slices of items, as :func:`planar_slices` makes them, as one array (N, H, W)."""
    return np.stack([np.asarray(s["image"], np.float32)[0] for s in planar_slices(items, preprocessing)])


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


def tissue_shares(mask: str | Path, labels: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Return the share of a label map's labelled volume that each group of labels fills, in [0, 1].

    Raises:
        ValueError: if no voxel bears a label.
    """
    counts = np.bincount(np.asarray(nibabel.load(mask).dataobj, np.int64).ravel())  # type: ignore[attr-defined]
    total = counts[1:].sum()
    if total == 0:
        raise ValueError(f"{mask}: expected a label map, found no voxel above 0; correct the column 'mask'")
    return {
        name: float(sum(counts[label] for label in group if label < len(counts)) / total)
        for name, group in labels.items()
    }


class Condition:
    """Turns an item's columns into what the diffusion model is conditioned on, a vector (D,).

    Args:
        kind: `none` (D = 0); `variables`, each number standardised by the training items, each text 0 or 1 for every
            value but the first; `embedding`, the vector in the .npy file that the item's column names.
        columns: of the items; one for `embedding`.

    Raises:
        ValueError: for another kind, or columns that do not fit it.
    """

    def __init__(self, kind: str = "none", columns: Sequence[str] = ()) -> None:
        if kind not in ("none", "variables", "embedding"):
            raise ValueError(f"condition: expected none, variables or embedding, got {kind!r}")
        if kind != "none" and not columns or kind == "embedding" and len(columns) != 1:
            raise ValueError(f"condition_columns: expected {'one' if kind == 'embedding' else 'some'}, got {columns}")
        self.kind, self.columns = kind, list(columns) if kind != "none" else []
        self.scales: dict[str, Any] = {}

    def fit(self, items: Sequence[Mapping[str, Any]]) -> Condition:
        """Learn each variable's mean and standard deviation, or its values."""
        for column in self.columns if self.kind == "variables" else ():
            values = [_value(item, column) for item in items]
            numbers = [_number(value) for value in values]
            if None not in numbers:
                spread = float(np.std(numbers))  # type: ignore[arg-type]
                self.scales[column] = [float(np.mean(numbers)), spread or 1.0]  # type: ignore[arg-type]
            else:
                self.scales[column] = sorted({str(value) for value in values})
        return self

    def __call__(self, item: Mapping[str, Any]) -> NDArray[np.float32]:
        """Return the item's condition (D,).

        Raises:
            ValueError: if a column is missing or holds what the training items did not.
        """
        if self.kind == "embedding":
            return _vector(_value(item, self.columns[0]))
        parts: list[float] = []
        for column, scale in self.scales.items():
            value = _value(item, column)
            if isinstance(scale[0], str):
                if str(value) not in scale:
                    raise ValueError(f"{item.get('id')}: expected {column} among {', '.join(scale)}, found {value!r}")
                parts += [float(str(value) == known) for known in scale[1:]]
            else:
                number = _number(value)
                if number is None:
                    raise ValueError(f"{item.get('id')}: expected a number as {column}, found {value!r}; correct it")
                parts.append((number - scale[0]) / scale[1])
        return np.array(parts, np.float32)


def _value(item: Mapping[str, Any], column: str) -> Any:
    value = item.get(column)
    if value in MISSING:
        raise ValueError(
            f"{item.get('id')}: expected a value in column {column!r}, on which the model is conditioned, found none; "
            "fill it in, leave the item out or take the column out of condition_columns"
        )
    return value


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _vector(path: str | Path) -> NDArray[np.float32]:
    vector = np.load(path, allow_pickle=False)
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise ValueError(f"{path}: expected a finite vector (D,), found an array of shape {vector.shape}")
    return vector.astype(np.float32)


class Latents(Dataset):
    """Scaled latents of slices, encoded once, with their conditions; what ``DiffusionPrepareBatch`` takes.

    ``self[i]`` is the i-th record: `image` (C, h, w), its latent times `scale_factor`, which gives all latents together
    unit deviation, and `condition` (1, D) where D > 0.

    Args:
        slices: of :func:`planar_slices`.
        autoencoder: in evaluation mode, on `device`.
        condition: fitted to the slices.
        copies: of each subject; None: one.
        divisor: what the latent's height and width must be multiples of, as the diffusion model halves them.
        batch_size, device: of the encoding.

    Raises:
        ValueError: if the latents cannot be halved so often.
    """

    def __init__(
        self,
        slices: Sequence[dict[str, Any]],
        autoencoder: AutoencoderKL,
        condition: Condition | None = None,
        copies: Mapping[str, int] | None = None,
        divisor: int = 1,
        batch_size: int = 64,
        device: torch.device | str = "cpu",
    ) -> None:
        self.slices, self.condition = slices, condition or Condition()
        self.copies = [1 if copies is None else copies[s["subject_id"]] for s in slices]
        images = torch.stack([torch.as_tensor(s["image"]).float() for s in slices])
        latents = encode(autoencoder, images, batch_size, device)
        if any(n % divisor for n in latents.shape[2:]):
            raise ValueError(
                f"latents of images {tuple(images.shape[2:])} are {tuple(latents.shape[2:])}, expected multiples of "
                f"{divisor}, as the diffusion model halves them; choose another spatial_size or fewer channels"
            )
        self.scale_factor = 1 / float(latents.std())
        self.latents = latents * self.scale_factor
        self.conditions = np.stack([self.condition(s) for s in slices])
        self.rows = np.repeat(np.arange(len(slices)), self.copies)

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
        output.mkdir(parents=True, exist_ok=True)
        rows = []
        for slice_, count in zip(self.slices, self.copies):
            level = float(slice_.get("level", np.nan))  # a planar image's is unknown
            row = {"image": slice_["id"], "subject_id": slice_["subject_id"], "level": level if level == level else ""}
            rows.append(row | {"copies": count} | {c: slice_.get(c, "") for c in self.condition.columns})
        write_table(output / "records.csv", rows)
        with replacing(output / "conditions.npy") as path, path.open("wb") as file:
            np.save(file, self.conditions)
        facts = {
            "scale_factor": self.scale_factor,
            "latent_shape": list(self.latents.shape[1:]),
            "condition_dim": self.condition_dim,
            "condition": {
                "kind": self.condition.kind,
                "columns": self.condition.columns,
                "scales": self.condition.scales,
            },
        }
        with replacing(output / "model.json") as path:
            path.write_text(json.dumps(facts, indent=1))
