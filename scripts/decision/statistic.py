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

"""The statistic of an image's candidates: how much closer the best training subject is than the next ones.

Another statistic is another class of the :class:`Statistic` protocol and one line of configs/detect.yaml: the search,
the null and the page's words take it as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["LocalStatistic", "Statistic", "clearest", "local_statistic"]


class Statistic(Protocol):
    """A number for each image that grows as one candidate subject stands out.

    `subjects` is the least number of candidates that it needs, `words` say what it measures and `tail` why it may be
    taken to have an exponential tail where nothing is copied, both for the report.
    """

    @property
    def subjects(self) -> int:
        """The least number of candidates that it needs."""

    @property
    def words(self) -> str:
        """What it measures, for the report."""

    @property
    def tail(self) -> str:
        """Why its tail may be taken to be exponential where nothing is copied, for the report."""

    def __call__(self, aligned_ssim: ArrayLike, /) -> NDArray[np.float64]:
        """Return the statistic of each row of aligned SSIM (Q, k), -inf where candidates are too few."""


@dataclass(frozen=True)
class LocalStatistic:
    """T = mean(log d2 ... log dn) - log d1, with d = max(1 - aligned SSIM, `least_distance`) in ascending order.

    What blurs or brightens all candidates alike cancels to first order.

    Args:
        subjects: n, the candidates that are compared; at least 2.
        least_distance: keeps the logarithm of a perfect copy finite.

    Raises:
        ValueError: if an argument is out of range.
    """

    subjects: int = 5
    least_distance: float = 1e-6

    def __post_init__(self) -> None:
        if self.subjects < 2 or self.least_distance <= 0:
            raise ValueError(
                f"subjects must be at least 2 and least_distance positive, got {self.subjects}, {self.least_distance}"
            )

    @property
    def words(self) -> str:
        others = {2: "next one", 3: "next two", 4: "next three", 5: "next four"}
        named = others.get(self.subjects, f"next {self.subjects - 1}")
        return f"how much closer the best training subject is than the {named}"

    @property
    def tail(self) -> str:
        return "a difference of log-distances"

    def __call__(self, aligned_ssim: ArrayLike) -> NDArray[np.float64]:
        """Return T of each row of aligned SSIM (Q, k), -inf where fewer than n candidates exist; any order."""
        aligned_ssim = np.atleast_2d(np.asarray(aligned_ssim, float))
        if aligned_ssim.shape[1] < self.subjects:
            return np.full(len(aligned_ssim), -np.inf)
        distance = np.where(np.isfinite(aligned_ssim), np.maximum(1 - aligned_ssim, self.least_distance), np.inf)
        nearest = np.partition(distance, self.subjects - 1, axis=1)[:, : self.subjects]
        logs = np.log(np.sort(nearest, axis=1))
        known = np.isfinite(logs).all(1)
        statistic = np.full(len(logs), -np.inf)
        statistic[known] = logs[known, 1:].mean(1) - logs[known, 0]
        return statistic


def local_statistic(aligned_ssim: ArrayLike) -> NDArray[np.float64]:
    """Return the statistic T of each row of aligned SSIM (Q, k), as :class:`LocalStatistic` has it by default."""
    return LocalStatistic()(aligned_ssim)


def clearest(
    statistic: Statistic, comparisons: Sequence[NDArray[np.float64]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the largest statistic (Q,) of comparisons with the same candidates, and the best one's column (Q,).

    Each comparison is aligned SSIM (Q, k), -inf where there is no candidate. What decides a null must be the largest of
    the same comparisons. Of equal ones the first counts.
    """
    values = np.stack([statistic(one) for one in comparisons])
    columns = np.stack([one.argmax(1) for one in comparisons])
    first = values.argmax(0)[None]
    return np.take_along_axis(values, first, 0)[0], np.take_along_axis(columns, first, 0)[0]
