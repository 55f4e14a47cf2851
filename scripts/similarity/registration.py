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

"""Register training images to generated ones: Gauss-Newton on an image pyramid with several starts, in one kernel."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from .kernels import in_parts, kernel
from .sampling import MARGIN, cells_of
from .smoothing import smoothed

__all__ = ["register", "solve"]


PYRAMID = (4, 2, 1)  # strides, coarse to fine
ITERATIONS = np.array([8, 6, 3])  # no tuple: for each number in one numba compiles once more
START_ANGLES = np.deg2rad([-12.0, 0.0, 12.0])  # capture range at the coarse level is about 10 degrees
FLIPS = np.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
KEPT = 3  # starts that go on to the middle level
SCALE_RANGE = (0.7, 1.4)  # of the map; anything beyond is a run-away fit
ROWS, PIXELS = 19, 384  # of the work space of a pair, which fits the processor's first cache


@kernel(fastmath=True)
def _normal_equations(
    query: NDArray,
    cells: NDArray,
    flip_y: float,
    flip_x: float,
    p: NDArray,
    normal: NDArray,
    gradient: NDArray,
    work: NDArray,
) -> float:
    """Fill the 7 x 7 normal equations of (a, b, ty, tx, gain 0, gain 1, gain 2) at p and return the squared error.

    The reference, by its cells, is sampled at [[a, -b], [b, a]] @ (flip * x) + t; its value w predicts the query as a
    parabola in w. Some rows of pixels at a time: their derivatives and residuals lie in `work` (ROWS, pixels), whose
    dot products are the sums. Each loop but one writes a single row, in which the compiler finds no overlap, and
    vectorises it.
    """
    height, width = query.shape
    flat = cells.reshape(-1)
    stride = np.int32(4 * cells.shape[1])
    sums = np.zeros((8, 8))
    centre_y, centre_x = np.float32((height - 1) / 2), np.float32((width - 1) / 2)
    a, b = np.float32(p[0]), np.float32(p[1])
    gain_0, gain_1, gain_2 = np.float32(p[4]), np.float32(p[5]), np.float32(p[6])
    last_y, last_x = np.float32(height + MARGIN), np.float32(width + MARGIN)
    x, y, values, at_y, at_x, w, slope = work[8], work[9], work[10], work[11], work[12], work[13], work[14]
    one, by_x, by_y, by_both = work[15], work[16], work[17], work[18]  # coefficients of the pixel's cell
    rows = max(1, work.shape[1] // width)
    for first in range(0, height, rows):
        count = min(rows, height - first) * width
        for i in range(first, min(first + rows, height)):
            start = (i - first) * width
            row = (np.float32(i) - centre_y) * np.float32(flip_y)
            row_y = a * row + np.float32(p[2]) + centre_y + np.float32(MARGIN)
            row_x = b * row + np.float32(p[3]) + centre_x + np.float32(MARGIN)
            for j in range(width):
                x[start + j] = (np.float32(j) - centre_x) * np.float32(flip_x)
            for j in range(width):
                y[start + j] = row
            for j in range(width):
                values[start + j] = query[i, j]
            for j in range(width):
                at_y[start + j] = min(max(row_y - b * x[start + j], np.float32(0)), last_y)
            for j in range(width):
                at_x[start + j] = min(max(row_x + a * x[start + j], np.float32(0)), last_x)
        for j in range(count):
            # positions are at least 0; an unsigned index needs no question whether it counts from the end
            k = np.uint64(np.uint32(np.int32(at_y[j]) * stride + np.int32(at_x[j]) * np.int32(4)))
            one[j], by_x[j] = flat[k], flat[k + np.uint64(1)]
            by_y[j], by_both[j] = flat[k + np.uint64(2)], flat[k + np.uint64(3)]
        for j in range(count):
            at_y[j] -= np.float32(np.int32(at_y[j]))
        for j in range(count):
            at_x[j] -= np.float32(np.int32(at_x[j]))
        for j in range(count):
            w[j] = one[j] + by_x[j] * at_x[j] + (by_y[j] + by_both[j] * at_x[j]) * at_y[j]
        for j in range(count):
            # background on background carries no information
            work[4, j] = np.float32(0) if (w[j] == 0) & (values[j] < np.float32(0.02)) else np.float32(1)
        for j in range(count):
            slope[j] = work[4, j] * (gain_1 + np.float32(2) * gain_2 * w[j])
        for j in range(count):
            work[2, j] = slope[j] * (by_y[j] + by_both[j] * at_x[j])
        for j in range(count):
            work[3, j] = slope[j] * (by_x[j] + by_both[j] * at_y[j])
        for j in range(count):
            work[0, j] = work[2, j] * y[j] + work[3, j] * x[j]
        for j in range(count):
            work[1, j] = work[3, j] * y[j] - work[2, j] * x[j]
        for j in range(count):
            work[5, j] = work[4, j] * w[j]
        for j in range(count):
            work[6, j] = work[5, j] * w[j]
        for j in range(count):
            work[7, j] = work[4, j] * (values[j] - gain_0) - gain_1 * work[5, j] - gain_2 * work[6, j]
        for u in range(8):
            for v in range(u, 8):
                total = np.float32(0)
                for j in range(count):
                    total += work[u, j] * work[v, j]
                sums[u, v] += total
    for u in range(7):
        gradient[u] = sums[u, 7]
        for v in range(u, 7):
            normal[u, v] = normal[v, u] = sums[u, v]
    return sums[7, 7]


@functools.cache
def load_first() -> None:
    """Load the inner kernel before those that hold a copy of it.

    Of several copies a process uses the one that it loads first, and the compiler adds up in another order in each: a
    run that compiles would differ from later ones in the seventh digit.
    """
    room = np.zeros((ROWS, PIXELS), np.float32)
    cells = np.zeros((4 + 2 * MARGIN, 4 + 2 * MARGIN, 4), np.float32)
    query, p = np.zeros((4, 4), np.float32), np.zeros(7)
    _normal_equations(query, cells, 1.0, 1.0, p, np.zeros((7, 7)), np.zeros(7), room)


@kernel()
def solve(matrix: NDArray, right: NDArray) -> NDArray:
    """Return x with matrix @ x = right by Cholesky; `matrix` (n, n) is positive definite and is overwritten.

    LAPACK is no choice here: called from several threads, some builds of OpenBLAS start threads of their own for seven
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


