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
from typing import TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from .ssim_kernels import K1, K2, WINDOW, ssim_of_pairs, ssim_of_two

__all__ = ["SSIMForm", "ssim_cross", "ssim_matrix", "ssim_pairs"]

Images = TypeVar("Images", bound=NDArray | torch.Tensor)  # what comes back is of the kind that came


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


def _pairs_torch(
    images: torch.Tensor,
    weight: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    ranges: torch.Tensor,
    block: int = 512,
) -> torch.Tensor:
    """The same on the tensor's device; two or three spatial dimensions."""
    images = images.float()
    dims = images.ndim - 1
    axes = tuple(range(1, dims + 1))
    count = WINDOW**dims
    offset = images.mean(axes, keepdim=True)
    centred = images - offset
    mean = _window_means(centred)
    variance = (_window_means(centred**2) - mean**2) * (count / (count - 1))
    parts = []
    for p in range(0, len(first), block):
        i, j = first[p : p + block], second[p : p + block]
        data_range = ranges[p : p + block].view(-1, *[1] * dims)
        c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
        product = _window_means(centred[i] * centred[j])
        covariance = (product - mean[i] * mean[j]) * (count / (count - 1))
        a, b = mean[i] + offset[i], mean[j] + offset[j]
        ssim = (2 * a * b + c1) * (2 * covariance + c2) / ((a * a + b * b + c1) * (variance[i] + variance[j] + c2))
        w = torch.maximum(weight[i], weight[j])
        parts.append((ssim * w).sum(axes) / w.sum(axes))
    return torch.cat(parts) if parts else images.new_empty(0)


def _window_means(images: torch.Tensor) -> torch.Tensor:
    """Return the mean of every window of (N, H, W) or (N, D, H, W), one axis after the other."""
    dims = images.ndim - 1
    pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[dims]
    pooled = images[:, None]
    for axis in range(dims):
        pooled = pool(pooled, [WINDOW if d == axis else 1 for d in range(dims)], 1)
    return pooled[:, 0]


def _spatial(images: torch.Tensor, name: str) -> torch.Tensor:
    """(N, 1, ...) or (N, ...) -> (N, ...) with two or three spatial axes, each at least one window long."""
    if images.ndim in (4, 5) and images.shape[1] == 1:
        images = images[:, 0]
    if images.ndim not in (3, 4) or min(images.shape[1:]) < WINDOW:
        raise ValueError(
            f"{name} must have shape (N, H, W), (N, 1, H, W) or (N, 1, H, W, D), each side at least {WINDOW}, "
            f"got {tuple(images.shape)}"
        )
    return images


def _ssim(
    tensor: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    form: SSIMForm,
    data_range: float | None,
    foreground: torch.Tensor | None,
) -> torch.Tensor:
    """Return the SSIM of images[first[p]] and images[second[p]]; on the CPU by numba, else by torch."""
    if data_range is None:
        spans = _spans(tensor)
        ranges = _ranges(spans[first], spans[second], form)
    else:
        ranges = _given(data_range, first)
    if form is SSIMForm.FOREGROUND:
        weight = _weight(foreground, tensor)
        # a pair without foreground is compared over the whole image rather than nowhere
        empty = torch.maximum(weight.flatten(1).amax(1)[first], weight.flatten(1).amax(1)[second]) == 0
    else:
        weight = torch.ones_like(_centres(tensor), dtype=torch.float32)
        empty = torch.zeros(len(first), dtype=torch.bool, device=tensor.device)
    if tensor.is_cuda:
        out = _pairs_torch(tensor, weight, first, second, ranges)
    else:
        arrays = [a.numpy() for a in (weight, first, second, ranges)]
        out = torch.from_numpy(ssim_of_pairs(tensor.numpy(), *arrays))
    if empty.any():
        out[empty] = _ssim(tensor, first[empty], second[empty], SSIMForm.SYMMETRIC, data_range, None)
    return out


def _of_two(
    x: torch.Tensor,
    y: torch.Tensor,
    form: SSIMForm,
    data_range: float | None,
    foreground: tuple[torch.Tensor, torch.Tensor] | None,
) -> torch.Tensor:
    """Return the SSIM of x[p] and y[p], planar and on the CPU: as :func:`_ssim` of images that stand in one pair."""
    ranges = _ranges(_spans(x), _spans(y), form) if data_range is None else _given(data_range, x)
    if form is SSIMForm.FOREGROUND:
        masks = foreground or (None, None)
        weight = torch.maximum(_weight(masks[0], x), _weight(masks[1], y))
        empty = weight.flatten(1).amax(1) == 0  # a pair without foreground is compared over the whole image
        weight[empty] = 1
    else:
        weight = torch.ones_like(_centres(x[:1]), dtype=torch.float32)
    return torch.from_numpy(ssim_of_two(x.numpy(), y.numpy(), weight.numpy(), ranges.numpy()))


def _spans(images: torch.Tensor) -> torch.Tensor:
    flat = images.flatten(1).float()
    return flat.amax(1) - flat.amin(1)


def _ranges(first: torch.Tensor, second: torch.Tensor, form: SSIMForm) -> torch.Tensor:
    """Return the dynamic range of each pair (P,), from the spans of its images."""
    ranges = first if form is SSIMForm.PUBLISHED else torch.maximum(first, second)
    # a constant image has no range; any positive one keeps SSIM defined and makes equal constants score 1
    return torch.where(ranges > 0, ranges, torch.ones_like(ranges))


