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

"""Structural similarity (SSIM) of many image pairs at once, on the CPU (numba) or a GPU (torch).

All functions implement Wang et al. 2004, eq. 13, with a 7 x 7 uniform window and the sample covariance, as
``skimage.metrics.structural_similarity`` does by default, and differ only in the dynamic range and in where the SSIM
map is averaged (:class:`SSIMForm`).
"""

from __future__ import annotations

from enum import StrEnum

import numba
import numpy as np
import torch
import torch.nn.functional as F

__all__ = ["SSIMForm", "ssim_cross", "ssim_matrix", "ssim_pairs"]


K1, K2 = 0.01, 0.03  # Wang et al. 2004, section III-B
WINDOW = 7  # scikit-image's default
_N = np.float32(WINDOW * WINDOW)
_SAMPLE = np.float32(1.0 / (WINDOW * WINDOW - 1))  # sample covariance, as scikit-image


class SSIMForm(StrEnum):
    """Which dynamic range is used, and where the SSIM map is averaged.

    - ``published``: the range of the *first* image of a pair, all windows; asymmetric, as the DeepSSIM authors' code.
    - ``symmetric``: the larger of the two ranges, all windows.
    - ``foreground``: as ``symmetric``, averaged over windows whose centre is foreground in at least one image.
      Background inflates the other two: unrelated images in one outline reach 0.73 at 35 % foreground.
    """

    PUBLISHED = "published"
    SYMMETRIC = "symmetric"
    FOREGROUND = "foreground"


@numba.njit(cache=True, fastmath=True, error_model="numpy", parallel=True)
def _window_statistics(images, mean, variance):
    """Fill the mean and sample variance of every 7 x 7 window; (N, H, W) -> (N, H - 6, W - 6)."""
    count, height, width = images.shape
    for n in numba.prange(count):
        for i in range(height - WINDOW + 1):
            for j in range(width - WINDOW + 1):
                total = np.float32(0)
                for a in range(WINDOW):
                    for b in range(WINDOW):
                        total += images[n, i + a, j + b]
                m = total / _N
                square = np.float32(0)
                for a in range(WINDOW):
                    for b in range(WINDOW):
                        d = images[n, i + a, j + b] - m
                        square += d * d
                mean[n, i, j] = m
                variance[n, i, j] = square * _SAMPLE


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _mean_ssim(x, y, mean_x, mean_y, var_x, var_y, weight_x, weight_y, offset_x, offset_y, data_range):
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


@numba.njit(cache=True, fastmath=True, error_model="numpy", parallel=True)
def _ssim_of_pairs(images, mean, variance, weight, offset, first, second, ranges, out):
    for p in numba.prange(first.shape[0]):
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


def _pairs_numba(images, weight, first, second, ranges):
    images = np.ascontiguousarray(images, np.float32)
    count, height, width = images.shape
    # centring keeps the float32 sums of products small; SSIM's mean term gets the offset back
    offset = images.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)
    centred = images - offset[:, None, None]
    mean = np.empty((count, height - WINDOW + 1, width - WINDOW + 1), np.float32)
    variance = np.empty_like(mean)
    _window_statistics(centred, mean, variance)
    out = np.empty(len(first), np.float64)
    _ssim_of_pairs(centred, mean, variance, weight, offset, first, second, np.asarray(ranges, np.float32), out)
    return out.astype(np.float32)


def _pairs_torch(images: torch.Tensor, weight, first, second, ranges, block: int = 512) -> torch.Tensor:
    """The same on the tensor's device; two or three spatial dimensions."""
    images = images.float()
    dims = images.ndim - 1
    axes = tuple(range(1, dims + 1))
    pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[dims]
    count = WINDOW**dims
    offset = images.mean(axes, keepdim=True)
    centred = images - offset
    mean = pool(centred[:, None], WINDOW, 1)[:, 0]
    variance = (pool(centred[:, None] ** 2, WINDOW, 1)[:, 0] - mean**2) * (count / (count - 1))
    parts = []
    for p in range(0, len(first), block):
        i, j = first[p : p + block], second[p : p + block]
        data_range = ranges[p : p + block].view(-1, *[1] * dims)
        c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
        product = pool((centred[i] * centred[j])[:, None], WINDOW, 1)[:, 0]
        covariance = (product - mean[i] * mean[j]) * (count / (count - 1))
        a, b = mean[i] + offset[i], mean[j] + offset[j]
        ssim = (2 * a * b + c1) * (2 * covariance + c2) / ((a * a + b * b + c1) * (variance[i] + variance[j] + c2))
        w = torch.maximum(weight[i], weight[j])
        parts.append((ssim * w).sum(axes) / w.sum(axes))
    return torch.cat(parts) if parts else images.new_empty(0)


def _spatial(images, name: str):
    """(N, 1, ...) or (N, ...) -> (N, ...) with two or three spatial axes, each at least one window long."""
    if images.ndim in (4, 5) and images.shape[1] == 1:
        images = images[:, 0]
    if images.ndim not in (3, 4) or min(images.shape[1:]) < WINDOW:
        raise ValueError(
            f"{name} must have shape (N, H, W), (N, 1, H, W) or (N, 1, H, W, D), each side at least {WINDOW}, "
            f"got {tuple(images.shape)}"
        )
    return images


