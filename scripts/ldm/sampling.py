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

"""Draw images from a latent diffusion model, one file each, so that a stopped run goes on where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import ignite.distributed as idist
import numpy as np
import torch
from monai.inferers import LatentDiffusionInferer
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler
from numpy.typing import NDArray

from ..bundle.files import read_table, replacing, write_table
from ..bundle.progress import Progress
from ..images.writing import write_image
from .latents import ModelFacts

__all__ = ["LatentModel", "Sampler", "set_timesteps"]


LEVEL_SPREAD_MM = 4.0  # of slices nearest to one level, which lie on a grid of 4 mm


def set_timesteps(scheduler: DDIMScheduler, steps: int, spacing: str = "linspace") -> DDIMScheduler:
    """Return the scheduler, set to so many steps.

    Args:
        scheduler: MONAI's DDIMScheduler.
        steps: of the sampling.
        spacing: `linspace`, as MONAI has it (999, 979, ... 0 for 50 of 1000), or `leading`, as monai-generative 0.2.3
            had it (980, 960, ... 0), for samples as that package drew them.

    Raises:
        ValueError: for another spacing, or fewer training steps than `steps`.
    """
    if spacing not in ("linspace", "leading") or not 1 <= steps <= scheduler.num_train_timesteps:
        raise ValueError(
            f"spacing must be linspace or leading and steps in [1, {scheduler.num_train_timesteps}], got {spacing!r} "
            f"and {steps}"
        )
    scheduler.set_timesteps(steps)
    if spacing == "leading":
        scheduler.timesteps = torch.arange(steps - 1, -1, -1) * (scheduler.num_train_timesteps // steps)
    return scheduler


class LatentModel:
    """What a folder of train_diffusion.yaml says beside its weights: model.json, records.csv and conditions.npy.

    Raises:
        FileNotFoundError: if one of them is missing.
        ValueError: if they do not fit each other.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.files = [self.folder / name for name in ("model.json", "records.csv", "conditions.npy")]
        for path in self.files:
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path}: expected a file that configs/ldm/train_diffusion.yaml wrote, found none; check model_dir"
                )
        facts = ModelFacts.read(self.folder / "model.json")
        self.scale_factor, self.latent_shape = facts.scale_factor, facts.latent_shape
        self.condition_dim = facts.condition_dim
        self.records = read_table(self.folder / "records.csv")
        self.conditions = np.load(self.folder / "conditions.npy", allow_pickle=False)
        if self.conditions.shape != (len(self.records), self.condition_dim):
            raise ValueError(
                f"{self.folder / 'conditions.npy'}: expected ({len(self.records)}, {self.condition_dim}) values, found "
                f"{self.conditions.shape}; train again"
            )


