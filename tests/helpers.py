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

"""What several tests need: places, the command line, and small images and embeddings with a known truth."""

from __future__ import annotations

import csv
import importlib.util
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from PIL import Image
from scipy.ndimage import uniform_filter
from scripts.images.items import Item
from scripts.images.loading import SliceSet

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = Path(os.environ.get("DEEPSSIM_DATA", ROOT.parent / "shared" / "data"))  # which the repository lacks


def run_config(name: str, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a config by MONAI's command line in a folder; `name` is a file of configs/, or a list of paths as a text."""
    file = name if name.startswith("[") else str(ROOT / "configs" / name)
    return run_monai(cwd, "run", "--config_file", file, *arguments)


def run_monai(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Be `python -m monai.bundle` with these arguments, in a folder.

    In a process of its own, as a user's, but forked from one that has imported what takes seconds to import.
    """
    words = [str(MONAI_BUNDLE), *arguments]
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = FORKS.Process(target=_monai, args=(words, str(cwd), dict(os.environ), str(out), str(err)))
        process.start()
        process.join()
        return subprocess.CompletedProcess(words, process.exitcode, out.read_text(), err.read_text())


MONAI_BUNDLE = Path(importlib.util.find_spec("monai.bundle.__main__").origin)
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["monai.bundle", "scripts", "scripts.detect", "fire", "ignite.engine"])


def _monai(words: list[str], cwd: str, environment: dict[str, str], *files: str) -> None:
    """Be `python -m monai.bundle` with these words, from the folder, its output in two files."""
    sys.stdout.flush()
    for path, stream in zip(files, (1, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [cwd, *environment.get("PYTHONPATH", "").split(os.pathsep)]
    sys.argv = words
    runpy.run_module("monai.bundle", run_name="__main__")


# draws of every kind of misalignment and of degradation
MISALIGN = {
    "flip_prob": 0.5,
    "affine_prob": 0.8,
    "rotation": 15.0,
    "shift": 6.0,
    "zoom": (0.9, 1.1),
    "gamma_prob": 0.8,
    "gamma": (0.5, 1.5),
    "bias_prob": 0.3,
    "bias": 0.3,
    "blur_prob": 0.3,
    "blur": 1.2,
    "noise_prob": 0.3,
    "noise": 0.06,
}
COPY = {"elastic": (0.0, 1.5), "blur": (0.0, 1.0), "noise": (0.0, 0.05)}
DEMO = {f"{name}_dir": str(ROOT / "demo" / name) for name in ("train", "generated")}


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a table in CSV."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def unit_vectors(count: int, seed: int) -> torch.Tensor:
    """Random directions (N, 12), as embeddings of different people."""
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 12, generator=generator))


def near(vectors: torch.Tensor, seed: int = 5, distance: float = 0.02) -> torch.Tensor:
    """Unit vectors near to the given ones, as embeddings of their copies."""
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(vectors + distance * torch.randn(vectors.shape, generator=generator))


class TinyEmbedder(torch.nn.Module):
    """Unit vectors that differ between training and evaluation mode, as dropout makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(32 * 40, 16)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return vectors (N, 16) of images (N, 1, 32, 40)."""
        return torch.nn.functional.normalize(self.dropout(self.linear(images.flatten(1) - 0.3)))


def blobs(count: int, seed: int) -> torch.Tensor:
    """Images (N, 1, 32, 40) of an ellipse with a texture of its own."""
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[-1:1:32j, -1:1:40j]
    coarse = torch.from_numpy(rng.rand(count, 1, 8, 10).astype(np.float32))
    texture = torch.nn.functional.interpolate(coarse, (32, 40), mode="bicubic", align_corners=True)
    return (0.3 + 0.6 * texture).clip(0, 1) * torch.from_numpy((y**2 + x**2 < 0.7).astype(np.float32))


def slices(subjects: int = 4, levels: int = 5) -> SliceSet:
    """Smooth random discs, a subject's slices alike."""
    y, x = np.mgrid[-1:1:48j, -1:1:56j]
    images, rng = [], np.random.default_rng(0)
    for _ in range(subjects):
        a, b = rng.normal(size=(2, 6))
        for level in range(levels):
            waves = sum(
                a[k] * np.sin((k + 1) * (3 * x + b[k]) + 0.3 * level) * np.cos((6 - k) * y + b[k]) for k in range(6)
            )
            images.append(np.where(x**2 + y**2 < 0.8, 0.5 + 0.4 * np.tanh(waves), 0))
    number = np.arange(subjects).repeat(levels)
    return SliceSet(np.array(images, np.float32), number, np.tile(np.arange(levels) * 2.0, subjects))


def picture(seed: int) -> np.ndarray:
    """(40, 32), a disc of its own brightness pattern on black."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:40j, -1:1:32j]
    coarse = rng.integers(80, 255, (10, 8)).repeat(4, 0).repeat(4, 1)
    return np.where(x**2 + y**2 < 0.8, coarse, 0).astype(np.uint8)


def write_pictures(folder: Path, *seeds: int) -> list[Item]:
    """Pictures as PNG files, and their items."""
    items: list[Item] = []
    for seed in seeds:
        path = folder / f"{seed}.png"
        Image.fromarray(picture(seed)).save(path)
        items.append({"image": str(path), "id": path.name, "subject_id": f"s{seed}"})
    return items


def write_volume(folder: Path) -> Item:
    """A shaded ball as a NIfTI file of 2 mm, and its item."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (45, 50, 40)), indexing="ij")
    array = np.where(x**2 + y**2 + z**2 < 0.8, 100 + 30 * x - 20 * y + 40 * z * x, 0).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([2.0, 2.0, 2.0, 1.0])), folder / "v.nii.gz")
    return {"image": str(folder / "v.nii.gz"), "id": "v.nii.gz", "subject_id": "vol"}


def save_volume(path, volume: np.ndarray, voxel=(2.0, 2.0, 2.0), axcodes="RAS"):
    """Write a RAS volume in another orientation; the affine follows, so that the object stays in place."""
    affine = np.diag([*voxel, 1.0])
    affine[:3, 3] = (-50, 20, -7)
    image = nibabel.Nifti1Image(volume, affine)
    image = image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(axcodes)))
    nibabel.save(image, path)
    return path


def grey_picture(numbers: np.ndarray) -> Image.Image:
    """A picture of numbers (W, H) in [0, 255]."""
    return Image.fromarray(numbers.T.astype(np.uint8))  # PIL wants (H, W)


def reference_foreground(image: np.ndarray) -> np.ndarray:
    """Return where an image (H, W) shows the object: the definition by SciPy."""
    image = image.astype(float) - image.min()
    mean = uniform_filter(image, 5, mode="constant") / uniform_filter(np.ones(image.shape), 5, mode="constant")
    return mean > 0.1 * np.sort(image, axis=None)[round(0.99 * image.size) - 1]


def reference_image(image: np.ndarray) -> np.ndarray:
    """Return the object on the field of 96 x 112, brightest 0.5 % at one: the configured chain by hand."""
    rows, columns = np.nonzero(reference_foreground(image))
    image = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].astype(float)
    missing = [side - length for side, length in zip((96, 112), image.shape)]
    image = np.pad(image, [(m // 2, m - m // 2) for m in missing])
    return np.clip(image / np.percentile(image, 99.5), 0, 1)
