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

"""Align, render and bend many pairs of images at once by torch, as :class:`.verification.Verifier` does, for a GPU."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..images.foreground import foreground
from .batched_registration import Cells, register, smoothed
from .deformation import ANCHOR, BLUR, ITERATIONS, SPACINGS, STIFFNESS
from .rendering import GAIN_BINS, LEAST_CONTRAST
from .sampling import MARGIN

__all__ = ["Laid", "deform", "fit_gains", "lay", "render", "resample"]

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


def fit_gains(queries: torch.Tensor, images: torch.Tensor, union: torch.Tensor) -> torch.Tensor:
    """Return images (P, H, W) on their queries' contrast where `union` is set, by a non-decreasing map a pair.

    A map that flattens an image explains nothing, and is not used.
    """
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
    return torch.where(flattened[:, None], flat, mapped).view_as(images)


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


class _Grid:
    """Control points so many pixels apart on images (H, W), and the pixels between four of them, a cell.

    Pixels are held by cell, (P, cells, pixels): those beyond the image are no part of any mask.
    """

    def __init__(self, height: int, width: int, spacing: int, device: torch.device) -> None:
        self.height, self.width, self.spacing = height, width, spacing
        self.rows, self.columns = ((length - 1) // spacing + 2 for length in (height, width))
        inside = torch.arange(spacing, device=device) / spacing
        fy, fx = (a.flatten() for a in torch.meshgrid(inside, inside, indexing="ij"))
        self.weights = torch.stack([(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx])  # (4, pixels)
        self.y, self.x = (
            self.by_cell(a[None].float())
            for a in torch.meshgrid(
                torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
            )
        )

    def by_cell(self, images: torch.Tensor) -> torch.Tensor:
        """Return images (P, H, W) by cell, (P, cells, pixels), 0 beyond them."""
        rows, columns, spacing = self.rows - 1, self.columns - 1, self.spacing
        beyond = [0, columns * spacing - self.width, 0, rows * spacing - self.height]
        padded = torch.nn.functional.pad(images, beyond)
        return padded.view(-1, rows, spacing, columns, spacing).transpose(2, 3).reshape(len(images), rows * columns, -1)

    def by_row(self, cells: torch.Tensor) -> torch.Tensor:
        """Return images (P, H, W) from their pixels by cell."""
        rows, columns, spacing = self.rows - 1, self.columns - 1, self.spacing
        images = cells.view(-1, rows, columns, spacing, spacing).transpose(2, 3)
        return images.reshape(-1, rows * spacing, columns * spacing)[:, : self.height, : self.width]

    def corners(self, field: torch.Tensor) -> torch.Tensor:
        """Return what a field (P, R, C, 2) is at the four corners of each cell, (P, cells, 2, 4)."""
        found = [field[:, a : self.rows - 1 + a, b : self.columns - 1 + b] for a in (0, 1) for b in (0, 1)]
        return torch.stack(found, -1).flatten(1, 2)

    def positions(self, field: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return where a field (P, R, C, 2) takes its pixels from, rows and columns (P, cells, pixels)."""
        moved = self.corners(field).float() @ self.weights  # (P, cells, 2, 4) x (4, pixels)
        # inside the image, and a little before its last pixel
        y = (self.y + moved[:, :, 0]).clamp(0, self.height - 1.001)
        x = (self.x + moved[:, :, 1]).clamp(0, self.width - 1.001)
        return y + MARGIN, x + MARGIN

    def field_of(self, coarser: torch.Tensor, ratio: float) -> torch.Tensor:
        """Return a field (P, r, c, 2) of points `ratio` times as far apart at this grid's points, (P, R, C, 2)."""
        for axis, count in ((1, self.rows), (2, self.columns)):
            last = coarser.shape[axis] - 1
            # this grid may end a little beyond the coarser one
            place = (torch.arange(count, device=coarser.device, dtype=coarser.dtype) * ratio).clamp(max=last)
            lower = place.long().clamp(max=last - 1)
            share = (place - lower).view([-1 if n == axis else 1 for n in range(4)])
            low, high = coarser.index_select(axis, lower), coarser.index_select(axis, lower + 1)
            coarser = low + (high - low) * share
        return coarser

    def equations(
        self, cells: Cells, images: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, field: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the energy (P,) at a field, and the equations of a step: of the rows of control points, with m = 2 C
        unknowns each, the diagonal blocks (P, R, m, m), those with the next row (P, R - 1, m, m), and the right side
        (P, R, m).
        """
        y, x = self.positions(field)
        count = len(field)
        value, by_y, by_x = (a.view(count, -1, y.shape[2]) for a in cells.at(images, y.flatten(1), x.flatten(1)))
        residual = torch.where(mask, values - value, 0)
        by_y, by_x = (torch.where(mask, a, 0) for a in (by_y, by_x))
        pairs = (self.weights[:, None] * self.weights).flatten(0, 1).T.contiguous()  # (pixels, 16)
        squares = torch.stack([by_y * by_y, by_y * by_x, by_x * by_x], 2) @ pairs  # (P, cells, 3, 16)
        squares = squares.double().view(count, self.rows - 1, self.columns - 1, 3, 4, 4)
        products = torch.stack([by_y * residual, by_x * residual], 2) @ self.weights.T  # (P, cells, 2, 4)
        products = products.double().view(count, self.rows - 1, self.columns - 1, 2, 4)
        energy = (residual * residual).sum((1, 2)).double()
        shape = count, self.rows, self.columns, 2
        right = field.new_zeros(shape)
        own = field.new_zeros(*shape, self.columns, 2)
        following = field.new_zeros(count, self.rows - 1, self.columns, 2, self.columns, 2)
        # blocks' diagonals over columns, (P, rows, 2, 2, columns): writing to them writes to the blocks
        for a in range(4):
            row, column = a // 2, a % 2
            part = right[:, row : self.rows - 1 + row, column : self.columns - 1 + column]
            part += products[..., a]
            for b in range(4):
                target = own[:, row : self.rows - 1 + row] if b // 2 == row else following
                if row == 1 and b // 2 == 0:
                    continue  # the transposed of what stands in `following`
                view = target.diagonal(b % 2 - column, 2, 4)
                view = view if b % 2 != column else view[..., column : self.columns - 1 + column]
                entries = squares[..., a, b]  # (P, rows, columns, 3)
                view[..., 0, 0, :] += entries[..., 0]
                view[..., 0, 1, :] += entries[..., 1]
                view[..., 1, 0, :] += entries[..., 1]
                view[..., 1, 1, :] += entries[..., 2]
        energy = energy + self._hold(field, own, following, right)
        m = 2 * self.columns
        return energy, own.view(count, self.rows, m, m), following.view(count, -1, m, m), right.view(count, -1, m)

    def _hold(
        self, field: torch.Tensor, own: torch.Tensor, following: torch.Tensor, right: torch.Tensor
    ) -> torch.Tensor:
        """Add the membrane between neighbours, and what holds control points that no pixel moves; return its energy."""
        down, along = field[:, 1:] - field[:, :-1], field[:, :, 1:] - field[:, :, :-1]
        springs = torch.zeros(self.rows, self.columns, dtype=field.dtype, device=field.device)
        for part in (springs[1:], springs[:-1], springs[:, 1:], springs[:, :-1]):
            part += STIFFNESS
        right -= ANCHOR * field
        right[:, :-1] += STIFFNESS * down
        right[:, 1:] -= STIFFNESS * down
        right[:, :, :-1] += STIFFNESS * along
        right[:, :, 1:] -= STIFFNESS * along
        for k in range(2):
            own[:, :, :, k, :, k].diagonal(0, 2, 3).add_(springs + ANCHOR)
            own[:, :, :, k, :, k].diagonal(1, 2, 3).sub_(STIFFNESS)
            own[:, :, :, k, :, k].diagonal(-1, 2, 3).sub_(STIFFNESS)
            following[:, :, :, k, :, k].diagonal(0, 2, 3).sub_(STIFFNESS)
        return STIFFNESS * ((down * down).sum((1, 2, 3)) + (along * along).sum((1, 2, 3)))


def _solved(own: torch.Tensor, following: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return x (P, R, m) of block tridiagonal equations, by elimination of one row of control points after another."""
    factors, carried, rest = [], [], right.clone()
    block = own[:, 0]
    for row in range(own.shape[1]):
        factor, _ = torch.linalg.cholesky_ex(block)
        factors.append(factor)
        if row + 1 == own.shape[1]:
            break
        both = torch.cat([following[:, row], rest[:, row, :, None]], 2)
        half = torch.linalg.solve_triangular(factor, both, upper=False)  # L^-1 [E, b]
        carried.append(half)
        update = half[..., :-1].transpose(1, 2) @ half  # E' S^-1 [E, b]
        block = own[:, row + 1] - update[..., :-1]
        rest[:, row + 1] -= update[..., -1]
    last = torch.linalg.solve_triangular(factors[-1], rest[:, -1, :, None], upper=False)
    found = [torch.linalg.solve_triangular(factors[-1].transpose(1, 2), last, upper=True)]
    for factor, half in zip(reversed(factors[:-1]), reversed(carried)):
        left = half[..., -1:] - half[..., :-1] @ found[-1]
        found.append(torch.linalg.solve_triangular(factor.transpose(1, 2), left, upper=True))
    return torch.stack(found[::-1], 1)[..., 0]


def _fit(
    grid: _Grid, cells: Cells, queries: torch.Tensor, masks: torch.Tensor, field: torch.Tensor, iterations: int
) -> torch.Tensor:
    """Return the fields (P, R, C, 2) of the least energy on the way of Gauss-Newton."""
    values, mask = grid.by_cell(queries), grid.by_cell(masks)
    images = torch.arange(len(queries), device=queries.device)
    best, lowest = field, field.new_full((len(field),), torch.inf)
    going = torch.ones_like(lowest, dtype=torch.bool)
    for step in range(iterations + 1):
        energy, *equations = grid.equations(cells, images, values, mask, field)
        better = going & (energy < lowest)  # else too long a step; a shorter one gains little
        going = better & ~(energy > 0.999 * lowest)
        best = torch.where(better[:, None, None, None], field, best)
        lowest = torch.where(better, energy, lowest)
        if step < iterations:
            field = field + _solved(*equations).view_as(field)
    return best


def deform(queries: torch.Tensor, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return images (P, H, W), which lie on their queries but for small bends, bent onto them.

    As :func:`.deformation.deform`, whose arguments they are.
    """
    height, width = images.shape[1:]
    softened, spacing, field = [smoothed(a, BLUR) for a in (queries, images)], 0, queries.new_empty(0)
    sharp = Cells.of(images)
    for level in range(len(SPACINGS)):
        grid = _Grid(height, width, int(SPACINGS[level]), images.device)
        if level:
            field = grid.field_of(field, grid.spacing / spacing)
        else:
            field = torch.zeros(len(images), grid.rows, grid.columns, 2, dtype=torch.float64, device=images.device)
        finest = level == len(SPACINGS) - 1
        query, cells = (queries, sharp) if finest else (softened[0], Cells.of(softened[1]))
        field, spacing = _fit(grid, cells, query, masks, field, int(ITERATIONS[level])), grid.spacing
    y, x = grid.positions(field)
    rows = torch.arange(len(images), device=images.device)
    value = sharp.at(rows, y.flatten(1), x.flatten(1))[0]
    return grid.by_row(value.view_as(y))


def render(
    queries: torch.Tensor, references: torch.Tensor, matrix: torch.Tensor, bend: bool, pairs: Pairs
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return references on their queries' grids and contrast, both foregrounds' union, and the former before they are
    bent; (P, H, W).

    As :func:`.rendering.render`, whose arguments they are.
    """
    query = queries[pairs[0]]
    shown = resample(foreground(references).float(), pairs[1], matrix)
    union = foreground(queries)[pairs[0]] | (shown > 0.5)
    unbent = warped = fit_gains(query, resample(references, pairs[1], matrix), union)
    if bend:
        # once more, as misfits have flattened the first map of intensity
        warped = fit_gains(query, deform(query, unbent, union), union)
    return warped, union, unbent


class Laid(NamedTuple):
    """Pairs of images on one grid: the maps (P, 2, 3) from queries to references, and of shape (P, H, W) the queries,
    smoothed, the references on their queries' grids and contrast, the union of both foregrounds, and the references
    before they are bent."""

    matrix: torch.Tensor
    queries: torch.Tensor
    references: torch.Tensor
    union: torch.Tensor
    unbent: torch.Tensor


@torch.no_grad()
def lay(
    queries: torch.Tensor,
    references: torch.Tensor,
    pairs: Pairs,
    start: torch.Tensor | None,
    smoothing: float,
    bend: bool,
) -> Laid:
    """Return references laid on queries, both (N, H, W), for pairs of rows; all on the tensors' device.

    `start` (P, 2, 3) are maps that are nearly right; `smoothing` is in pixels.
    """
    matrix = register(queries, references, pairs, start)
    queries, references = smoothed(queries, smoothing), smoothed(references, smoothing)
    return Laid(matrix, queries[pairs[0]], *render(queries, references, matrix, bend, pairs))
