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

"""Does a method find the subject that was copied, among all of them?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..images.loading import SliceSet
from .benchmark_results import SearchScores, interval
from .pairs import DegradedCopies
from .rivals import SearchMethod
from .scores import best_of_subjects, pair_weights, rate_at_false_alarms

__all__ = ["SearchTask", "SearchTrial"]


@dataclass(frozen=True)
class SearchTrial:
    """Searches of `references` for the `source` subject (Q,) of each of the copies `images` (Q, H, W)."""

    references: SliceSet
    source: NDArray[np.int64]
    images: NDArray[np.float32]


@dataclass(frozen=True)
class SearchTask:
    """Searches for the sources of copies, and once more without their subjects: searches that have nothing to find.

    Attributes:
        queries: searches of either kind.
        shown: numbers of subjects within which the source is looked for.
        false_alarms: share of the searches without a source that may pass.
        strict_false_alarms: a smaller share; of fewer than 1,000 searches, 0.001 lets none pass.
        draws, seed: of the bootstrap over subjects.
    """

    queries: int = 500
    shown: Sequence[int] = (1, 6, 20)
    false_alarms: float = 0.01
    strict_false_alarms: float = 0.001
    draws: int = 1000
    seed: int = 0

    def draw(self, slices: SliceSet, copies: DegradedCopies, rng: np.random.RandomState) -> SearchTrial:
        """Return searches for copies of random images, which no condition moves."""
        rows = rng.choice(len(slices.subject), self.queries)
        return SearchTrial(slices, slices.subject[rows], copies(slices.images[rows], rng))

    def __call__(self, method: SearchMethod, trial: SearchTrial) -> SearchScores:
        """Return the recall of the source subject, and of copies at two shares of false alarms."""
        references, source = trial.references, trial.source
        fitted = method.fit(references.images)
        fitted.matrix(trial.images[:8], references.images)  # the references are embedded once for all searches
        start = time.perf_counter()
        score = best_of_subjects(fitted.matrix(trial.images, references.images), references.subject)  # (Q, S)
        seconds = time.perf_counter() - start
        rows = np.arange(len(score))
        own = score[rows, source]
        rank = (score > own[:, None]).sum(1)  # subjects that come before the source
        best = np.where(rank == 0, own, -np.inf)  # a wrong subject is no detection
        score[rows, source] = -np.inf
        pooled, copy = np.r_[best, score.max(1)], np.arange(2 * len(score)) < len(score)
        # a search is of its source's subject: those are resampled
        weights = pair_weights(np.stack([source, source], 1), self.draws, np.random.RandomState(self.seed))
        total, both = weights.sum(1).clip(1), np.tile(weights, 2)
        return SearchScores(
            recall={str(k): float((rank < k).mean()) for k in self.shown},
            tpr=float(rate_at_false_alarms(pooled, copy, self.false_alarms)),
            ci95={
                "recall": {str(k): interval((weights * (rank < k)).sum(1) / total) for k in self.shown},
                "tpr": interval(rate_at_false_alarms(pooled, copy, self.false_alarms, both)),
                "strict_tpr": interval(rate_at_false_alarms(pooled, copy, self.strict_false_alarms, both)),
            },
            searches_per_second=len(score) / seconds,
            strict_tpr=float(rate_at_false_alarms(pooled, copy, self.strict_false_alarms)),
        )
