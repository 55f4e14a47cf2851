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

"""Smooth stacks of images, on all cores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .kernels import in_parts

__all__ = ["smoothed"]


def smoothed(images: NDArray[np.float32], sigma: float | Sequence[float]) -> NDArray[np.float32]:
    """Return images (N, H, W), or volumes (N, D, H, W), after a Gaussian, each for itself; 0 leaves them as they are.

    `sigma` is in pixels, one for all axes or one each. The filter is scipy's; a stack is cut up for the cores.
    """
    sigmas = (0.0, *np.broadcast_to(sigma, images.ndim - 1).tolist())
    if not any(sigmas):
        return images
    out = np.empty_like(images)
    in_parts(_smooth, len(images), images, sigmas, out)
    return out


def _smooth(start: int, stop: int, images: NDArray, sigmas: Sequence[float], out: NDArray) -> None:
    ndimage.gaussian_filter(images[start:stop], sigmas, output=out[start:stop])
