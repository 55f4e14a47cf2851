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

"""Images of a texture without any symmetry, and known motions of them."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter

CENTRE = np.array([(96 - 1) / 2, (112 - 1) / 2])
SHAPE = (96, 112)


def textured(seed: int, radii=(38, 44), smoothness: float = 3.0) -> np.ndarray:
    """A smooth random texture inside an ellipse, background 0, without any symmetry."""
    texture = gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), smoothness)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    inside = ((y - CENTRE[0]) / radii[0]) ** 2 + ((x - CENTRE[1]) / radii[1]) ** 2 < 1
    low, high = texture[inside].min(), texture[inside].max()
    return np.where(inside, 0.15 + 0.8 * (texture - low) / (high - low), 0).astype(np.float32)


def similarity(degrees=0.0, shift=(0.0, 0.0), scale=1.0, flip=(1, 1)) -> np.ndarray:
    c, s = scale * np.cos(np.deg2rad(degrees)), scale * np.sin(np.deg2rad(degrees))
    return np.column_stack([np.array([[c, -s], [s, c]]) * flip, shift])


def moved(image: np.ndarray, matrix: np.ndarray, order: int = 3) -> np.ndarray:
    offset = CENTRE + matrix[:, 2] - matrix[:, :2] @ CENTRE
    return affine_transform(image, matrix[:, :2], offset, order=order, mode="grid-constant").clip(0, 1)
