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
    """Return image(matrix @ x + displacement), of the image's shape, linear in between; zero outside the field.

    Args:
        image: (N, C, H, W), or (N, C, D, H, W).
        matrix: (N, 2, 3) or (N, 3, 4), map of output to input positions, in pixels from the image centre, in the order
            of the image's axes.
        displacement: (N, 2, H, W) or (N, 3, D, H, W) in pixels, added after the matrix.
    """
    dims = image.dim() - 2
    places: list[torch.Tensor] = []
    for axis in range(dims):
        n = image.shape[axis + 2]
        place = torch.arange(n, dtype=torch.float32, device=image.device) - (n - 1) / 2
        shape = [1] * (dims + 1)
        shape[axis + 1] = n
        places.append(place.view(shape))
    m = matrix.view([matrix.shape[0], dims, dims + 1] + [1] * dims)
    sources: list[torch.Tensor] = []
    for row in range(dims):
        # no matrix product: autocast would round positions to bfloat16
        source = m[:, row, 0] * places[0]
        for column in range(1, dims):
            source = source + m[:, row, column] * places[column]
        source = source + m[:, row, dims]
        if displacement is not None:
            source = source + displacement[:, row]
        # grid_sample wants the last axis first, in [-1, 1] between the centres of the outer pixels
        sources.insert(0, source * (2.0 / (image.shape[row + 2] - 1)))
    grid = torch.stack(sources, dim=-1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
