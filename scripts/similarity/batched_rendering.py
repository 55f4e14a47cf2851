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

"""Align and render many pairs of images at once by torch, as :class:`.verification.Verifier` does, for a GPU."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..images.foreground import foreground
from .batched_deformation import deform
from .batched_registration import Cells, register, smoothed
from .rendering import GAIN_BINS, LEAST_CONTRAST, MOST_SHADING, SHRINKAGE
from .sampling import MARGIN

__all__ = ["Laid", "bent", "fit_gains", "lay", "render", "resample"]

Pairs = tuple[torch.Tensor, torch.Tensor]  # rows of queries, and of references


def resample(images: torch.Tensor, rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Return images[rows] (P, H, W) at the positions that maps (P, 2, 3) of :func:`register` give, bilinear, 0 outside.

    `images` are (R, H, W).
    """
    height, width = images.shape[1:]
    centre = torch.tensor([(height - 1) / 2, (width - 1) / 2], dtype=matrix.dtype, device=images.device)
    place = torch.arange(height * width, device=images.device)
    grid = torch.stack(
        [place // width - centre[0], place % width - centre[1], torch.ones_like(centre[0]).expand(len(place))]
    )
    # in the maps' float64, as the kernel; beyond the margin there is nothing
    position = matrix @ grid.to(matrix.dtype) + centre[:, None] + MARGIN
    at_y = position[:, 0].clamp(0, height + MARGIN).float()
    at_x = position[:, 1].clamp(0, width + MARGIN).float()
    return Cells.of(images).at(rows, at_y, at_x)[0].view(-1, height, width)


def fit_gains(queries: torch.Tensor, images: torch.Tensor, union: torch.Tensor, shading: bool = False) -> torch.Tensor:
    """Return images (P, H, W) on their queries' contrast where `union` is set, as :func:`.rendering.fit_gains`."""
    mapped, flattened = _fit_gains(queries, images, union)
    if shading:
        mapped = _fit_gains(queries, _shaded(queries, mapped, union), union)[0]
    return torch.where(flattened[:, None, None], images, mapped)


def _shaded(queries: torch.Tensor, images: torch.Tensor, union: torch.Tensor) -> torch.Tensor:
    """Return images (P, H, W) on their queries' shading where `union` is set."""
    y, x = (torch.linspace(-1, 1, side, dtype=torch.float64, device=images.device) for side in images.shape[1:])
    y, x = y[:, None], x[None, :]
    places = torch.stack([a.expand(images.shape[1:]) for a in (x, y, x * x, x * y, y * y)]).flatten(1)  # (5, pixels)
    seen = torch.where(union, images, 0).flatten(1).double()
    terms = places * seen[:, None]  # (P, 5, pixels)
    power = (seen * seen).sum(1)
    equations = terms @ terms.transpose(1, 2)
    # where nothing is seen, nothing is changed
    equations.diagonal(0, 1, 2).add_(torch.where(power > 0, SHRINKAGE * power, 1)[:, None])
    right = (terms * (torch.where(union, queries, 0).flatten(1) - seen)[:, None]).sum(2)
    factor = 1 + torch.linalg.solve(equations, right) @ places
    factor = factor.clamp(1 / MOST_SHADING, MOST_SHADING).float().view_as(images)
    return torch.where(union, images * factor, images)


def _fit_gains(queries: torch.Tensor, images: torch.Tensor, union: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (P, H, W) by the map, and which (P,) it flattens: it explains nothing, and is not to be used."""
    weight, flat = union.flatten(1), images.flatten(1)
    centres, means = _pools(queries.flatten(1), flat, weight)
    position = flat * GAIN_BINS - 0.5
    last = centres.isfinite().sum(1, keepdim=True) - 1  # of the pools
    after = torch.searchsorted(centres, position).minimum(last).clamp(min=0)
    before = (after - 1).clamp(min=0)
    low, high = centres.gather(1, before), centres.gather(1, after)
    share = ((position - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    first, second = means.gather(1, before), means.gather(1, after)
    mapped = torch.where(weight & (last >= 0), first + share * (second - first), flat)
    flattened = _spread(mapped, weight) < LEAST_CONTRAST * _spread(flat, weight)
    return mapped.view_as(images), flattened


def _pools(queries: torch.Tensor, images: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the centres, ascending and then infinite, and means (P, bins) of the pools of the non-decreasing map.

    The mean query value of each bin of image intensity, where adjacent violators are pooled: the largest, over all
    beginnings, of the least mean of the bins from there to any end (Robertson, Wright and Dykstra 1988, theorem 1.4.4).
    """
    bins = (images * GAIN_BINS).long().clamp_(0, GAIN_BINS - 1)
    zero = torch.zeros(len(queries), GAIN_BINS, dtype=torch.float64, device=queries.device)
    total = zero.scatter_add(1, bins, torch.where(weight, queries, 0).double())
    count = zero.scatter_add(1, bins, weight.double())
    known = count > 0
    ends = [torch.nn.functional.pad(a.cumsum(1), [1, 0]) for a in (total, count)]
    sums, counts = (a[:, None, 1:] - a[:, :-1, None] for a in ends)  # (P, from, to)
    order = torch.ones(GAIN_BINS, GAIN_BINS, dtype=torch.bool, device=queries.device).triu()
    mean = torch.where(order & known[:, None, :] & known[:, :, None], sums / counts.clamp(min=1), torch.inf)
    least = mean.flip(2).cummin(2).values.flip(2)  # over the ends from a bin on
    least = torch.where(order & known[:, :, None], least, -torch.inf)
    value = least.amax(1)  # (P, bins), of a bin the largest over the beginnings up to it
    # bins of one pool have the very same value, which comes from the same beginning and end
    number = torch.arange(GAIN_BINS, device=queries.device)
    previous = torch.where(known, number, -1).cummax(1).values
    previous = torch.nn.functional.pad(previous[:, :-1], [1, 0], value=-1)  # the known bin before
    new = known & ((previous < 0) | (value > value.gather(1, previous.clamp(min=0))))
    pool = torch.where(known, new.cumsum(1) - 1, GAIN_BINS)  # one more, for bins without pixels
    room = torch.nn.functional.pad(zero, [0, 1])
    sizes, places, values = (
        room.scatter_add(1, pool, torch.where(known, a, 0))[:, :-1] for a in (count, count * number, count * value)
    )
    there = sizes > 0
    centres = torch.where(there, places / sizes.clamp(min=1), torch.inf)
    return centres.float(), torch.where(there, values / sizes.clamp(min=1), 0).float()


def _spread(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the standard deviation (P,) of images (P, n) where weight is set; 0 where it is nowhere."""
    count = weight.sum(1).clamp(min=1)
    seen = torch.where(weight, images, 0).double()
    return ((seen * seen).sum(1) / count - (seen.sum(1) / count) ** 2).clamp(min=0).sqrt()


def bent(queries: torch.Tensor, images: torch.Tensor, union: torch.Tensor) -> torch.Tensor:
    """Return rendered images (P, H, W) bent onto their queries."""
    # once more, as misfits have flattened the first map of intensity
    return fit_gains(queries, deform(queries, images, union), union)


def render(
    queries: torch.Tensor, references: torch.Tensor, matrix: torch.Tensor, pairs: Pairs, shading: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return references on their queries' grids and contrast, and both foregrounds' union; (P, H, W).

    As :func:`.rendering.render`, whose arguments they are.
    """
    shown = resample(foreground(references).float(), pairs[1], matrix)
    union = foreground(queries)[pairs[0]] | (shown > 0.5)
    return fit_gains(queries[pairs[0]], resample(references, pairs[1], matrix), union, shading), union


class Laid(NamedTuple):
    """Pairs of images on one grid: the maps (P, 2, 3) from queries to references, and of shape (P, H, W) the queries,
    smoothed, the references on their queries' grids and contrast, and the union of both foregrounds."""

    matrix: torch.Tensor
    queries: torch.Tensor
    references: torch.Tensor
    union: torch.Tensor


@torch.no_grad()
def lay(
    queries: torch.Tensor,
    references: torch.Tensor,
    pairs: Pairs,
    start: torch.Tensor | None,
    smoothing: float,
    shading: bool = True,
) -> Laid:
    """Return references laid on queries, both (N, H, W), for pairs of rows; all on the tensors' device.

    `start` (P, 2, 3) are maps that are nearly right; `smoothing` is in pixels; `shading` undoes a smooth one, too.
    """
    matrix = register(queries, references, pairs, start)
    queries, references = smoothed(queries, smoothing), smoothed(references, smoothing)
    return Laid(matrix, queries[pairs[0]], *render(queries, references, matrix, pairs, shading))
