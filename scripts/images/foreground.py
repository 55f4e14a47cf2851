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

"""Where a grey image shows the object."""

from __future__ import annotations

import torch

__all__ = ["foreground"]

WINDOW = 5  # pixels or voxels a side


def foreground(image: torch.Tensor, threshold: float = 0.1, dims: int = 2) -> torch.Tensor:
    """Return where a grey image shows the object, a mask of the image's shape (..., H, W), or (..., D, H, W).

    Pixels whose mean over 5 a side exceeds `threshold` times the robust maximum (99th percentile) above the minimum;
    the mean keeps background noise out. Images without any background are all foreground, constant ones have none.

    Args:
        image: of any number of images.
        threshold: share of the robust maximum.
        dims: 2 takes each plane for itself, 3 each volume.
    """
    image = torch.as_tensor(image, dtype=torch.float32)
    flat = image.flatten(-dims)
    each = (..., *[None] * dims)
    low = flat.amin(-1)[each]
    # kthvalue rather than quantile: no sort of a copy, and exact for every shape
    high = flat.kthvalue(max(1, round(0.99 * flat.shape[-1])), dim=-1).values[each]
    smooth = image - low
    for axis in range(1, dims + 1):
        smooth = _mean_of_neighbours(smooth, -axis)
    return smooth > threshold * (high - low)


def _mean_of_neighbours(image: torch.Tensor, axis: int) -> torch.Tensor:
    """Return the mean over WINDOW along an axis, at the edges over what there is. Shifted sums: pooling is slower."""
    length, reach = image.shape[axis], WINDOW // 2
    total = image.clone()
    for shift in range(1, min(reach, length - 1) + 1):
        total.narrow(axis, shift, length - shift).add_(image.narrow(axis, 0, length - shift))
        total.narrow(axis, 0, length - shift).add_(image.narrow(axis, shift, length - shift))
    place = torch.arange(length, device=image.device)
    count = (place + reach).clamp(max=length - 1) - (place - reach).clamp(min=0) + 1
    return total / count.reshape(-1, *[1] * (-axis - 1))