def _given(data_range: float, pairs: torch.Tensor) -> torch.Tensor:
    """Return the range that is given, for each of the pairs (P, ...)."""
    if data_range <= 0:
        raise ValueError(f"data_range must be positive, got {data_range}")
    return torch.full((len(pairs),), float(data_range), device=pairs.device)


def _weight(foreground: torch.Tensor | None, images: torch.Tensor) -> torch.Tensor:
    """Return which windows count, 0 or 1: those whose centre is foreground."""
    if foreground is None:
        raise ValueError("the foreground form needs a foreground mask of the images' shape, got None")
    weight = torch.as_tensor(foreground, device=images.device)
    if weight.shape != images.shape:
        raise ValueError(f"foreground must have the images' shape {tuple(images.shape)}, got {tuple(weight.shape)}")
    return _centres(weight).float().contiguous()


def _centres(images: torch.Tensor) -> torch.Tensor:
    """Return the pixels that are centres of whole windows."""
    half = WINDOW // 2
    return images[(slice(None), *[slice(half, -half)] * (images.ndim - 1))]


def _like(images: Images, values: torch.Tensor) -> Images:
    return cast(Images, values.numpy() if isinstance(images, np.ndarray) else values)


def ssim_pairs(
    x: Images,
    y: Images,
    *,
    form: SSIMForm | str = "symmetric",
    data_range: float | None = None,
    foreground_x: Images | None = None,
    foreground_y: Images | None = None,
) -> Images:
    """Return the SSIM of x[p] and y[p] for every p, shape (P,), float32, in [-1, 1].

    Args:
        x, y: images of shape (P, H, W), (P, 1, H, W) or (P, 1, H, W, D); arrays or tensors, on the CPU or a GPU.
        form: an :class:`SSIMForm` or its name.
        data_range: dynamic range of the images; None takes it from each pair as `form` says.
        foreground_x, foreground_y: masks of the images' shape, needed by the foreground form.

    Raises:
        ValueError: if shapes differ, a side is shorter than the window, or the foreground form lacks its masks.

    Source: Wang et al., IEEE TIP 13(4), 2004, eq. 13; 7 x 7 uniform window, sample covariance.
    """
    a, b = _spatial(torch.as_tensor(x), "x"), _spatial(torch.as_tensor(y), "y")
    if a.shape != b.shape:
        raise ValueError(f"x and y must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    masks = _both(foreground_x, foreground_y)
    if a.ndim == 3 and not a.is_cuda:
        return _like(x, _of_two(a, b, SSIMForm(form), data_range, masks))
    index = torch.arange(len(a), device=a.device)
    both = None if masks is None else torch.cat(masks)
    return _like(x, _ssim(torch.cat([a, b]), index, index + len(a), SSIMForm(form), data_range, both))


def _both(
    first: NDArray | torch.Tensor | None, second: NDArray | torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return the foregrounds of two sets, None unless both are given."""
    if first is None or second is None:
        return None
    return _spatial(torch.as_tensor(first), "foreground"), _spatial(torch.as_tensor(second), "foreground")


def ssim_cross(
    x: Images,
    y: Images,
    *,
    form: SSIMForm | str = "symmetric",
    data_range: float | None = None,
    foreground_x: Images | None = None,
    foreground_y: Images | None = None,
) -> Images:
    """Return the SSIM of every x with every y, shape (X, Y), float32, in [-1, 1].

    Window statistics are computed once an image. Cost and memory grow with X x Y pairs, at 24 bytes each beside the
    images; pass x in blocks where that is too much. Arguments and errors as :func:`ssim_pairs`, but for the counts.
    """
    a, b = _spatial(torch.as_tensor(x), "x"), _spatial(torch.as_tensor(y), "y")
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"x and y must have images of one shape, got {tuple(a.shape[1:])} and {tuple(b.shape[1:])}")
    first = torch.arange(len(a), device=a.device).repeat_interleave(len(b))
    second = len(a) + torch.arange(len(b), device=a.device).repeat(len(a))
    masks = _both(foreground_x, foreground_y)
    both = None if masks is None else torch.cat(masks)
    out = _ssim(torch.cat([a, b]), first, second, SSIMForm(form), data_range, both)
    return _like(x, out.view(len(a), len(b)))


def ssim_matrix(
    x: Images, *, form: SSIMForm | str = "symmetric", data_range: float | None = None, foreground: Images | None = None
) -> Images:
    """Return the SSIM of every two images of a batch, shape (N, N), float32, in [-1, 1].

    Symmetric with a unit diagonal; the published form is not symmetric (row = the image whose range is used). Cost
    grows with N (N - 1) / 2 pairs. Arguments and errors as :func:`ssim_pairs`.
    """
    form = SSIMForm(form)
    images = _spatial(torch.as_tensor(x), "x")
    mask = None if foreground is None else _spatial(torch.as_tensor(foreground), "foreground")
    first, second = torch.triu_indices(len(images), len(images), offset=1, device=images.device)
    out = torch.eye(len(images), device=images.device)
    out[first, second] = _ssim(images, first, second, form, data_range, mask)
    if form is SSIMForm.PUBLISHED and data_range is None:
        out[second, first] = _ssim(images, second, first, form, data_range, mask)
    else:
        out[second, first] = out[first, second]
    return _like(x, out)