def _ssim(images, first, second, form, data_range, foreground):
    """SSIM of images[first[p]] and images[second[p]]; numpy and CPU tensors go through numba."""
    form = SSIMForm(form)
    tensor = torch.as_tensor(images)
    flat = tensor.flatten(1).float()
    spans = flat.amax(1) - flat.amin(1)
    if data_range is not None:
        if data_range <= 0:
            raise ValueError(f"data_range must be positive, got {data_range}")
        ranges = torch.full((len(first),), float(data_range), device=tensor.device)
    else:
        ranges = spans[first] if form is SSIMForm.PUBLISHED else torch.maximum(spans[first], spans[second])
        # a constant image has no range; any positive one keeps SSIM defined and makes equal constants score 1
        ranges = torch.where(ranges > 0, ranges, torch.ones_like(ranges))
    half = WINDOW // 2
    centre = (slice(None), *[slice(half, -half)] * (tensor.ndim - 1))
    if form is SSIMForm.FOREGROUND:
        if foreground is None:
            raise ValueError("the foreground form needs a foreground mask of the images' shape, got None")
        weight = torch.as_tensor(foreground, device=tensor.device)
        if weight.shape != tensor.shape:
            raise ValueError(f"foreground must have the images' shape {tuple(tensor.shape)}, got {tuple(weight.shape)}")
        weight = weight[centre].float().contiguous()
        # a pair without foreground is compared over the whole image rather than nowhere
        empty = torch.maximum(weight.flatten(1).amax(1)[first], weight.flatten(1).amax(1)[second]) == 0
    else:
        weight = torch.ones_like(tensor[centre], dtype=torch.float32)
        empty = torch.zeros(len(first), dtype=torch.bool, device=tensor.device)
    if tensor.is_cuda or tensor.ndim == 4:
        out = _pairs_torch(tensor, weight, first, second, ranges)
    else:
        arrays = [a.numpy() for a in (weight, first, second, ranges)]
        out = torch.from_numpy(_pairs_numba(tensor.numpy(), *arrays))
    if empty.any():
        out[empty] = _ssim(tensor, first[empty], second[empty], SSIMForm.SYMMETRIC, data_range, None)
    return out


def ssim_pairs(x, y, *, form="symmetric", data_range=None, foreground_x=None, foreground_y=None):
    """Return the SSIM of x[p] and y[p] for every p, shape (P,), float32, in [-1, 1].

    Args:
        x, y: images of shape (P, H, W), (P, 1, H, W) or (P, 1, H, W, D); arrays or tensors. CPU images of two spatial
            dimensions use the numba kernel, all else torch.
        form: an :class:`SSIMForm` or its name.
        data_range: dynamic range of the images; None takes it from each pair as `form` says.
        foreground_x, foreground_y: masks of the images' shape, needed by the foreground form.

    Raises:
        ValueError: if shapes differ, a side is shorter than the window, or the foreground form lacks its masks.

    Source: Wang et al., IEEE TIP 13(4), 2004, eq. 13; 7 x 7 uniform window, sample covariance.
    """
    array = isinstance(x, np.ndarray)
    x, y = _spatial(torch.as_tensor(x), "x"), _spatial(torch.as_tensor(y), "y")
    if x.shape != y.shape:
        raise ValueError(f"x and y must have one shape, got {tuple(x.shape)} and {tuple(y.shape)}")
    foreground = None
    if foreground_x is not None and foreground_y is not None:
        masks = [_spatial(torch.as_tensor(m), "foreground") for m in (foreground_x, foreground_y)]
        foreground = torch.cat(masks)
    index = torch.arange(len(x), device=x.device)
    out = _ssim(torch.cat([x, y]), index, index + len(x), form, data_range, foreground)
    return out.numpy() if array else out


def ssim_cross(x, y, *, form="symmetric", data_range=None, foreground_x=None, foreground_y=None):
    """Return the SSIM of every x with every y, shape (X, Y), float32, in [-1, 1].

    Window statistics are computed once an image. Cost and memory grow with X x Y pairs, at 24 bytes each beside the
    images; pass x in blocks where that is too much. Arguments and errors as :func:`ssim_pairs`, but for the counts.
    """
    array = isinstance(x, np.ndarray)
    x, y = _spatial(torch.as_tensor(x), "x"), _spatial(torch.as_tensor(y), "y")
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"x and y must have images of one shape, got {tuple(x.shape[1:])} and {tuple(y.shape[1:])}")
    foreground = None
    if foreground_x is not None and foreground_y is not None:
        foreground = torch.cat([_spatial(torch.as_tensor(m), "foreground") for m in (foreground_x, foreground_y)])
    first = torch.arange(len(x), device=x.device).repeat_interleave(len(y))
    second = len(x) + torch.arange(len(y), device=x.device).repeat(len(x))
    out = _ssim(torch.cat([x, y]), first, second, form, data_range, foreground).view(len(x), len(y))
    return out.numpy() if array else out


def ssim_matrix(x, *, form="symmetric", data_range=None, foreground=None):
    """Return the SSIM of every two images of a batch, shape (N, N), float32, in [-1, 1].

    Symmetric with a unit diagonal; the published form is not symmetric (row = the image whose range is used). Cost
    grows with N (N - 1) / 2 pairs. Arguments and errors as :func:`ssim_pairs`.
    """
    array = isinstance(x, np.ndarray)
    x = _spatial(torch.as_tensor(x), "x")
    if foreground is not None:
        foreground = _spatial(torch.as_tensor(foreground), "foreground")
    first, second = torch.triu_indices(len(x), len(x), offset=1, device=x.device)
    out = torch.eye(len(x), device=x.device)
    out[first, second] = _ssim(x, first, second, form, data_range, foreground)
    if SSIMForm(form) is SSIMForm.PUBLISHED and data_range is None:
        out[second, first] = _ssim(x, second, first, form, data_range, foreground)
    else:
        out[second, first] = out[first, second]
    return out.numpy() if array else out