@kernel()
def _fit(
    query: NDArray, cells: NDArray, flip_y: float, flip_x: float, p: NDArray, iterations: int, work: NDArray
) -> float:
    """Refine p in place by damped Gauss-Newton, as far as its squared error falls, and return that."""
    normal = np.zeros((7, 7))
    gradient = np.zeros(7)
    best = p.copy()
    lowest = np.inf
    damping = 1e-3
    for _ in range(iterations + 1):
        error = _normal_equations(query, cells, flip_y, flip_x, p, normal, gradient, work)
        scale = np.sqrt(p[0] ** 2 + p[1] ** 2)
        if not np.isfinite(error) or scale < SCALE_RANGE[0] or scale > SCALE_RANGE[1] or error > lowest * 1.5:
            _copy(best, p)
            damping *= 30
            if damping > 1e3 or lowest == np.inf:
                break
            _normal_equations(query, cells, flip_y, flip_x, p, normal, gradient, work)
        elif error < lowest:
            done = error > lowest * 0.9995
            lowest = error
            _copy(p, best)
            if done:
                break
        for u in range(7):
            normal[u, u] += damping * normal[u, u] + 1e-6
        step = solve(normal, gradient)
        for u in range(7):
            p[u] += step[u]
    _copy(best, p)
    return lowest


@kernel()
def _copy(source: NDArray, target: NDArray) -> None:
    """Copy the parameters; an assignment of slices takes a second to compile."""
    for u in range(7):
        target[u] = source[u]


@kernel()
def _repeated(found: NDArray, order: NDArray, taken: int) -> bool:
    """Return whether a better start of the same flip has met the optimum of start order[taken]."""
    s = order[taken]
    for t in order[:taken]:
        near = abs(found[t, 0] - found[s, 0]) < 0.03 and abs(found[t, 1] - found[s, 1]) < 0.03
        if near and t // len(START_ANGLES) == s // len(START_ANGLES):
            return True
    return False


