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

"""Was an image trained on? White-box attacks ask a latent diffusion model how well it knows the image's latent."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from monai.inferers import DiffusionInferer
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from numpy.typing import NDArray

from ..bundle.files import write_table
from ..images.items import Prepared
from ..ldm.autoencoder import encode
from ..ldm.conditions import Condition
from ..ldm.sampling import LatentModel
from ..ldm.texts import TextVectors

__all__ = ["Attacks", "MembershipAttack", "NoiseLoss", "ProximalError"]

UNIT = 0.01  # how far the deviation of the training images' scaled latents may lie from 1
# noise (B, C, ...) added to a batch's latents at a timestep -> the noise that the model finds there
Query = Callable[[torch.Tensor, int], torch.Tensor]


class Attacks(Protocol):
    """What finds a model's error on latents; it is less on those that the model was trained on."""

    @property
    def timesteps(self) -> Sequence[int]:
        """Timesteps of the noise schedule, from 0, least noise."""
        ...

    def __call__(self, query: Query, latents: torch.Tensor) -> torch.Tensor:
        """Return the errors (B,) on latents (B, C, ...), on their device, averaged over timesteps."""
        ...


@dataclass(frozen=True)
class ProximalError:
    """How much the noise that a model finds in a latent changes when more of that noise is added to it (PIA).

    Kong et al., ICLR 2024, arXiv 2305.18355: the model's answer at timestep 0 takes the place of random noise, so that
    nothing is drawn. The norm is their l4, over a latent's values, here of the mean.

    Attributes:
        timesteps: at which the noise is added; they took 200 of 1,000.
    """

    timesteps: Sequence[int] = (100, 200, 300)

    def __call__(self, query: Query, latents: torch.Tensor) -> torch.Tensor:
        """Return the errors (B,) on latents (B, C, ...)."""
        first = query(torch.zeros_like(latents), 0)
        changes = [query(first, timestep) - first for timestep in self.timesteps]
        return torch.stack([change.pow(4).flatten(1).mean(1).pow(0.25) for change in changes]).mean(0)


@dataclass(frozen=True)
class NoiseLoss:
    """The mean squared error with which a model predicts noise: the loss that the training lowered.

    Matsumoto et al. 2023, arXiv 2302.03262; Carlini et al. 2023, arXiv 2301.13188. Every latent meets the same noise,
    at every timestep: that some is harder to predict then makes no difference between latents.

    Attributes:
        timesteps: at which noise is added.
        draws: of noise, over which the error is averaged, 1 or more.
        seed: of the noise.
    """

    timesteps: Sequence[int] = (100, 200, 300)
    draws: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"draws: expected 1 or more, got {self.draws}")

    def __call__(self, query: Query, latents: torch.Tensor) -> torch.Tensor:
        """Return the errors (B,) on latents (B, C, ...)."""
        generator = torch.Generator().manual_seed(self.seed)
        errors = torch.zeros(len(latents), device=latents.device)
        for _ in range(self.draws):
            noise = torch.randn(latents.shape[1:], generator=generator).to(latents.device).expand_as(latents)
            for timestep in self.timesteps:
                errors += (query(noise, timestep) - noise).square().flatten(1).mean(1)
        return errors / (self.draws * len(self.timesteps))


