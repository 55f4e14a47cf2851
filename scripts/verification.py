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

"""Align training images to generated ones and score each pair by its foreground SSIM: the evidence of a copy.

The alignment undoes what a generator, or the preparation of its training data, may have done to a copy: mirroring,
a half turn, rotation, shift, scale and a monotone change of intensity. It is a registration by Gauss-Newton on an image
pyramid with several starts, in one numba kernel that takes pairs in parallel.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from .slices import foreground
from .ssim import ssim_pairs

__all__ = ["Alignment", "Verifier", "monotone_gain", "render"]

PYRAMID = (4, 2, 1)  # strides, coarse to fine
ITERATIONS = (8, 6, 3)
START_ANGLES = np.deg2rad([-12.0, 0.0, 12.0])  # capture range at the coarse level is about 10 degrees
FLIPS = np.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
KEPT = 3  # starts that go on to the middle level
SCALE_RANGE = (0.7, 1.4)  # of the map; anything beyond is a run-away fit
GAIN_BINS = 32
LEAST_WINDOW = 12  # pixels; smaller squares of different people are alike
LEAST_FOREGROUND = 0.6  # of a square, to be compared
LEAST_CONTRAST = 0.25  # share of the reference's contrast that a map of intensity must keep


class Alignment(NamedTuple):
    """How training image `reference` lies on `query`, and how alike they then are; one entry a pair.

    `matrix` (P, 2, 3) maps query to reference pixels, both counted from the image centre in (row, column) order.
    `mirrored` (P,) says that the map reverses handedness; `aligned_ssim` (P,) is the foreground SSIM.
    """

    matrix: NDArray[np.float64]
    mirrored: NDArray[np.bool_]
    aligned_ssim: NDArray[np.float32]


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _sample(image, y, x):
    """Bilinear value and its derivatives by y and x; zero outside."""
    height, width = image.shape
    if not (y > -1.0 and y < height and x > -1.0 and x < width):
        return np.float32(0), np.float32(0), np.float32(0)
    i, j = int(np.floor(y)), int(np.floor(x))
    fy, fx = np.float32(y - i), np.float32(x - j)
    a = image[i, j] if i >= 0 and j >= 0 else np.float32(0)
    b = image[i, j + 1] if i >= 0 and j + 1 < width else np.float32(0)
    c = image[i + 1, j] if i + 1 < height and j >= 0 else np.float32(0)
    d = image[i + 1, j + 1] if i + 1 < height and j + 1 < width else np.float32(0)
    top, bottom = a + (b - a) * fx, c + (d - c) * fx
    left, right = a + (c - a) * fy, b + (d - b) * fy
    return top + (bottom - top) * fy, bottom - top, right - left


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _normal_equations(query, reference, flip, p, normal, gradient):
    """Fill the 7 x 7 normal equations of (a, b, ty, tx, gain 0, gain 1, gain 2) at p and return the squared error.

    The reference is sampled at [[a, -b], [b, a]] @ (flip * x) + t; its value w predicts the query as a parabola in w.
    """
    height, width = query.shape
    normal[:] = 0
    gradient[:] = 0
    row = np.zeros(7, np.float32)
    error = np.float64(0)
    centre_y, centre_x = (height - 1) / 2, (width - 1) / 2
    for i in range(height):
        y = np.float32((i - centre_y) * flip[0])
        for j in range(width):
            x = np.float32((j - centre_x) * flip[1])
            source_y = p[0] * y - p[1] * x + p[2] + centre_y
            source_x = p[1] * y + p[0] * x + p[3] + centre_x
            w, dy, dx = _sample(reference, source_y, source_x)
            if w == 0 and query[i, j] < 0.02:
                continue  # background on background carries no information
            slope = np.float32(p[5] + 2 * p[6] * w)
            dy *= slope
            dx *= slope
            row[0] = dy * y + dx * x
            row[1] = dx * y - dy * x
            row[2] = dy
            row[3] = dx
            row[4] = 1
            row[5] = w
            row[6] = w * w
            residual = np.float32(query[i, j] - (p[4] + p[5] * w + p[6] * w * w))
            error += residual * residual
            for u in range(7):
                gradient[u] += row[u] * residual
                for v in range(u, 7):
                    normal[u, v] += row[u] * row[v]
    for u in range(7):
        for v in range(u):
            normal[u, v] = normal[v, u]
    return error


@numba.njit(cache=True, error_model="numpy")
def _solve(matrix, right):
    """Return x with matrix @ x = right by Cholesky; `matrix` (n, n) is positive definite and is overwritten.

    LAPACK is no choice here: called from numba's threads, some builds of OpenBLAS start threads of their own for seven
    unknowns, which takes ten times as long and warns that it may hang.
    """
    n = len(right)
    x = right.copy()
    for u in range(n):
        for v in range(u + 1):
            total = matrix[u, v]
            for w in range(v):
                total -= matrix[u, w] * matrix[v, w]
            matrix[u, v] = np.sqrt(total) if u == v else total / matrix[v, v]
        for w in range(u):
            x[u] -= matrix[u, w] * x[w]
        x[u] /= matrix[u, u]
    for u in range(n - 1, -1, -1):
        for w in range(u + 1, n):
            x[u] -= matrix[w, u] * x[w]
        x[u] /= matrix[u, u]
    return x


@numba.njit(cache=True, error_model="numpy")
def _fit(query, reference, flip, p, iterations):
    """Refine p by damped Gauss-Newton; return the best p and its squared error."""
    normal = np.zeros((7, 7))
    gradient = np.zeros(7)
    best = p.copy()
    lowest = np.inf
    damping = 1e-3
    for _ in range(iterations + 1):
        error = _normal_equations(query, reference, flip, p, normal, gradient)
        scale = np.sqrt(p[0] ** 2 + p[1] ** 2)
        if not np.isfinite(error) or scale < SCALE_RANGE[0] or scale > SCALE_RANGE[1] or error > lowest * 1.5:
            p = best.copy()
            damping *= 30
            if damping > 1e3 or lowest == np.inf:
                break
            _normal_equations(query, reference, flip, p, normal, gradient)
        elif error < lowest:
            done = error > lowest * 0.9995
            lowest = error
            best = p.copy()
            if done:
                break
        for u in range(7):
            normal[u, u] += damping * normal[u, u] + 1e-6
        p = p + _solve(normal, gradient)
    return best, lowest


@numba.njit(cache=True, parallel=True, error_model="numpy")
def _align_pairs(coarse, middle, fine, first, second, parameters, flips):
    starts = len(FLIPS) * len(START_ANGLES)
    for n in numba.prange(first.shape[0]):
        i, j = first[n], second[n]
        found = np.zeros((starts, 7))
        errors = np.full(starts, np.inf)
        for s in range(starts):
            angle = START_ANGLES[s % len(START_ANGLES)]
            p = np.array([np.cos(angle), np.sin(angle), 0.0, 0.0, 0.0, 1.0, 0.0])
            found[s], errors[s] = _fit(coarse[i], coarse[j], FLIPS[s // len(START_ANGLES)], p, ITERATIONS[0])
        order = np.argsort(errors)
        lowest = np.inf
        best, flip = found[order[0]], FLIPS[order[0] // len(START_ANGLES)]
        taken = 0
        for s in order:
            repeated = False  # two starts of one flip often meet in one optimum
            for t in order:
                if t == s:
                    break
                if (
                    t // len(START_ANGLES) == s // len(START_ANGLES)
                    and np.abs(found[t][:2] - found[s][:2]).max() < 0.03
                ):
                    repeated = True
            if repeated or not np.isfinite(errors[s]):
                continue
            p = found[s].copy()
            p[2:4] *= PYRAMID[0] / PYRAMID[1]
            p, error = _fit(middle[i], middle[j], FLIPS[s // len(START_ANGLES)], p, ITERATIONS[1])
            if error < lowest:
                lowest, best, flip = error, p, FLIPS[s // len(START_ANGLES)]
            taken += 1
            if taken == KEPT:
                break
        best = best.copy()
        best[2:4] *= PYRAMID[1] / PYRAMID[2]
        p, error = _fit(fine[i], fine[j], flip, best, ITERATIONS[2])
        parameters[n] = p
        flips[n] = flip


@numba.njit(cache=True, error_model="numpy")
def monotone_gain(query, warped, weight):
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
                k = np.searchsorted(centres[:pools], position)
                share = (position - centres[k - 1]) / (centres[k] - centres[k - 1])
                out[i, j] = means[k - 1] + share * (means[k] - means[k - 1])
    return out


@numba.njit(cache=True, error_model="numpy")
def _spread(image, weight):
    """Standard deviation of the image where weight is set; 0 where it is nowhere."""
    total, square, count = 0.0, 0.0, 0
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            if weight[i, j]:
                total += image[i, j]
                square += image[i, j] ** 2
                count += 1
    return np.sqrt(max(0.0, square / count - (total / count) ** 2)) if count else 0.0


@numba.njit(cache=True, parallel=True, error_model="numpy")
def _render_pairs(queries, references, masks_q, masks_r, matrices, warped, union):
    """Sample each reference on its query's grid, fit the gain; fill (P, H, W) images and union foregrounds."""
    height, width = queries.shape[1:]
    centre_y, centre_x = (height - 1) / 2, (width - 1) / 2
    for n in numba.prange(queries.shape[0]):
        m = matrices[n]
        image = np.empty((height, width), np.float32)
        for i in range(height):
            for j in range(width):
                y, x = i - centre_y, j - centre_x
                source_y = m[0, 0] * y + m[0, 1] * x + m[0, 2] + centre_y
                source_x = m[1, 0] * y + m[1, 1] * x + m[1, 2] + centre_x
                image[i, j] = _sample(references[n], source_y, source_x)[0]
                inside = _sample(masks_r[n], source_y, source_x)[0] > 0.5
                union[n, i, j] = inside or masks_q[n, i, j] > 0.5
        mapped = monotone_gain(queries[n], image, union[n])
        # a map that flattens the reference explains nothing: a blank query would be everybody's copy
        flat = _spread(mapped, union[n]) < LEAST_CONTRAST * _spread(image, union[n])
        warped[n] = image if flat else mapped


