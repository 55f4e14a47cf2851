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

"""Simulated slices of a thousand people, and generated ones of which some are copies: for audits whose size counts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from bundle_root import ROOT  # noqa: F401  puts the bundle on the path
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scripts import RandMisalignd

__all__ = ["PHANTOMS", "phantom", "phantom_head", "write_phantoms"]

PHANTOMS = 1000


def phantom(seed: int) -> NDArray[np.float32]:
    """Return a person's slice (112, 96) in [0, 1]: an oval head with folds of its own."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(-1, 1, 112), np.linspace(-1, 1, 96), indexing="ij")
    inside = (y / rng.uniform(0.8, 0.9)) ** 2 + (x / rng.uniform(0.75, 0.85)) ** 2 < 1
    white = rng.normal(size=inside.shape)
    folds = ndimage.gaussian_filter(white, 1.5) - ndimage.gaussian_filter(white, 5)
    image = ndimage.gaussian_filter(inside.astype(float), 0.7) * (0.55 + 0.18 * folds / folds.std())
    return image.clip(0, 1).astype(np.float32)


def phantom_head(seed: int) -> NDArray[np.float32]:
    """Return a person's head (96, 112, 80) in [0, 1], which is 2 mm a voxel: slices that change every 8 mm."""
    planes = [phantom(100_000 + 100 * seed + plane // 4).T for plane in range(80)]
    return np.stack(planes, -1) * np.hanning(82)[1:-1].astype(np.float32)


def write_phantoms(folder: Path, generated: int = PHANTOMS) -> None:
    """Write 1,000 training images, and generated ones of which one in twenty is a copy, moved and noisy."""
    move = RandMisalignd("image", flip_prob=0.5, affine_prob=1.0, rotation=8.0, shift=4.0)
    move.set_random_state(0)
    rng = np.random.default_rng(0)
    for name in ("train", "generated"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        train = list(pool.map(phantom, range(PHANTOMS)))
        strangers = pool.map(phantom, range(PHANTOMS, PHANTOMS + generated))
        for number, image in enumerate(train):
            _save(image, folder / "train" / f"train_{number:04d}.png")
        for number, image in enumerate(strangers):
            if number % 20 == 0:
                copied = torch.from_numpy(train[number % PHANTOMS])[None]
                image = np.asarray(move({"image": copied})["image"])[0]
            noisy = image + 0.01 * rng.normal(size=image.shape)
            _save(noisy, folder / "generated" / f"generated_{number:04d}.png")


def _save(image: NDArray, file: Path) -> None:
    Image.fromarray((image * 255).round().clip(0, 255).astype(np.uint8)).save(file)
