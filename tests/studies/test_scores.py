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

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scripts.decision.labels import Label
from scripts.studies.scores import (
    best_of_subjects,
    classify,
    duplicate_auc,
    fit_thresholds,
    macro_f1,
    pair_weights,
    rate_at_false_alarms,
)

RNG = np.random.default_rng(5)
LABEL = RNG.integers(0, 3, 60)
SCORE = np.round(LABEL + RNG.normal(size=60), 1)  # with ties


def f1(label, predicted, c) -> float:
    hit = sum(a == b == c for a, b in zip(label, predicted))
    return 2 * hit / (sum(label == c) + sum(predicted == c))


def test_macro_f1_is_the_mean_over_classes_and_weights_are_repetitions():
    predicted = classify(SCORE, (0.5, 1.5))
    assert macro_f1(LABEL, predicted) == pytest.approx(np.mean([f1(LABEL, predicted, c) for c in range(3)]))
    times = RNG.integers(0, 4, (2, 60))
    got = macro_f1(LABEL, predicted, times)
    for weight, value in zip(times, got):
        assert value == pytest.approx(macro_f1(LABEL.repeat(weight), predicted.repeat(weight)))
    assert macro_f1(LABEL, LABEL) == 1


def test_thresholds_are_the_best_of_all():
    cuts = fit_thresholds(SCORE, LABEL, steps=1000)
    got = macro_f1(LABEL, classify(SCORE, cuts))
    values = np.unique(SCORE)
    assert got == pytest.approx(max(macro_f1(LABEL, classify(SCORE, (a, b))) for a in values for b in values if a <= b))


def test_auc_is_mann_whitneys():
    expected = stats.mannwhitneyu(SCORE[LABEL == Label.DUPLICATE], SCORE[LABEL != Label.DUPLICATE]).statistic
    expected /= (LABEL == Label.DUPLICATE).sum() * (LABEL != Label.DUPLICATE).sum()
    assert duplicate_auc(SCORE, LABEL, np.ones(60)) == pytest.approx(expected)
    times = RNG.integers(0, 3, (2, 60)).astype(float)
    for weight, value in zip(times, duplicate_auc(SCORE, LABEL, times)):
        n = weight.astype(int)
        assert value == pytest.approx(duplicate_auc(SCORE.repeat(n), LABEL.repeat(n), np.ones(n.sum())))


def test_bootstrap_resamples_subjects_on_both_sides():
    subject = np.array([[0, 0], [0, 1], [1, 2], [2, 2]])
    weight = pair_weights(subject, 4000, np.random.RandomState(0))
    own, other = weight[:, [0, 3]], weight[:, [1, 2]]
    assert set(np.unique(own)) <= {0, 1, 2, 3}
    np.testing.assert_allclose(own.mean(0), 1, atol=0.05)
    np.testing.assert_allclose(other.mean(0), 1 - 1 / 3, atol=0.05)  # E[n_a n_b] = 1 - 1/S of a multinomial
    assert (weight[weight[:, 0] == 0][:, 1] == 0).all()  # a subject that is not drawn takes all its pairs along


def test_best_of_subjects_is_the_maximum_of_each():
    score, subject = RNG.random((4, 9)), np.array([2, 0, 1, 1, 2, 0, 0, 2, 1])
    expected = np.stack([score[:, subject == s].max(1) for s in range(3)], axis=1)
    np.testing.assert_array_equal(best_of_subjects(score, subject), expected)


def test_rate_at_false_alarms_by_hand():
    score, positive = np.r_[np.arange(100.0), 98.5, 99.5, 50], np.r_[np.zeros(100, bool), [True] * 3]
    assert rate_at_false_alarms(score, positive, 0.0) == pytest.approx(1 / 3)  # only 99.5 is above all others
    assert rate_at_false_alarms(score, positive, 0.01) == pytest.approx(2 / 3)  # one of 100 may pass
    assert rate_at_false_alarms(np.zeros(4), np.array([True, False, True, False]), 0.4) == 0  # a tie is no detection


def test_rate_at_false_alarms_counts_weights_as_repetitions():
    positive, times = LABEL == Label.DUPLICATE, RNG.integers(0, 4, (3, 60))
    got = rate_at_false_alarms(SCORE, positive, 0.1, times)
    for weight, value in zip(times, got):
        assert value == pytest.approx(rate_at_false_alarms(SCORE.repeat(weight), positive.repeat(weight), 0.1))
    cut = min(c for c in np.unique(SCORE) if (SCORE[~positive] > c).mean() <= 0.1)  # by trying all
    assert rate_at_false_alarms(SCORE, positive, 0.1) == pytest.approx((SCORE[positive] > cut).mean())
