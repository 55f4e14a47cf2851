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

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage

from ..images.foreground import foreground
from .rendering import monotone_gain
from .ssim import ssim_pairs
from .ssim_kernels import WINDOW

__all__ = ["VolumeAlignment", "align_volumes", "start_from_slices"]


SMOOTHING = (3.0, 1.0)  # mm on top of the voxels' own, coarse to fine
ITERATIONS = 20  # of L-BFGS at each


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

    Maximises the normalised cross-correlation (contrast cancels) by L-BFGS, smoothed first; then fits a non-decreasing
    map of intensity, as the slices' evidence does.

    Args:
        query, reference: (Z, W, H) in [0, 1], background near 0; each side at least 7.
        start: (3, 4) maps query to reference in mm about the centres.
        spacing: (3,) mm of both.

    Raises:
        ValueError: if a side is shorter than the SSIM's window.

    Cost: about a second for 26 x 96 x 112 on two cores.
    """
    if min(*query.shape, *reference.shape) < WINDOW:
        raise ValueError(f"expected volumes of at least {WINDOW} a side, got {query.shape} and {reference.shape}")
    step = torch.as_tensor(spacing, dtype=torch.float32)
    begin = torch.as_tensor(start, dtype=torch.float32)
    sizes = [torch.tensor(v.shape, dtype=torch.float32) for v in (query, reference)]
    axes = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(query.shape, step)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)  # (Z, W, H, 3) in mm
    motion = torch.zeros(7, requires_grad=True)  # turn (rad), shift (mm), log of scale

    def matrix() -> torch.Tensor:
        # shift and log scale are in units that make a step of all of them alike
        zero = torch.zeros(())
        a, b, c = motion[:3]
        skew = torch.stack([zero, -c, b, c, zero, -a, -b, a, zero]).view(3, 3)
        turn = torch.linalg.matrix_exp(skew) * torch.exp(motion[6])
        return torch.cat([turn @ begin[:, :3], (begin[:, 3] + 50 * motion[3:6])[:, None]], 1)

    def sample(volume: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        there = (points @ m[:, :3].T + m[:, 3]) / step  # voxels about the reference's centre
        grid = there / ((sizes[1] - 1) / 2)
        # grid_sample wants the last axis first
        return F.grid_sample(volume[None, None], grid.flip(-1)[None], align_corners=True)[0, 0]

    def misfit(volume: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return 1 - _correlation(target, sample(volume, matrix()))

    for sigma in SMOOTHING:
        smooth, target = (
            torch.from_numpy(ndimage.gaussian_filter(np.asarray(v, np.float32), sigma / np.asarray(spacing)))
            for v in (reference, query)
        )
        _minimise(motion, functools.partial(misfit, smooth, target))
    with torch.no_grad():
        final = matrix()
        warped = sample(torch.from_numpy(np.asarray(reference, np.float32)), final).numpy()
    query = np.ascontiguousarray(query, np.float32)
    union = foreground(torch.from_numpy(query)).numpy() | foreground(torch.from_numpy(warped)).numpy()
    flat = (-1, query.shape[2])
    aligned = monotone_gain(query.reshape(flat), warped.reshape(flat), union.reshape(flat)).reshape(query.shape)
    score = ssim_pairs(
        query[None, None], aligned[None, None], form="foreground", data_range=1.0,
        foreground_x=union[None, None], foreground_y=union[None, None],
    )  # fmt: skip
    return VolumeAlignment(final.numpy().astype(float), aligned, float(score[0]))


def _minimise(parameters: torch.Tensor, loss: Callable[[], torch.Tensor]) -> None:
    optimiser = torch.optim.LBFGS([parameters], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)


def _correlation(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / (x.norm() * y.norm()).clamp_min(1e-12)
