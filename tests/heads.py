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
"""Simulated heads as volumes, each a subject: what tests of whole volumes look at."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import torch
from monai.transforms import Compose
from scipy.ndimage import gaussian_filter
from scripts.images.augmentations import RandCopyd, RandMisalignd

FIELD = (48, 56, 40)


def head(seed: int, size: tuple[int, int, int] = FIELD, fold: float = 2.0) -> np.ndarray:
    """An ellipsoid of random folds in 48 x 56 x 40 voxels of 4 mm, or another `size`, background 0; its shape is the
    subject's own. `fold` is the folds' width in voxels."""
    rng = np.random.default_rng(seed)
    folds = gaussian_filter(rng.normal(size=size), fold)
    axes = np.array([17, 21, 14]) * rng.uniform(0.95, 1.05, 3) * (size[0] / FIELD[0])
    places = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in size), indexing="ij")
    distance = sum((place / axis) ** 2 for place, axis in zip(places, axes))
    volume = np.clip(0.55 + 0.18 * folds / folds.std(), 0.2, 1) * (distance < 1)
    return gaussian_filter(volume, 0.5).astype(np.float32)


def copy(volume: np.ndarray, seed: int, bend: float = 0.2, turn: float = 10.0) -> np.ndarray:
    """The volume bent, turned, shifted, mirrored half the time, and of another contrast."""
    transform = Compose(
        [
            RandCopyd("image", elastic=(bend, bend), grid=6),
            RandMisalignd(
                "image", flip_prob=[0.5, 0, 0], affine_prob=1, rotation=turn, shift=2, gamma_prob=1, gamma=(0.7, 1.4)
            ),
        ]
    )
    transform.set_random_state(seed)
    return transform({"image": torch.from_numpy(volume[None])})["image"].numpy()[0]


def write_heads(folder: Path, volumes: dict[str, np.ndarray], mm: float = 4.0) -> Path:
    """Write volumes as NAME.nii.gz below a folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, volume in volumes.items():
        nibabel.save(nibabel.Nifti1Image(volume, np.diag([mm, mm, mm, 1])), folder / f"{name}.nii.gz")
    return folder
