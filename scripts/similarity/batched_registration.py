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

"""Register many pairs of images at once by torch: what the kernel of :mod:`.registration` does, for a GPU.

Every step is that of the kernel, on a batch of pairs; a pair that has come to its end waits for the others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from .registration import FLIPS, ITERATIONS, KEPT, PYRAMID, SCALE_RANGE, START_ANGLES
from .sampling import MARGIN

__all__ = ["Cells", "register", "smoothed"]

DARK = 0.02  # of a query on the reference's background: background too


def smoothed(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return images (N, H, W) after a Gaussian of `sigma` pixels, as scipy's, which reflects the borders.

    By products of matrices, which a GPU computes in full float32; its convolutions may round to 10 bits.
    """
    if not sigma:
        return images
    rows, columns = (_gaussian(length, sigma).to(images) for length in images.shape[1:])
    return rows @ images @ columns.T


def _gaussian(length: int, sigma: float) -> torch.Tensor:
    """Return the matrix (length, length) that smooths a vector."""
    radius = int(4 * sigma + 0.5)
    offset = torch.arange(-radius, radius + 1)
    weight = torch.exp(-0.5 * (offset / sigma).double() ** 2)
    place = (torch.arange(length)[:, None] + offset) % (2 * length)
    place = torch.where(place < length, place, 2 * length - 1 - place)
    return torch.zeros(length, length, dtype=torch.float64).scatter_add_(
        1, place, (weight / weight.sum()).expand(length, -1).contiguous()
    )


