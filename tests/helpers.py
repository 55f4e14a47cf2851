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
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from scripts.images.loading import Slices

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = Path(os.environ.get("DEEPSSIM_DATA", ROOT.parent / "shared" / "data"))  # which the repository lacks


def run_config(name: str, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a config by MONAI's command line in a folder; `name` is a file of configs/, or a list of paths as a text."""
    file = name if name.startswith("[") else str(ROOT / "configs" / name)
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", file, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


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


def slices(subjects: int = 4, levels: int = 5) -> Slices:
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
    return Slices(np.array(images, np.float32), number, np.tile(np.arange(levels) * 2.0, subjects))
