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
import torch.nn.functional as F

__all__ = ["foreground"]


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
    smooth = (image - low).reshape(-1, 1, *image.shape[-dims:])
    if dims == 2:
        smooth = F.avg_pool2d(smooth, 5, stride=1, padding=2, count_include_pad=False)
    else:  # one axis after the other, the last of (N, 1, length, 1) planes: pooling in 3-D is slow
        for axis in (2, 3, 4):
            rows = smooth.movedim(axis, 2)
            planes = rows.reshape(len(rows), 1, rows.shape[2], -1)
            pooled = F.avg_pool2d(planes, (5, 1), stride=1, padding=(2, 0), count_include_pad=False)
            smooth = pooled.reshape(rows.shape).movedim(2, axis)
    return smooth.reshape(image.shape) > threshold * (high - low)