@kernel()
def _align_pairs(
    start: int,
    stop: int,
    coarse: NDArray,
    middle: NDArray,
    fine: NDArray,
    coarse_cells: NDArray,
    middle_cells: NDArray,
    fine_cells: NDArray,
    first: NDArray,
    second: NDArray,
    parameters: NDArray,
    flips: NDArray,
) -> None:
    """Fill the parameters (P, 7) and flips (P, 2) that lay the cells' image second[p] on first[p], coarse to fine."""
    starts = len(FLIPS) * len(START_ANGLES)
    fitted = np.zeros(7)
    for n in range(start, stop):
        i, j = first[n], second[n]
        work = np.empty((ROWS, max(PIXELS, fine.shape[2])), np.float32)
        found = np.zeros((starts, 7))
        errors = np.full(starts, np.inf)
        order = np.zeros(starts, np.int64)  # by their errors; sorted here, as a library's sort takes long to compile
        for s in range(starts):
            angle, flip = START_ANGLES[s % len(START_ANGLES)], FLIPS[s // len(START_ANGLES)]
            found[s, 0], found[s, 1], found[s, 5] = np.cos(angle), np.sin(angle), 1.0
            errors[s] = _fit(coarse[i], coarse_cells[j], flip[0], flip[1], found[s], ITERATIONS[0], work)
            place = s
            while place > 0 and errors[order[place - 1]] > errors[s]:
                order[place] = order[place - 1]
                place -= 1
            order[place] = s
        lowest, best, taken = np.inf, order[0], 0
        for place in range(starts):
            s = order[place]
            if _repeated(found, order, place) or not np.isfinite(errors[s]):
                continue
            flip = FLIPS[s // len(START_ANGLES)]
            _copy(found[s], parameters[n])
            for u in range(2, 4):
                parameters[n, u] *= PYRAMID[0] / PYRAMID[1]
            error = _fit(middle[i], middle_cells[j], flip[0], flip[1], parameters[n], ITERATIONS[1], work)
            if error < lowest:
                lowest, best = error, s
                _copy(parameters[n], fitted)
            taken += 1
            if taken == KEPT:
                break
        flip = FLIPS[best // len(START_ANGLES)]
        _copy(fitted if lowest < np.inf else found[best], parameters[n])
        for u in range(2, 4):
            parameters[n, u] *= PYRAMID[1] / PYRAMID[2]
        _fit(fine[i], fine_cells[j], flip[0], flip[1], parameters[n], ITERATIONS[2], work)
        flips[n, 0], flips[n, 1] = flip[0], flip[1]


@kernel()
def _refine_pairs(
    start: int,
    stop: int,
    middle: NDArray,
    fine: NDArray,
    middle_cells: NDArray,
    fine_cells: NDArray,
    first: NDArray,
    second: NDArray,
    parameters: NDArray,
    flips: NDArray,
) -> None:
    """Refine the parameters (P, 7), at full resolution, that lay image second[p] on first[p] already."""
    for n in range(start, stop):
        i, j = first[n], second[n]
        work = np.empty((ROWS, max(PIXELS, fine.shape[2])), np.float32)
        for u in range(2, 4):
            parameters[n, u] /= PYRAMID[1]
        _fit(middle[i], middle_cells[j], flips[n, 0], flips[n, 1], parameters[n], ITERATIONS[1], work)
        for u in range(2, 4):
            parameters[n, u] *= PYRAMID[1] / PYRAMID[2]
        _fit(fine[i], fine_cells[j], flips[n, 0], flips[n, 1], parameters[n], ITERATIONS[2], work)


def _pyramid(images: NDArray) -> list[NDArray]:
    """Return images (N, H, W) smoothed and thinned by each stride, coarse to fine."""
    levels = []
    for stride in PYRAMID:
        sigma = 0.5 * stride
        stack = smoothed(images, sigma)
        # pixels symmetric about the centre, so that the centre stays the centre at every level
        starts = [(n - 1) % stride // 2 for n in stack.shape[1:]]
        levels.append(np.ascontiguousarray(stack[:, starts[0] :: stride, starts[1] :: stride]))
    return levels


def register(
    queries: NDArray,
    references: NDArray,
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    start: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return the maps (P, 2, 3) from query to reference pixels of `pairs`, rows of queries and of references.

    None: each query with the reference of its own row. Pyramids are built once an image, however many pairs it is in.
    `start` (P, 2, 3) are maps that are nearly right, as those of a neighbouring slice, and are refined alone.
    """
    load_first()
    first, second = pairs or (np.arange(len(queries)),) * 2
    coarse, middle, fine = _pyramid(queries)
    coarse_cells, middle_cells, fine_cells = map(cells_of, _pyramid(references))
    if start is None:
        parameters, flips = np.empty((len(first), 7)), np.empty((len(first), 2))
        stacks = coarse, middle, fine, coarse_cells, middle_cells, fine_cells
        in_parts(_align_pairs, len(first), *stacks, first, second, parameters, flips)
    else:
        flips = np.where(np.linalg.det(start[:, :, :2])[:, None] < 0, FLIPS[2], FLIPS[0])
        parameters = np.zeros((len(first), 7))
        parameters[:, :2], parameters[:, 2:4] = start[:, :, 0], start[:, :, 2]
        parameters[:, 5] = 1  # the gain
        in_parts(_refine_pairs, len(first), middle, fine, middle_cells, fine_cells, first, second, parameters, flips)
    a, b = parameters[:, 0], parameters[:, 1]
    linear = np.stack([np.stack([a, -b], -1), np.stack([b, a], -1)], 1) * flips[:, None, :]
    return np.concatenate([linear, parameters[:, 2:4, None]], axis=2)
