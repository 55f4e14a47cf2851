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

"""Files of a data set; an object as volume and as picture, and the bundle's chain for both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from scripts.bundle.components import component


@pytest.fixture(scope="module")
def chain():
    """The preprocessing of the bundle as a function of a file."""
    preprocessing = component(ROOT / "configs" / "inference.yaml", "preprocessing")
    return lambda path, **more: preprocessing({"image": str(path), "id": "scan", **more})


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    """(56, 66, 49) voxels, RAS: an ellipsoid that is brighter on the right, on top and in bands."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (56, 66, 49)), indexing="ij")
    inside = (x / 0.85) ** 2 + (y / 0.9) ** 2 + (z / 0.8) ** 2 < 1
    return np.where(inside, 500 + 200 * x + 100 * np.sin(4 * y) + 60 * z, 0).astype(np.float32)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """(W, H) = (70, 90), whole numbers up to 255, without symmetry."""
    x, y = np.meshgrid(np.arange(70), np.arange(90), indexing="ij")
    inside = ((x - 33) / 25) ** 2 + ((y - 47) / 38) ** 2 < 1
    return np.where(inside, 2 * (20 + x + y // 4), 0)


@pytest.fixture
def folder(tmp_path) -> Callable[..., Path]:
    """Makes files of the given names, which nobody opens, and returns their folder."""

    def make(*names: str) -> Path:
        for path in (tmp_path / name for name in names):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return make
