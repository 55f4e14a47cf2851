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


def foreground(image: torch.Tensor, threshold: float = 0.1) -> torch.Tensor:
    """Return where a grey image shows the object, a mask of the image's shape (..., H, W).

    Pixels whose 5 x 5 mean exceeds `threshold` times the robust maximum (99th percentile) above the minimum; the mean
    keeps background noise out. Images without any background are all foreground, constant ones have none.
    """
    image = torch.as_tensor(image, dtype=torch.float32)
    flat = image.flatten(-2)
    low = flat.amin(-1)[..., None, None]
    # kthvalue rather than quantile: no sort of a copy, and exact for every shape
    high = flat.kthvalue(max(1, round(0.99 * flat.shape[-1])), dim=-1).values[..., None, None]
    planes = (image - low).reshape(-1, 1, *image.shape[-2:])
    smooth = F.avg_pool2d(planes, 5, stride=1, padding=2, count_include_pad=False).reshape(image.shape)
    return smooth > threshold * (high - low)