class Verifier:
    """Aligns pairs of images on one field and scores them by foreground SSIM.

    Args:
        smoothing: sigma in pixels of a Gaussian on both images before the SSIM; it takes the generator's noise out of
            the comparison. 0 compares the images as they are.
        block: pairs aligned at a time; bounds the memory.
        window: 0 scores the whole foreground; else the score is that of the best square of so many pixels a side, for
            copies of a part of an image. At least 12.

    Cost: about 4 ms a pair at 96 x 112 on two cores (benchmarks/speed.py).
    """

    def __init__(self, smoothing: float = 0.7, block: int = 512, window: int = 0) -> None:
        if smoothing < 0 or block < 1 or 0 != window < LEAST_WINDOW:
            raise ValueError(
                f"smoothing must be >= 0, block >= 1 and window 0 or at least {LEAST_WINDOW}, got {smoothing}, {block} "
                f"and {window}"
            )
        self.smoothing, self.block, self.window = smoothing, block, window

    def align(self, queries: NDArray, references: NDArray) -> Alignment:
        """Align references[p] to queries[p]; both (P, H, W) in [0, 1], background near 0.

        Raises:
            ValueError: if the shapes differ.
        """
        queries, references = (np.ascontiguousarray(a, np.float32) for a in (queries, references))
        if queries.shape != references.shape or queries.ndim != 3:
            raise ValueError(
                f"queries and references must have one shape (P, H, W), got {queries.shape} and {references.shape}"
            )
        matrix = np.empty((len(queries), 2, 3))
        scores = np.empty(len(queries), np.float32)
        for start in range(0, len(queries), self.block):
            part = slice(start, start + self.block)
            matrix[part] = _register(queries[part], references[part])
            scores[part] = self._score(queries[part], references[part], matrix[part])
        return Alignment(matrix, np.linalg.det(matrix[:, :, :2]) < 0, scores)

    def _score(self, queries, references, matrix) -> NDArray[np.float32]:
        warped, union = render(self._smooth(queries), self._smooth(references), matrix)
        if self.window:
            return _best_window(self._smooth(queries), warped, union, min(self.window, *queries.shape[1:]))
        return ssim_pairs(
            self._smooth(queries), warped, form="foreground", data_range=1.0, foreground_x=union, foreground_y=union
        )

    def _smooth(self, images: NDArray) -> NDArray:
        return ndimage.gaussian_filter(images, (0, self.smoothing, self.smoothing)) if self.smoothing else images


