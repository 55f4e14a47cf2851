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
from .deformation import deform, solve_banded
from .kernels import in_parts, kernel
from .sampling import resample

__all__ = ["bent", "fit_gains", "monotone_gain", "render"]


GAIN_BINS = 32
LEAST_CONTRAST = 0.25  # share of the reference's contrast that a map of intensity must keep
TERMS = 5  # of the shading: x, y, x^2, x y and y^2
SHRINKAGE = 0.01  # of its coefficients, in sums of squared intensity
MOST_SHADING = 1.5  # largest factor by which it brightens or darkens


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


@kernel(fastmath=True)
def _shade(query: NDArray, image: NDArray, weight: NDArray) -> None:
    """Multiply an image (H, W), where weight is set, by the smooth factor that makes it most like the query.

    The factor is 1 + a polynomial of the second degree in the pixel's place, by least squares, within limits: it undoes
    a coil's shading, or a generator's.
    """
    height, width = image.shape
    band, right = np.zeros((TERMS, TERMS)), np.zeros(TERMS)
    terms = np.empty(TERMS)
    power = 0.0
    for i in range(height):
        for j in range(width):
            if weight[i, j]:
                y, x = 2.0 * i / (height - 1) - 1.0, 2.0 * j / (width - 1) - 1.0
                value = float(image[i, j])
                terms[0], terms[1] = value * x, value * y
                terms[2], terms[3], terms[4] = value * x * x, value * x * y, value * y * y
                power += value * value
                for a in range(TERMS):
                    right[a] += terms[a] * (query[i, j] - value)
                    for b in range(TERMS - a):
                        band[a, b] += terms[a] * terms[a + b]
    if power <= 0:
        return
    for a in range(TERMS):
        band[a, 0] += SHRINKAGE * power
    solve_banded(band, right)
    for i in range(height):
        for j in range(width):
            if weight[i, j]:
                y, x = 2.0 * i / (height - 1) - 1.0, 2.0 * j / (width - 1) - 1.0
                factor = 1 + right[0] * x + right[1] * y + right[2] * x * x + right[3] * x * y + right[4] * y * y
                image[i, j] *= min(max(factor, 1 / MOST_SHADING), MOST_SHADING)


@kernel()
def _fit_gains(
    start: int, stop: int, queries: NDArray, images: NDArray, union: NDArray, shading: bool, warped: NDArray
) -> None:
    """Fill (P, H, W) with the images on their queries' contrast, and shading."""
    for n in range(start, stop):
        mapped = monotone_gain(queries[n], images[n], union[n])
        # a map that flattens the reference explains nothing: a blank query would be everybody's copy
        flat = _spread(mapped, union[n]) < LEAST_CONTRAST * _spread(images[n], union[n])
        for i in range(queries.shape[1]):  # not by a slice, whose check of shapes takes seconds to compile
            for j in range(queries.shape[2]):
                warped[n, i, j] = images[n, i, j] if flat else mapped[i, j]
        if shading and not flat:
            _shade(queries[n], warped[n], union[n])
            mapped = monotone_gain(queries[n], warped[n], union[n])
            for i in range(queries.shape[1]):
                for j in range(queries.shape[2]):
                    warped[n, i, j] = mapped[i, j]


def render(
    queries: NDArray[np.float32],
    references: NDArray[np.float32],
    matrix: NDArray[np.float64],
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    shading: bool = True,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the references on their queries' grids and contrast, and both foregrounds' union; (P, H, W).

    `shading` undoes a smooth one, too. `pairs` are rows of queries and of references; None: row by row.
    """
    masks = [foreground(torch.from_numpy(a)).numpy().astype(np.float32) for a in (queries, references)]
    if pairs is not None:
        queries, references = queries[pairs[0]], references[pairs[1]]
        masks = [mask[rows] for mask, rows in zip(masks, pairs)]
    union = (masks[0] > 0.5) | (resample(masks[1], matrix) > 0.5)
    return fit_gains(queries, resample(references, matrix), union, shading), union


def bent(
    queries: NDArray[np.float32],
    images: NDArray[np.float32],
    union: NDArray[np.bool_],
    rows: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """Return rendered images (P, H, W) bent onto their queries; `rows` (P,) are those of the queries (Q, H, W)."""
    own = queries if rows is None else queries[rows]
    # once more, as misfits have flattened the first map of intensity
    return fit_gains(own, deform(queries, images, union, rows), union)


def fit_gains(queries: NDArray, images: NDArray, union: NDArray, shading: bool = False) -> NDArray[np.float32]:
    """Return images (P, H, W) on their queries' contrast where `union` is set, by a non-decreasing map a pair.

    `shading` undoes a smooth one, too: by a factor, then the map anew.
    """
    warped = np.empty_like(queries)
    in_parts(_fit_gains, len(queries), queries, images, union, shading, warped)
    return warped
