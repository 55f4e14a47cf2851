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

"""The kernels of SSIM on the CPU: window statistics once an image, then sums of products a pair."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .kernels import in_parts, kernel

__all__ = ["K1", "K2", "WINDOW", "ssim_of_pairs", "ssim_of_two"]

K1, K2 = 0.01, 0.03  # Wang et al. 2004, section III-B
WINDOW = 7  # scikit-image's default
_N = np.float32(WINDOW * WINDOW)
_SAMPLE = np.float32(1.0 / (WINDOW * WINDOW - 1))  # sample covariance, as scikit-image
_N3 = WINDOW**3
_COUNT = float(WINDOW * WINDOW)
KEPT = 8  # rows whose quantities are kept; after as many, running sums in float32 begin anew


@kernel(fastmath=True)
def _window_statistics(start: int, stop: int, images: NDArray, mean: NDArray, variance: NDArray) -> None:
    """Fill the mean and sample variance of every 7 x 7 window; (N, H, W) -> (N, H - 6, W - 6).

    Running sums of columns, in float64, as they are subtracted from again; then seven of them along the row.
    """
    height, width = images.shape[1:]
    for n in range(start, stop):
        columns, squares = np.zeros(width), np.zeros(width)
        for i in range(height):
            for j in range(width):
                columns[j] += images[n, i, j]
            for j in range(width):
                squares[j] += np.float64(images[n, i, j]) * images[n, i, j]
            r = i - WINDOW + 1
            if r < 0:
                continue
            for j in range(width - WINDOW + 1):
                total = columns[j] + columns[j + 1] + columns[j + 2] + columns[j + 3]
                total += columns[j + 4] + columns[j + 5] + columns[j + 6]
                square = squares[j] + squares[j + 1] + squares[j + 2] + squares[j + 3]
                square += squares[j + 4] + squares[j + 5] + squares[j + 6]
                mean[n, r, j] = total / _COUNT
                variance[n, r, j] = max(square - total * total / _COUNT, 0.0) / (_COUNT - 1)
            for j in range(width):
                columns[j] -= images[n, r, j]
            for j in range(width):
                squares[j] -= np.float64(images[n, r, j]) * images[n, r, j]


@kernel(fastmath=True)
def _ssim_of_two(start: int, stop: int, x: NDArray, y: NDArray, weight: NDArray, ranges: NDArray, out: NDArray) -> None:
    """Fill (P,) with the mean SSIM of x[p] and y[p], (P, H, W), weighted by (P, H - 6, W - 6).

    For images that stand in one pair: nothing is kept of them. Of a row four quantities lie side by side: x, y,
    x^2 + y^2 and x y, about the images' means. Columns are running sums of seven rows, in float32, which are summed
    anew before their rounding adds up; windows are sums of seven columns, and stand for means: all else has their unit.
    """
    height, width = x.shape[1:]
    rows = np.empty((KEPT, 4 * width), np.float32)
    columns, twos = np.empty(4 * width, np.float32), np.empty(4 * width, np.float32)
    x_sums, y_sums, square_sums, product_sums = columns, columns[width:], columns[2 * width :], columns[3 * width :]
    x_twos, y_twos, square_twos, product_twos = twos, twos[width:], twos[2 * width :], twos[3 * width :]
    for p in range(start, stop):
        own = min(p, weight.shape[0] - 1)
        mean_x, mean_y = _mean(x[p]), _mean(y[p])
        offset_x, offset_y = _N * mean_x, _N * mean_y
        c1, c2 = np.float32((_COUNT * K1 * ranges[p]) ** 2), np.float32(_COUNT * (_COUNT - 1) * (K2 * ranges[p]) ** 2)
        total, weights = 0.0, 0.0
        for i in range(height):
            row = rows[i % KEPT]
            from_x, from_y, squares, products = row, row[width:], row[2 * width :], row[3 * width :]
            for j in range(width):
                from_x[j] = x[p, i, j] - mean_x
            for j in range(width):
                from_y[j] = y[p, i, j] - mean_y
            for j in range(width):
                squares[j] = from_x[j] * from_x[j] + from_y[j] * from_y[j]
            for j in range(width):
                products[j] = from_x[j] * from_y[j]
            r = i - WINDOW + 1
            if r < 0:
                continue
            if r % KEPT == 0:
                columns[:] = 0
                for k in range(r, i + 1):
                    one = rows[k % KEPT]
                    for j in range(4 * width):
                        columns[j] += one[j]
            else:
                gone = rows[(r - 1) % KEPT]
                for j in range(4 * width):
                    columns[j] += row[j] - gone[j]
            for j in range(4 * width - 1):
                twos[j] = columns[j] + columns[j + 1]
            row_weights, row_total, row_weight = weight[own, r], np.float32(0), np.float32(0)
            for j in range(width - WINDOW + 1):
                a = x_twos[j] + x_twos[j + 2] + x_twos[j + 4] + x_sums[j + 6]
                b = y_twos[j] + y_twos[j + 2] + y_twos[j + 4] + y_sums[j + 6]
                square = square_twos[j] + square_twos[j + 2] + square_twos[j + 4] + square_sums[j + 6]
                product = product_twos[j] + product_twos[j + 2] + product_twos[j + 4] + product_sums[j + 6]
                spread = _N * square - (a * a + b * b)
                covariance = _N * product - a * b
                a += offset_x
                b += offset_y
                numerator = (np.float32(2) * a * b + c1) * (np.float32(2) * covariance + c2)
                denominator = (a * a + b * b + c1) * (spread + c2)
                row_total += row_weights[j] * (numerator / denominator)
                row_weight += row_weights[j]
            total += float(row_total)
            weights += float(row_weight)
        out[p] = total / weights if weights > 0 else np.nan


@kernel(fastmath=True)
def _mean(image: NDArray) -> np.float32:
    """Return the mean of an image (H, W), its rows' sums added in float64."""
    total = 0.0
    for i in range(image.shape[0]):
        row = np.float32(0)
        for j in range(image.shape[1]):
            row += image[i, j]
        total += float(row)
    return np.float32(total / image.size)


