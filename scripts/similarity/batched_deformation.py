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

"""Bend many registered images onto their queries at once by torch, as :mod:`.deformation` does, for a GPU."""

from __future__ import annotations

import torch

from .batched_registration import Cells, smoothed
from .deformation import ANCHOR, BLUR, ITERATIONS, SPACINGS, STIFFNESS
from .sampling import MARGIN

__all__ = ["deform"]


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