def _best_window(queries: NDArray, warped: NDArray, union: NDArray, window: int) -> NDArray[np.float32]:
    """Return the highest foreground SSIM of each pair (P, H, W) over squares that are mostly foreground, (P,).

    Squares lie a third of their side apart; -1 where none is foreground enough.
    """
    best = np.full(len(queries), -1, np.float32)
    step = window // 3
    for i in range(0, queries.shape[1] - window + 1, step):
        for j in range(0, queries.shape[2] - window + 1, step):
            square = (slice(None), slice(i, i + window), slice(j, j + window))
            inside = np.flatnonzero(union[square].mean((1, 2)) > LEAST_FOREGROUND)
            if len(inside):
                x, y, mask = (np.ascontiguousarray(a[square][inside]) for a in (queries, warped, union))
                score = ssim_pairs(x, y, form="foreground", data_range=1.0, foreground_x=mask, foreground_y=mask)
                best[inside] = np.maximum(best[inside], score)
    return best


def render(queries: NDArray, references: NDArray, matrix: NDArray) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the references on their queries' grids and contrast, and both foregrounds' union, (P, H, W)."""
    masks = [foreground(torch.from_numpy(a)).numpy().astype(np.float32) for a in (queries, references)]
    warped = np.empty_like(queries)
    union = np.empty(queries.shape, np.bool_)
    _render_pairs(queries, references, masks[0], masks[1], matrix, warped, union)
    return warped, union


def _register(queries: NDArray, references: NDArray) -> NDArray[np.float64]:
    """Return the maps (P, 2, 3) from query to reference pixels."""
    levels = []
    for stride in PYRAMID:
        sigma = 0.5 * stride
        stack = ndimage.gaussian_filter(np.concatenate([queries, references]), (0, sigma, sigma))
        # pixels symmetric about the centre, so that the centre stays the centre at every level
        starts = [(n - 1) % stride // 2 for n in stack.shape[1:]]
        levels.append(np.ascontiguousarray(stack[:, starts[0] :: stride, starts[1] :: stride]))
    count = len(queries)
    parameters, flips = np.empty((count, 7)), np.empty((count, 2))
    first = np.arange(count)
    coarse, middle, fine = levels
    _align_pairs(coarse, middle, fine, first, first + count, parameters, flips)
    a, b = parameters[:, 0], parameters[:, 1]
    linear = np.stack([np.stack([a, -b], -1), np.stack([b, a], -1)], 1) * flips[:, None, :]
    return np.concatenate([linear, parameters[:, 2:4, None]], axis=2)
