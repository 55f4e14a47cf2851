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

"""What a search is asked, and what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..decision.statistic import Statistic, clearest
from ..images.stacks import Images, Rows
from ..images.subjects import starts_of_runs
from .parts import Parts

__all__ = ["Found", "Units"]


@dataclass(frozen=True)
class Units:
    """What one decision is about: an image, or a volume, whole or as the run of its slices.

    `vectors` (Q, D) and `images` (Q, H, W), or (Q, X, Y, Z), hold the rows of all units, `unit` (Q,) each row's unit,
    ascending from 0.
    `level` (U,) is a planar unit's slice level or NaN; `subject` (U,) the training subject it belongs to, -1 for none.
    """

    vectors: NDArray[np.float32]
    images: Images
    unit: NDArray[np.int64]
    level: NDArray[np.float64]
    subject: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.level)

    def rows(self, unit: int) -> NDArray[np.int64]:
        """Return the rows of one unit."""
        first, after = np.searchsorted(self.unit, [unit, unit + 1])
        return np.arange(first, after)

    def mean(self, values: NDArray) -> NDArray[np.float64]:
        """Return the mean of values (Q, ...) over the rows of each unit, (U, ...)."""
        starts = starts_of_runs(self.unit)
        sizes = np.diff(np.r_[starts, len(self.unit)])
        return np.add.reduceat(values.astype(float), starts) / sizes.reshape(-1, *[1] * (values.ndim - 1))

    def part(self, first: int, last: int) -> Units:
        """Return the units from `first` on, until before `last`."""
        start, stop = np.searchsorted(self.unit, [first, last])
        unit, level, subject = self.unit[start:stop] - first, self.level[first:last], self.subject[first:last]
        return Units(self.vectors[start:stop], Rows(self.images, np.arange(start, stop)), unit, level, subject)


@dataclass(frozen=True)
class Found:
    """The verified candidates of each unit: U units, Q rows, k candidate subjects.

    `subject` (U, k) are subject numbers, -1 where fewer exist; `aligned_ssim` (U, k) is the mean over a unit's slices,
    `unbent_ssim` (U, k) the same before training images are bent. `statistic` (U,) is what the clearer of the two
    amounts to, `best` (U,) the column of its best candidate. `image`, `similarity`, `slice_ssim` (Q, k) and `matrix`
    (Q, k, 2, 3) or (Q, k, 3, 4) and `mirrored` (Q, k) describe single slices, or whole volumes. Where copies of a part
    are looked for, `parts` says which square of which row decided, and all SSIM is that of such squares.
    """

    subject: NDArray[np.int64]
    aligned_ssim: NDArray[np.float64]
    statistic: NDArray[np.float64]
    image: NDArray[np.int64]
    similarity: NDArray[np.float64]
    slice_ssim: NDArray[np.float32]
    matrix: NDArray[np.float64]
    mirrored: NDArray[np.bool_]
    unbent_ssim: NDArray[np.float64]
    best: NDArray[np.int64]
    parts: Parts | None = None

    @classmethod
    def of(cls, arrays: Mapping[str, Any]) -> Found:
        """Return it from its arrays, by name."""
        return cls(**arrays)

    @property
    def arrays(self) -> dict[str, NDArray]:
        """Its arrays, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "parts"}

    @cached_property
    def best_ssim(self) -> NDArray[np.float64]:
        """(U,) the aligned SSIM of the best candidate."""
        return self.at_best(self.aligned_ssim)

    @cached_property
    def nearest(self) -> NDArray[np.int64]:
        """(U,) the number of the best candidate's subject, -1 for none."""
        return self.at_best(self.subject)

    def at_best(self, values: NDArray) -> NDArray:
        """Return values (U, k, ...) at each unit's best candidate, (U, ...)."""
        return values[np.arange(len(values)), self.best]

    def second(self, statistic: Statistic) -> NDArray[np.float64]:
        """Return the statistic (U,) of the candidates without the best one."""
        rest = self.aligned_ssim.copy(), self.unbent_ssim.copy()
        for ssim in rest:
            ssim[np.arange(len(ssim)), self.best] = -np.inf
        return clearest(statistic, rest)[0] * (1 if self.parts is None else self.parts.weight)