class MembershipAttack:
    """Scores images that a model of train_diffusion.yaml was trained on, and images of people whom it never saw.

    The score of an image is minus the attack's error on its latent: the higher, the more like a training image.

    Args:
        model: the folder's scale factor, records and conditions.
        autoencoder, diffusion: networks in evaluation mode, on `device`.
        inferer: with the scheduler of the training.
        train: the images that it was trained on, of :func:`prepared_images`, in their order.
        holdout: images of other people. Those without a value that the model is conditioned on are left out.
        output_dir: gets membership.csv.
        attack: finds the errors.
        batch_size: latents at a time; changes nothing but rounding.
        text, vectors: of a model that is conditioned on sentences: the sentence, and what embeds it.

    Raises:
        ValueError: if `train` or the autoencoder are not those of the training, somebody is in both sets, or a timestep
            of the attack is none of the schedule.
    """

    def __init__(
        self,
        model: LatentModel,
        autoencoder: AutoencoderKL,
        diffusion: DiffusionModelUNet,
        inferer: DiffusionInferer,
        train: Sequence[Prepared],
        holdout: Sequence[Prepared],
        output_dir: str | Path,
        attack: Attacks,
        batch_size: int = 64,
        device: torch.device | str = "cpu",
        text: str | None = None,
        vectors: TextVectors | None = None,
    ) -> None:
        last = inferer.scheduler.num_train_timesteps - 1
        if not attack.timesteps or any(timestep not in range(last + 1) for timestep in attack.timesteps):
            raise ValueError(f"timesteps: expected whole numbers in [0, {last}], got {list(attack.timesteps)}")
        self.model, self.autoencoder, self.diffusion, self.inferer = model, autoencoder, diffusion, inferer
        self.output_dir, self.attack, self.batch_size, self.device = Path(output_dir), attack, batch_size, device
        known = [record["image"] for record in model.records]
        if [image["id"] for image in train] != known:
            raise ValueError(
                f"train_dir: expected the {len(known)} images of {model.folder / 'records.csv'} in their order, found "
                f"{len(train)} other or otherwise; give what the model was trained on, with its levels"
            )
        if both := sorted({image["subject_id"] for image in train} & {image["subject_id"] for image in holdout}):
            raise ValueError(
                f"holdout_dir: expected people whom the model never saw, found {len(both)} of its training, such as "
                f"{both[0]}; leave them out"
            )
        self.train, self.condition = train, _fitted(model, train, text, vectors)
        self.holdout = [image for image in holdout if _can_be_coded(image, self.condition)]
        self.left_out = len(holdout) - len(self.holdout)
        self.latents = self._encode(train)
        if abs((deviation := float(self.latents.std())) - 1) > UNIT:
            raise ValueError(
                f"autoencoder_file: expected latents whose deviation is 1 once scaled as in training, found "
                f"{deviation:.3f}; give the autoencoder and preprocessing that the model was trained with"
            )

    def run(self) -> dict[str, int]:
        """Write membership.csv: subject_id, image, member (1 or 0), copies in training, score. Return the numbers of
        images: `members`, `others`, and `left_out` of these.

        Raises:
            ValueError: if the model predicts something else than numbers.
        """
        rows = self._rows(self.train, self.latents, [int(record["copies"]) for record in self.model.records])
        if self.holdout:
            rows += self._rows(self.holdout, self._encode(self.holdout), [0] * len(self.holdout))
        write_table(self.output_dir / "membership.csv", rows)
        return {"members": len(self.train), "others": len(self.holdout), "left_out": self.left_out}

    def _encode(self, images: Sequence[Prepared]) -> torch.Tensor:
        """Return the latents (N, C, ...), scaled as Latents scaled those of the training: by the model's factor."""
        stacked = torch.stack([torch.as_tensor(image["image"]).float() for image in images])
        return encode(self.autoencoder, stacked, self.batch_size, self.device) * self.model.scale_factor

    def _rows(
        self, images: Sequence[Prepared], latents: torch.Tensor, copies: Sequence[int]
    ) -> list[dict[str, object]]:
        conditions = torch.from_numpy(np.stack([self.condition(image) for image in images]))
        scores = -self._errors(latents, conditions)
        if not np.isfinite(scores).all():
            raise ValueError(
                f"diffusion_file: expected a network that predicts noise, found other values than numbers for "
                f"{(~np.isfinite(scores)).sum()} of {len(scores)} images; train again"
            )
        named = [{"subject_id": image["subject_id"], "image": image["id"]} for image in images]
        return [
            row | {"member": int(count > 0), "copies": count, "score": f"{score:.6g}"}
            for row, count, score in zip(named, copies, scores)
        ]

    def _errors(self, latents: torch.Tensor, conditions: torch.Tensor) -> NDArray[np.float64]:
        """Return the attack's errors (N,) on latents (N, C, ...) with conditions (N, D)."""
        errors = []
        for rows in torch.arange(len(latents)).split(self.batch_size):
            some, context = latents[rows].to(self.device), None
            if self.model.condition_dim:
                context = conditions[rows, None].to(self.device)  # (B, D) -> (B, 1, D)

            def query(
                noise: torch.Tensor, timestep: int, some: torch.Tensor = some, context: torch.Tensor | None = context
            ) -> torch.Tensor:
                times = torch.full((len(some),), timestep, device=some.device)
                return self.inferer(some, self.diffusion, noise, times, condition=context)

            with torch.no_grad():
                errors.append(self.attack(query, some).double().cpu())
        return torch.cat(errors).numpy()


def _fitted(model: LatentModel, train: Sequence[Prepared], text: str | None, vectors: TextVectors | None) -> Condition:
    """Return the condition of the model, fitted to its training images."""
    made = json.loads((model.folder / "model.json").read_text(encoding="utf-8"))["condition"]
    condition = Condition(made["kind"], made["columns"], text, vectors).fit(train)
    if not np.allclose(np.stack([condition(image) for image in train]), model.conditions, atol=1e-4):
        raise ValueError(
            f"train_dir: expected columns {', '.join(made['columns'])} with the values that the model was trained on, "
            "found others; give the table of the training"
        )
    return condition


def _can_be_coded(image: Prepared, condition: Condition) -> bool:
    """Return whether an image has every value that the model is conditioned on, of those that it knows."""
    try:
        condition(image)
    except ValueError:
        return False
    return True
