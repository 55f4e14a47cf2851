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

"""Align whole volumes in three dimensions: the final evidence of a copied volume, after its slices have decided."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..images.foreground import foreground
from .rendering import monotone_gain
from .ssim import ssim_pairs
from .ssim_kernels import WINDOW
from .volume_registration import register_volumes
from .volume_sampling import resample_volumes

__all__ = ["VolumeAlignment", "align_volumes", "start_from_slices"]


class VolumeAlignment(NamedTuple):
    """How a training volume lies on a generated one: `matrix` (3, 4) maps query to reference, in mm about the centres.

    `aligned` (Z, W, H) is the training volume on the generated one's grid and contrast, `ssim` their foreground SSIM.
    """

    matrix: NDArray[np.float64]
    aligned: NDArray[np.float32]
    ssim: float


def start_from_slices(
    matrix: NDArray, place: NDArray, matched: NDArray, sizes: tuple[int, int], spacing: NDArray
) -> NDArray[np.float64]:
    """Return the map (3, 4) in mm that slices found one by one suggest.

    Args:
        matrix: (M, 2, 3) of a query slice to its training slice, in pixels about the centres.
        place, matched: (M,) the two slices' indices in their volumes.
        sizes: number of slices of the query and of the training volume.
        spacing: (3,) mm of both.
    """
    sides = np.sign(np.linalg.det(matrix[:, :, :2]))
    votes, count = np.unique(sides, return_counts=True)
    plane = np.median(matrix[sides == votes[count.argmax()]], axis=0)  # one motion of the plane for all slices
    here, there = place - (sizes[0] - 1) / 2, matched - (sizes[1] - 1) / 2
    sign = -1.0 if np.cov(here, there)[0, 1] < 0 else 1.0  # upside down
    start = np.zeros((3, 4))
    start[0, 0], start[0, 3] = sign, spacing[0] * np.median(there - sign * here)
    start[1:, 1:3], start[1:, 3] = plane[:, :2], plane[:, 2] * spacing[1:]
    return start


def align_volumes(query: NDArray, reference: NDArray, start: NDArray, spacing: NDArray) -> VolumeAlignment:
    """Register the reference to the query by rotation, shift and scale, beginning at `start`, and score it.

    The registration is that of :func:`~scripts.similarity.volume_registration.register_volumes`; then a non-decreasing
    map of intensity is fitted, as the slices' evidence does.

    Args:
        query, reference: (Z, W, H) in [0, 1], background near 0; each side at least 7.
        start: (3, 4) maps query to reference in mm about the centres.
        spacing: (3,) mm of both.

    Raises:
        ValueError: if a side is shorter than the SSIM's window.

    Cost: about 0.2 s for 26 x 96 x 112 on one core.
    """
    if min(*query.shape, *reference.shape) < WINDOW:
        raise ValueError(f"expected volumes of at least {WINDOW} a side, got {query.shape} and {reference.shape}")
    one, other = (np.asarray(v, np.float32)[None] for v in (query, reference))
    alone, grids = np.zeros(1, np.int64), (spacing, spacing)
    matrix = register_volumes(one, other, (alone, alone), np.asarray(start, float)[None, None], grids)
    warped = resample_volumes(other, alone, matrix, query.shape, grids)[0]
    query = np.ascontiguousarray(query, np.float32)
    union = foreground(torch.from_numpy(query)).numpy() | foreground(torch.from_numpy(warped)).numpy()
    flat = (-1, query.shape[2])
    aligned = monotone_gain(query.reshape(flat), warped.reshape(flat), union.reshape(flat)).reshape(query.shape)
    score = ssim_pairs(
        query[None, None], aligned[None, None], form="foreground", data_range=1.0,
        foreground_x=union[None, None], foreground_y=union[None, None],
    )  # fmt: skip
    return VolumeAlignment(matrix[0], aligned, float(score[0]))