@kernel(fastmath=True)
def _mean_ssim(
    x: NDArray,
    y: NDArray,
    mean_x: NDArray,
    mean_y: NDArray,
    var_x: NDArray,
    var_y: NDArray,
    weight_x: NDArray,
    weight_y: NDArray,
    offset_x: np.float32,
    offset_y: np.float32,
    data_range: np.float32,
) -> float:
    """Mean SSIM of two images from which their means `offset_*` were taken, and their window statistics.

    Only the window sums of the products are left to compute: running column sums, then seven adds along the row.
    """
    height, width = x.shape
    c1 = np.float32((K1 * data_range) ** 2)
    c2 = np.float32((K2 * data_range) ** 2)
    columns = np.zeros(width, np.float32)
    total = np.float64(0)
    weights = np.float64(0)
    for i in range(height):
        for j in range(width):
            columns[j] += x[i, j] * y[i, j]
        r = i - WINDOW + 1
        if r < 0:
            continue
        row = np.float32(0)
        row_weight = np.float32(0)
        for j in range(width - WINDOW + 1):
            products = columns[j] + columns[j + 1] + columns[j + 2] + columns[j + 3]
            products += columns[j + 4] + columns[j + 5] + columns[j + 6]
            a, b = mean_x[r, j], mean_y[r, j]
            covariance = (products - _N * a * b) * _SAMPLE
            a += offset_x
            b += offset_y
            numerator = (np.float32(2) * a * b + c1) * (np.float32(2) * covariance + c2)
            denominator = (a * a + b * b + c1) * (var_x[r, j] + var_y[r, j] + c2)
            w = max(weight_x[r, j], weight_y[r, j])
            row += w * numerator / denominator
            row_weight += w
        total += row
        weights += row_weight
        for j in range(width):
            columns[j] -= x[r, j] * y[r, j]
    return total / weights if weights > 0 else np.nan


@kernel(fastmath=True)
def _ssim_of_pairs(
    start: int,
    stop: int,
    images: NDArray,
    mean: NDArray,
    variance: NDArray,
    weight: NDArray,
    offset: NDArray,
    first: NDArray,
    second: NDArray,
    ranges: NDArray,
    out: NDArray,
) -> None:
    """Fill (P,) with the mean SSIM of images[first[p]] and images[second[p]], from their window statistics."""
    for p in range(start, stop):
        i, j = first[p], second[p]
        out[p] = _mean_ssim(
            images[i],
            images[j],
            mean[i],
            mean[j],
            variance[i],
            variance[j],
            weight[i],
            weight[j],
            offset[i],
            offset[j],
            ranges[p],
        )


@kernel(fastmath=True)
def _window_sums(x: NDArray, y: NDArray, out: NDArray) -> None:
    """Fill (D - 6, H - 6, W - 6) with the sums of x * y, (D, H, W), over every 7 x 7 x 7 window.

    Running sums along two axes, seven adds along the third; in float64, as they are subtracted from again.
    """
    depth, height, width = x.shape
    plane = np.zeros((height, width))
    for z in range(depth):
        for i in range(height):
            for j in range(width):
                plane[i, j] += x[z, i, j] * y[z, i, j]
        top = z - WINDOW + 1
        if top < 0:
            continue
        columns = np.zeros(width)
        for i in range(height):
            for j in range(width):
                columns[j] += plane[i, j]
            row = i - WINDOW + 1
            if row < 0:
                continue
            for j in range(width - WINDOW + 1):
                products = columns[j] + columns[j + 1] + columns[j + 2] + columns[j + 3]
                out[top, row, j] = products + columns[j + 4] + columns[j + 5] + columns[j + 6]
            for j in range(width):
                columns[j] -= plane[row, j]
        for i in range(height):
            for j in range(width):
                plane[i, j] -= x[top, i, j] * y[top, i, j]