class Sampler:
    """Draws `samples_per_record` images for the condition of each training record and writes a file each.

    Sample i starts from noise of its own seed, `seed` + i, so that neither the batch size nor the number of processes
    nor a stop changes what is drawn, up to rounding: a batch of another size takes other kernels, and a pixel of an
    8-bit file may differ by one grey level.

    Files appear whole. `generated.csv`, written last, names each image's record, as `group`, and seed. In a distributed
    run each process draws its share.

    Args:
        model: scale factor, latent shape and conditions.
        autoencoder, diffusion: networks in evaluation mode, on `device`.
        inferer: of latents, with the model's scale factor.
        scheduler: with its timesteps set.
        output_dir: gets images/ and generated.csv.
        samples_per_record: images of a record's condition.
        records: of them so many, spread evenly; None: all.
        batch_size: images at a time.
        seed: of the first sample.
        suffix: `.png`, or `.nii.gz` for a slice or a volume of `pixel_mm` mm; volumes take `.nii.gz` alone.
        identity: what else the images depend on, such as the weights; a folder with images of another is refused.
    """

    def __init__(
        self,
        model: LatentModel,
        autoencoder: AutoencoderKL,
        diffusion: DiffusionModelUNet,
        inferer: LatentDiffusionInferer,
        scheduler: DDIMScheduler,
        output_dir: str | Path,
        samples_per_record: int = 30,
        records: int | None = None,
        batch_size: int = 16,
        seed: int = 0,
        suffix: str = ".png",
        pixel_mm: float = 2.0,
        device: torch.device | str = "cpu",
        identity: Mapping[str, object] | None = None,
    ) -> None:
        if suffix not in (".png", ".nii.gz") or min(samples_per_record, batch_size) < 1:
            raise ValueError(
                "suffix must be .png or .nii.gz, samples_per_record and batch_size at least 1, got "
                f"{suffix!r}, {samples_per_record} and {batch_size}"
            )
        if suffix == ".png" and len(model.latent_shape) > 3:
            raise ValueError("suffix: expected .nii.gz, as the model draws volumes, found '.png'")
        trained = len(model.records)
        if records is not None and not (isinstance(records, int) and 1 <= records <= trained):
            raise ValueError(
                f"records: expected 1 to {trained}, those that the model was trained on, found {records!r}"
            )
        self.rows = np.linspace(0, trained - 1, records or trained).round().astype(int).repeat(samples_per_record)
        self.model, self.autoencoder, self.diffusion = model, autoencoder, diffusion
        self.inferer, self.scheduler, self.output_dir = inferer, scheduler, Path(output_dir)
        self.batch_size, self.seed = batch_size, seed
        self.suffix, self.pixel_mm, self.device = suffix, pixel_mm, device
        steps = [int(t) for t in scheduler.timesteps]
        drawn = {"records": records, "samples_per_record": samples_per_record}  # they say which record a number has
        self.identity = {"seed": seed, "suffix": suffix, "timesteps": steps, **drawn, **(identity or {})}

    def __len__(self) -> int:
        return len(self.rows)

    def path(self, index: int) -> Path:
        """Return the file of one sample."""
        return self.output_dir / "images" / f"{index:06d}{self.suffix}"

    def run(self) -> dict[str, float]:
        """Draw what is missing; return how many images were drawn now, and how many a second.

        Raises:
            ValueError: if output_dir holds images of other weights, seeds or steps.
        """
        self._claim()
        missing = [i for i in range(len(self)) if not self.path(i).exists()]
        mine = missing[idist.get_rank() :: idist.get_world_size()]
        start = time.perf_counter()
        with Progress(total=len(mine), desc="sampling", unit="image", disable=idist.get_rank() > 0) as bar:
            for first in range(0, len(mine), self.batch_size):
                batch = mine[first : first + self.batch_size]
                for index, image in zip(batch, self.draw(batch)):
                    with replacing(self.path(index)) as path:
                        write_image(image, path, self.pixel_mm)
                bar.update(len(batch))
        seconds = time.perf_counter() - start
        idist.barrier()
        if idist.get_rank() == 0:
            self._write_datalist()
        return {"images": len(mine), "per_second": len(mine) / seconds if mine else 0.0}

    def draw(self, indices: Sequence[int]) -> NDArray[np.float32]:
        """Return the samples of these numbers, (B, H, W) or (B, X, Y, Z), in [0, 1]."""
        shape = self.model.latent_shape
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(self.seed + i)) for i in indices]
        condition = None
        if self.model.condition_dim:
            condition = torch.from_numpy(self.model.conditions[self.rows[indices]])[:, None].to(self.device)
        images = self.inferer.sample(
            torch.stack(noise).to(self.device),
            self.autoencoder,
            self.diffusion,
            self.scheduler,
            conditioning=condition,
            verbose=False,
        )
        return torch.as_tensor(images)[:, 0].float().cpu().numpy().clip(0, 1)

    def _claim(self) -> None:
        path = self.output_dir / "sampling.json"
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if other := [key for key in self.identity if found.get(key) != self.identity[key]]:
                raise ValueError(
                    f"{self.output_dir}: expected an output_dir of its own for these weights and settings, found images"
                    f" drawn with another {', '.join(other)}; choose another output_dir or remove this one"
                )
        elif idist.get_rank() == 0:
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(self.identity, indent=1), encoding="utf-8")
        idist.barrier()

    def _write_datalist(self) -> None:
        levels = [float(record.get("level") or "nan") for record in self.model.records]
        # trained at one level, the model draws that level; an audit compares like with like where it knows it
        level = round(float(np.mean(levels)), 1) if np.ptp(levels) <= LEVEL_SPREAD_MM else ""
        rows = []
        for index in range(len(self)):
            record = self.model.records[self.rows[index]]
            name = self.path(index).relative_to(self.output_dir).as_posix()
            rows.append({"image": name, "group": record["image"], "level": level, "seed": self.seed + index})
        write_table(self.output_dir / "generated.csv", rows)
