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

"""Show a registered training image on the generated one's grid and contrast."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ..images.foreground import foreground
from .deformation import deform
from .kernels import in_parts, kernel
from .sampling import resample

__all__ = ["fit_gains", "monotone_gain", "render"]


GAIN_BINS = 32
LEAST_CONTRAST = 0.25  # share of the reference's contrast that a map of intensity must keep


@kernel()
def monotone_gain(query: NDArray, warped: NDArray, weight: NDArray) -> NDArray:
    """Return `warped` (H, W) after the non-decreasing map that predicts `query` best where `weight` is set.

    Pool adjacent violators on the mean query value of each bin of warped intensity, linear between the pools' centres.
    """
    total = np.zeros(GAIN_BINS)
    count = np.zeros(GAIN_BINS)
    height, width = query.shape
    for i in range(height):
        for j in range(width):
            if weight[i, j]:
                u = min(GAIN_BINS - 1, max(0, int(warped[i, j] * GAIN_BINS)))
                total[u] += query[i, j]
                count[u] += 1
    means = np.zeros(GAIN_BINS)
    sizes = np.zeros(GAIN_BINS)
    centres = np.zeros(GAIN_BINS)
    members = np.zeros(GAIN_BINS, np.int64)
    pools = 0
    for u in range(GAIN_BINS):
        if count[u] == 0:
            continue
        means[pools], sizes[pools], centres[pools], members[pools] = total[u] / count[u], count[u], u, 1
        pools += 1
        while pools > 1 and means[pools - 2] > means[pools - 1]:
            a, b = pools - 2, pools - 1
            size = sizes[a] + sizes[b]
            means[a] = (means[a] * sizes[a] + means[b] * sizes[b]) / size
            centres[a] = (centres[a] * sizes[a] + centres[b] * sizes[b]) / size
            sizes[a] = size
            pools -= 1
    out = np.empty_like(warped)
    for i in range(height):
        for j in range(width):
            position = warped[i, j] * GAIN_BINS - 0.5
            if pools == 0 or (not weight[i, j]):
                out[i, j] = warped[i, j]
                continue
            if position <= centres[0]:
                out[i, j] = means[0]
            elif position >= centres[pools - 1]:
                out[i, j] = means[pools - 1]
            else:
                k = 1  # few pools: a search in halves takes seconds to compile
                while centres[k] < position:
                    k += 1
                share = (position - centres[k - 1]) / (centres[k] - centres[k - 1])
                out[i, j] = means[k - 1] + share * (means[k] - means[k - 1])
    return out


@kernel()
def _spread(image: NDArray, weight: NDArray) -> float:
    """Standard deviation of the image where weight is set; 0 where it is nowhere."""
    total, square, count = 0.0, 0.0, 0
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            if weight[i, j]:
                total += image[i, j]
                square += image[i, j] ** 2
                count += 1
    return np.sqrt(max(0.0, square / count - (total / count) ** 2)) if count else 0.0


@kernel()
def _fit_gains(start: int, stop: int, queries: NDArray, images: NDArray, union: NDArray, warped: NDArray) -> None:
    """Fill (P, H, W) with the images on their queries' contrast."""
    for n in range(start, stop):
        mapped = monotone_gain(queries[n], images[n], union[n])
        # a map that flattens the reference explains nothing: a blank query would be everybody's copy
        flat = _spread(mapped, union[n]) < LEAST_CONTRAST * _spread(images[n], union[n])
        for i in range(queries.shape[1]):  # not by a slice, whose check of shapes takes seconds to compile
            for j in range(queries.shape[2]):
                warped[n, i, j] = images[n, i, j] if flat else mapped[i, j]


def render(
    queries: NDArray,
    references: NDArray,
    matrix: NDArray,
    bend: bool = False,
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
    """Return the references on their queries' grids and contrast, both foregrounds' union, and the former before they
    are bent; (P, H, W).

    `bend` bends them onto the queries, too. `pairs` are rows of queries and of references; None: row by row.
    """
    masks = [foreground(torch.from_numpy(a)).numpy().astype(np.float32) for a in (queries, references)]
    once, rows = queries, None if pairs is None else pairs[0]
    if pairs is not None:
        queries, references = queries[pairs[0]], references[pairs[1]]
        masks = [mask[rows] for mask, rows in zip(masks, pairs)]
    union = (masks[0] > 0.5) | (resample(masks[1], matrix) > 0.5)
    unbent = warped = fit_gains(queries, resample(references, matrix), union)
    if bend:
        # once more, as misfits have flattened the first map of intensity
        warped = fit_gains(queries, deform(once, unbent, union, rows), union)
    return warped, union, unbent


def fit_gains(queries: NDArray, images: NDArray, union: NDArray) -> NDArray[np.float32]:
    """Return images (P, H, W) on their queries' contrast where `union` is set, by a non-decreasing map a pair."""
    warped = np.empty_like(queries)
    in_parts(_fit_gains, len(queries), queries, images, union, warped)
    return warped
