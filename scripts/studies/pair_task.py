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

"""Does a score tell duplicates, similar and different pairs apart? Thresholds come from other subjects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..decision.labels import Label
from ..embedder.evaluation import ssim_errors
from ..images.loading import SliceSet
from .benchmark_results import PairScores, interval
from .pairs import DegradedCopies, Pairs, draw_pairs
from .rivals import Method
from .scores import classify, duplicate_auc, fit_thresholds, macro_f1, pair_weights, rate_at_false_alarms

__all__ = ["PairTask", "PairTrial"]


@dataclass(frozen=True)
class PairTrial:
    """Labelled pairs of some subjects.

    `references` (N, H, W) are all their images, that a method is fitted on; `moved` (P, H, W) the generated images of
    `pairs` as a condition moves them.
    """

    references: NDArray[np.float32]
    pairs: Pairs
    moved: NDArray[np.float32]

    def scores(self, method: Method) -> NDArray[np.float64]:
        """Return the scores (P,) that the method gives to the pairs."""
        return method.fit(self.references).pairs(self.pairs.first, self.moved)


@dataclass(frozen=True)
class PairTask:
    """Scores labelled pairs.

    Attributes:
        pairs: of each label.
        draws: of the bootstrap over subjects.
        false_alarms: share of the pairs that are no duplicates which may pass.
    """

    pairs: int = 500
    draws: int = 1000
    false_alarms: float = 0.01

    def draw(self, slices: SliceSet, copies: DegradedCopies, rng: np.random.RandomState) -> PairTrial:
        """Return pairs of these subjects' images that no condition moves."""
        pairs = draw_pairs(slices, self.pairs, copies, rng)
        return PairTrial(slices.images, pairs, pairs.second)

    def weights(self, trial: PairTrial, rng: np.random.RandomState) -> NDArray[np.float64]:
        """Return the bootstrap's weights (draws, P) of a trial's pairs."""
        return pair_weights(trial.pairs.subject, self.draws, rng)

    def __call__(
        self, method: Method, validation: PairTrial, test: PairTrial, weights: NDArray[np.float64]
    ) -> PairScores:
        """Return how well the method separates `test` with thresholds fitted on `validation`.

        `weights` (draws, P) are the bootstrap's, of the pairs of `test`.
        """
        thresholds = fit_thresholds(validation.scores(method), validation.pairs.label)
        score, label = test.scores(method), test.pairs.label
        predicted, duplicate = classify(score, thresholds), label == Label.DUPLICATE
        draws = {
            "macro_f1": macro_f1(label, predicted, weights),
            "duplicate_auc": duplicate_auc(score, label, weights),
            "tpr": rate_at_false_alarms(score, duplicate, self.false_alarms, weights),
        }
        truth = method.truth(test.pairs.first, test.pairs.second)
        return PairScores(
            thresholds=thresholds,
            macro_f1=float(macro_f1(label, predicted)),
            duplicate_auc=float(duplicate_auc(score, label, np.ones(len(score)))),
            tpr=float(rate_at_false_alarms(score, duplicate, self.false_alarms)),
            ci95={key: interval(values) for key, values in draws.items()},
            draws={key: values.round(4).tolist() for key, values in draws.items()},
            ssim_error=None if truth is None else ssim_errors(score, truth),
            scores=[np.quantile(score[label == c], np.linspace(0, 1, 101)).round(5).tolist() for c in Label],
        )