@kernel(fastmath=True)
def _volume_statistics(start: int, stop: int, volumes: NDArray, mean: NDArray, variance: NDArray) -> None:
    """Fill the mean and sample variance of every 7 x 7 x 7 window; (N, D, H, W) -> (N, D - 6, H - 6, W - 6)."""
    for n in range(start, stop):
        sums: NDArray = np.empty(mean.shape[1:])
        _window_sums(volumes[n], np.ones_like(volumes[n]), sums)
        squares = np.empty_like(sums)
        _window_sums(volumes[n], volumes[n], squares)
        for i in range(sums.shape[0]):
            for j in range(sums.shape[1]):
                for k in range(sums.shape[2]):
                    mean[n, i, j, k] = sums[i, j, k] / _N3
                    spread = squares[i, j, k] - sums[i, j, k] * sums[i, j, k] / _N3
                    variance[n, i, j, k] = max(spread, 0.0) / (_N3 - 1)


@kernel(fastmath=True)
def _ssim_of_volumes(
    start: int,
    stop: int,
    volumes: NDArray,
    mean: NDArray,
    variance: NDArray,
    weight: NDArray,
    offset: NDArray,
    first: NDArray,
    second: NDArray,
    ranges: NDArray,
    out: NDArray,
) -> None:
    """Fill (P,) with the mean SSIM of volumes[first[p]] and volumes[second[p]], from their window statistics."""
    for p in range(start, stop):
        x, y = first[p], second[p]
        sums: NDArray = np.empty(mean.shape[1:])
        _window_sums(volumes[x], volumes[y], sums)
        c1 = (K1 * ranges[p]) ** 2
        c2 = (K2 * ranges[p]) ** 2
        total = 0.0
        weights = 0.0
        for i in range(sums.shape[0]):
            for j in range(sums.shape[1]):
                for k in range(sums.shape[2]):
                    a, b = mean[x, i, j, k], mean[y, i, j, k]
                    covariance = (sums[i, j, k] - _N3 * np.float64(a) * np.float64(b)) / (_N3 - 1)
                    a += offset[x]
                    b += offset[y]
                    numerator = (2 * a * b + c1) * (2 * covariance + c2)
                    denominator = (a * a + b * b + c1) * (variance[x, i, j, k] + variance[y, i, j, k] + c2)
                    w = max(weight[x, i, j, k], weight[y, i, j, k])
                    total += w * numerator / denominator
                    weights += w
        out[p] = total / weights if weights > 0 else np.nan


def ssim_of_pairs(
    images: NDArray, weight: NDArray, first: NDArray, second: NDArray, ranges: NDArray
) -> NDArray[np.float32]:
    """Return the SSIM of images[first[p]] and images[second[p]], (P,).

    Args:
        images: (N, H, W) or (N, D, H, W), each side at least 7.
        weight: of their windows, (N, H - 6, W - 6) or (N, D - 6, H - 6, W - 6).
        first, second: (P,) row numbers.
        ranges: (P,) dynamic range of each pair.
    """
    images = np.ascontiguousarray(images, np.float32)
    # centring keeps the float32 sums of products small; SSIM's mean term gets the offset back
    axes = tuple(range(1, images.ndim))
    offset = images.mean(axis=axes, dtype=np.float64).astype(np.float32)
    centred = images - np.expand_dims(offset, axes)
    mean = np.empty((len(images), *(side - WINDOW + 1 for side in images.shape[1:])), np.float32)
    variance = np.empty_like(mean)
    statistics, of_pairs = (
        (_window_statistics, _ssim_of_pairs) if images.ndim == 3 else (_volume_statistics, _ssim_of_volumes)
    )
    in_parts(statistics, len(images), centred, mean, variance)
    out = np.empty(len(first), np.float64)
    ranges = np.asarray(ranges, np.float32)
    in_parts(of_pairs, len(first), centred, mean, variance, weight, offset, first, second, ranges, out)
    return out.astype(np.float32)


def ssim_of_two(x: NDArray, y: NDArray, weight: NDArray, ranges: NDArray) -> NDArray[np.float32]:
    """Return the SSIM of x[p] and y[p], (P,), for planar images that stand in one pair each.

    Args:
        x, y: (P, H, W), each side at least 7.
        weight: of their windows, (P, H - 6, W - 6), or (1, H - 6, W - 6) for all pairs.
        ranges: (P,) dynamic range of each pair.
    """
    x, y, weight = (np.ascontiguousarray(a, np.float32) for a in (x, y, weight))
    out = np.empty(len(x), np.float64)
    in_parts(_ssim_of_two, len(x), x, y, weight, np.asarray(ranges, np.float32), out)
    return out.astype(np.float32)