class Cells(NamedTuple):
    """The coefficients of 1, x, y and x y between four neighbours of images, N (H + 4) (W + 4) times, and H and W.

    Images are surrounded by zeros, as in :func:`.sampling.fill_cells`. The four float32 are held as one complex128:
    a GPU takes 75 times as many of them a second as rows of four.
    """

    table: torch.Tensor
    height: int
    width: int

    @classmethod
    def of(cls, images: torch.Tensor) -> Cells:
        """Return the cells of images (N, H, W)."""
        height, width = images.shape[1:]
        padded = torch.nn.functional.pad(images, [MARGIN, MARGIN + 1] * 2)
        a, b, c, d = padded[:, :-1, :-1], padded[:, :-1, 1:], padded[:, 1:, :-1], padded[:, 1:, 1:]
        table = torch.stack([a, b - a, c - a, a - b - c + d], -1).flatten()
        return cls(table.view(torch.complex128), height, width)

    def at(
        self, image: torch.Tensor, y: torch.Tensor, x: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the values, and their derivatives by y and x, of images (P,) at positions (P, n).

        Positions count from the margin's corner and are at least 0 and at most the length plus the margin.
        """
        row, column = y.long(), x.long()
        rows, columns = self.height + 2 * MARGIN, self.width + 2 * MARGIN
        y, x = y - row, x - column
        cells = torch.take(self.table, (image[:, None] * rows + row) * columns + column)
        one, by_x, by_y, by_both = cells.view(torch.float32).unflatten(-1, (-1, 4)).unbind(-1)
        slope_y = by_y + by_both * x
        return one + by_x * x + slope_y * y, slope_y, by_x + by_both * y


class _Level(NamedTuple):
    """A level of the pyramids of queries, (Q, n) with their height and width, and of references."""

    queries: torch.Tensor
    height: int
    width: int
    cells: Cells


def _pyramid(images: torch.Tensor) -> list[torch.Tensor]:
    """Return images (N, H, W) smoothed and thinned by each stride, coarse to fine."""
    levels = []
    for stride in PYRAMID:
        starts = [(length - 1) % stride // 2 for length in images.shape[1:]]
        levels.append(smoothed(images, 0.5 * stride)[:, starts[0] :: stride, starts[1] :: stride].contiguous())
    return levels


def _normal_equations(
    level: _Level, values: torch.Tensor, reference: torch.Tensor, flip: torch.Tensor, p: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the squared errors (P,), the normal equations (P, 7, 7) and their right sides (P, 7) at p (P, 7).

    As the kernel's: of (a, b, ty, tx, gain 0, gain 1, gain 2), the values (P, n) being those of the queries.
    """
    centre_y, centre_x = (level.height - 1) / 2, (level.width - 1) / 2
    place = torch.arange(level.height * level.width, device=p.device)
    y = (place // level.width - centre_y) * flip[:, :1]
    x = (place % level.width - centre_x) * flip[:, 1:]
    a, b, shift_y, shift_x, gain_0, gain_1, gain_2 = (p[:, n, None].float() for n in range(7))
    at_y = (a * y - b * x + (shift_y + centre_y + MARGIN)).clamp_(0, level.height + MARGIN)
    at_x = (a * x + b * y + (shift_x + centre_x + MARGIN)).clamp_(0, level.width + MARGIN)
    w, by_y, by_x = level.cells.at(reference, at_y, at_x)
    # background on background carries no information
    weight = torch.where((w == 0) & (values < DARK), 0.0, 1.0)
    slope = weight * (gain_1 + 2 * gain_2 * w)
    by_y, by_x = slope * by_y, slope * by_x
    seen = weight * w
    square = seen * w
    residual = weight * (values - gain_0) - gain_1 * seen - gain_2 * square
    rows = torch.stack([by_y * y + by_x * x, by_x * y - by_y * x, by_y, by_x, weight, seen, square, residual], 1)
    sums = (rows @ rows.transpose(1, 2)).double()  # (P, 8, n) x (P, n, 8) -> (P, 8, 8)
    return sums[:, 7, 7], sums[:, :7, :7], sums[:, :7, 7]


def _fit(
    level: _Level, query: torch.Tensor, reference: torch.Tensor, flip: torch.Tensor, p: torch.Tensor, iterations: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Refine p (P, 7) by damped Gauss-Newton, as far as its squared errors fall, and return it and those (P,)."""
    values = level.queries[query]
    best, lowest = p, p.new_full((len(p),), torch.inf)
    best_normal, best_gradient = p.new_zeros(len(p), 7, 7), torch.zeros_like(p)
    damping, going = torch.full_like(lowest, 1e-3), torch.ones_like(lowest, dtype=torch.bool)
    for step in range(iterations + 1):
        error, normal, gradient = _normal_equations(level, values, reference, flip, p)
        scale = torch.hypot(p[:, 0], p[:, 1])
        bad = ~error.isfinite() | (scale < SCALE_RANGE[0]) | (scale > SCALE_RANGE[1]) | (error > lowest * 1.5)
        better = going & ~bad & (error < lowest)
        done = better & (error > lowest * 0.9995)
        damping = torch.where(bad, damping * 30, damping)
        going = going & ~done & ~(bad & ((damping > 1e3) | lowest.isinf()))
        lowest = torch.where(better, error, lowest)
        best = torch.where(better[:, None], p, best)
        if step == iterations:
            break
        best_normal = torch.where(better[:, None, None], normal, best_normal)
        best_gradient = torch.where(better[:, None], gradient, best_gradient)
        normal = torch.where(bad[:, None, None], best_normal, normal)
        gradient = torch.where(bad[:, None], best_gradient, gradient)
        diagonal = normal.diagonal(dim1=1, dim2=2)
        damped = normal + torch.diag_embed(damping[:, None] * diagonal + 1e-6)
        factor, _ = torch.linalg.cholesky_ex(damped)
        move = torch.cholesky_solve(gradient[:, :, None], factor)[:, :, 0]
        p = torch.where(going[:, None], torch.where(bad[:, None], best, p) + move, p)
    return best, lowest


def _fitted_coarse(level: _Level, query: torch.Tensor, reference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the parameters (P, S, 7) and squared errors (P, S) that all S starts come to at the coarse level."""
    angles = torch.as_tensor(START_ANGLES, device=query.device).repeat(len(FLIPS))
    flips = torch.as_tensor(FLIPS, dtype=torch.float32, device=query.device).repeat_interleave(len(START_ANGLES), 0)
    start = torch.zeros(len(angles), 7, dtype=torch.float64, device=query.device)
    start[:, 0], start[:, 1], start[:, 5] = angles.cos(), angles.sin(), 1
    count = len(query)
    query, reference = (rows.repeat_interleave(len(angles)) for rows in (query, reference))
    found, errors = _fit(level, query, reference, flips.repeat(count, 1), start.repeat(count, 1), int(ITERATIONS[0]))
    return found.view(count, -1, 7), errors.view(count, -1)


def _kept(found: torch.Tensor, errors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the starts (P, KEPT) of the least errors whose optimum no better start of the same flip has met.

    And whether there are so many, (P, KEPT); else the best start stands for them.
    """
    order = errors.argsort(dim=1, stable=True)
    sorted_found = found.gather(1, order[:, :, None].expand(-1, -1, 7))
    flip = order // len(START_ANGLES)
    near = ((sorted_found[:, :, None, :2] - sorted_found[:, None, :, :2]).abs() < 0.03).all(-1)
    near &= flip[:, :, None] == flip[:, None, :]
    usable = ~near.tril(-1).any(2) & errors.gather(1, order).isfinite()
    rank = torch.where(usable, usable.cumsum(1) - 1, order.shape[1])
    place = rank.argsort(dim=1, stable=True)[:, :KEPT]
    there = usable.gather(1, place)
    return torch.where(there, order.gather(1, place), order[:, :1]), there


def _registered(
    levels: list[_Level], query: torch.Tensor, reference: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the parameters (P, 7) and flips (P, 2) of pairs, coarse to fine."""
    coarse, middle, fine = levels
    found, errors = _fitted_coarse(coarse, query, reference)
    kept, there = _kept(found, errors)
    starts = found.gather(1, kept[:, :, None].expand(-1, -1, 7))
    flips = torch.as_tensor(FLIPS, dtype=torch.float32, device=query.device)[kept // len(START_ANGLES)]
    start = _scaled(starts, PYRAMID[0] / PYRAMID[1]).flatten(0, 1)
    each = [rows.repeat_interleave(kept.shape[1]) for rows in (query, reference)]
    refined, lowest = _fit(middle, each[0], each[1], flips.flatten(0, 1), start, int(ITERATIONS[1]))
    lowest = torch.where(there, lowest.view_as(kept), torch.inf)
    best = lowest.argmin(1)
    rows = torch.arange(len(query), device=query.device)
    any_fit = lowest.isfinite().any(1)[:, None]
    chosen = torch.where(any_fit, refined.view_as(starts)[rows, best], starts[:, 0])
    flip = torch.where(any_fit, flips[rows, best], flips[:, 0])
    return _fit(fine, query, reference, flip, _scaled(chosen, PYRAMID[1] / PYRAMID[2]), int(ITERATIONS[2]))[0], flip


def _scaled(p: torch.Tensor, ratio: float) -> torch.Tensor:
    """Return parameters (..., 7) on a grid that is so much finer: only shifts are in pixels."""
    return p * p.new_tensor([1, 1, ratio, ratio, 1, 1, 1])


def register(
    queries: torch.Tensor,
    references: torch.Tensor,
    pairs: tuple[torch.Tensor, torch.Tensor],
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the maps (P, 2, 3) from query to reference pixels of `pairs`, rows of queries and of references.

    Arguments and result are those of :func:`.registration.register`, as tensors on one device. A pair takes 600 KB
    while it is fitted, at 96 x 112 pixels.
    """
    query, reference = pairs
    levels = [
        _Level(images.flatten(1), images.shape[1], images.shape[2], Cells.of(others))
        for images, others in zip(_pyramid(queries), _pyramid(references))
    ]
    if start is None:
        p, flip = _registered(levels, query, reference)
    else:
        start = start.double()
        mirrored = torch.linalg.det(start[:, :, :2]) < 0
        flip = torch.as_tensor(np.stack([FLIPS[0], FLIPS[2]]), dtype=torch.float32, device=start.device)[
            mirrored.long()
        ]
        p = torch.zeros(len(query), 7, dtype=torch.float64, device=start.device)
        p[:, :2], p[:, 2:4], p[:, 5] = start[:, :, 0], start[:, :, 2], 1
        for level, ratio, iterations in zip(levels[1:], (1 / PYRAMID[1], PYRAMID[1] / PYRAMID[2]), ITERATIONS[1:]):
            p, _ = _fit(level, query, reference, flip, _scaled(p, ratio), int(iterations))
    a, b = p[:, 0], p[:, 1]
    linear = torch.stack([torch.stack([a, -b], -1), torch.stack([b, a], -1)], 1) * flip[:, None, :]
    return torch.cat([linear, p[:, 2:4, None]], 2)
