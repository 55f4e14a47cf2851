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

"""Resample images under a map of positions."""

import torch
import torch.nn.functional as F

__all__ = ["warp"]


def warp(image: torch.Tensor, matrix: torch.Tensor, displacement: torch.Tensor | None = None) -> torch.Tensor:
    """Return image(matrix @ x + displacement), shape (N, C, H, W), bilinear; zero outside the field.

    Args:
        image: (N, C, H, W).
        matrix: (N, 2, 3) map of output to input positions, in pixels from the image centre, (row, column) order.
        displacement: (N, 2, H, W) in pixels, added after the matrix.
    """
    height, width = image.shape[-2], image.shape[-1]
    rows = torch.arange(height, dtype=torch.float32, device=image.device) - (height - 1) / 2
    columns = torch.arange(width, dtype=torch.float32, device=image.device) - (width - 1) / 2
    y, x = rows[None, :, None], columns[None, None, :]
    # no matrix product: autocast would round positions to bfloat16
    m = matrix[:, :, :, None, None]
    source_y = m[:, 0, 0] * y + m[:, 0, 1] * x + m[:, 0, 2]
    source_x = m[:, 1, 0] * y + m[:, 1, 1] * x + m[:, 1, 2]
    if displacement is not None:
        source_y, source_x = source_y + displacement[:, 0], source_x + displacement[:, 1]
    # grid_sample wants (x, y) in [-1, 1] between the centres of the outer pixels
    grid = torch.stack([source_x * (2.0 / (width - 1)), source_y * (2.0 / (height - 1))], dim=-1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
