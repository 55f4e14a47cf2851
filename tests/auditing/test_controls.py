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

from dataclasses import replace

import numpy as np
import pytest
from audits import Pooled, embedded, images_of
from scripts.auditing.controls import Controls
from scripts.auditing.degradation import Degradation
from scripts.auditing.search import Search
from scripts.decision.criteria import Criteria
from scripts.decision.decide import decide
from scripts.decision.rates import benjamini_hochberg
from scripts.images.augmentations import RandCopyd
from scripts.similarity.verification import Verifier

UNKNOWN = np.full(3, np.nan)


def controls(
    train, number=None, seed=0, degradation=None, whole_files=False, null_subjects=300, null_slices=8
) -> Controls:
    number = np.arange(len(train)) if number is None else number
    search = Search(train.vectors, train.images, number, Verifier(), 6, whole_files=whole_files)
    rng = np.random.RandomState(seed)
    return Controls(search, Pooled(), degradation or Degradation(), rng, null_subjects, null_slices)


@pytest.fixture(scope="module")
def train():
    return embedded(images_of(12, seed=0))


def test_the_two_nulls(train):
    left_out = controls(train).leave_one_out_null(train, np.arange(12), UNKNOWN)
    assert left_out.null.correction == 2 and left_out.null.subject.tolist() == list(range(12))
    assert (left_out.null.nearest != np.arange(12)).all()
    np.testing.assert_allclose(left_out.null.statistic, left_out.found.statistic)
    holdout = controls(train).holdout_null(embedded(images_of(7, seed=2), "h"), UNKNOWN)
    assert holdout.null.correction == 1 and holdout.null.nearest is None and len(holdout.units) == 7


def test_only_slices_that_a_query_can_ask_for_are_searched():
    """Four slices a subject at 0, 4, 8 and 12 mm; queries at 4 and 11 mm, or at unknown levels."""
    data = embedded(images_of(32, seed=5), slices=4)
    number = np.repeat(np.arange(8), 4)
    at = controls(data, number).leave_one_out_null(data, number, np.array([4.0, 11.0, np.nan]))
    assert sorted(set(at.units.level)) == [4.0, 12.0] and np.bincount(at.units.subject).tolist() == [2] * 8
    some = controls(data, number, null_slices=3).leave_one_out_null(data, number, UNKNOWN)
    assert np.bincount(some.units.subject).tolist() == [3] * 8


def test_a_subject_has_one_volume_in_the_null():
    data = embedded(images_of(24, seed=6), slices=3)
    number = np.repeat([0, 1, 2, 3, 4, 5, 6, 6], 3)  # the last two files are one person's
    null = controls(data, number, whole_files=True).leave_one_out_null(data, number, UNKNOWN)
    assert null.units.subject.tolist() == list(range(7)) and len(null.units.unit) == 21


def test_more_subjects_than_wanted_are_drawn_anew_by_the_seed(train):
    drawn = [
        controls(train, seed=seed, null_subjects=6)
        .leave_one_out_null(train, np.arange(12), UNKNOWN)
        .null.subject.tolist()
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2] and all(len(set(subjects)) == 6 for subjects in drawn)


def test_null_images_are_degraded(train):
    null = controls(train, degradation=Degradation(blur=1.0)).leave_one_out_null(train, np.arange(12), UNKNOWN)
    expected = Degradation(blur=1.0)(train.images, np.random.RandomState(0))
    np.testing.assert_allclose(null.units.images, expected, atol=1e-6)
    np.testing.assert_allclose(null.units.vectors, Pooled().embed_images(expected), atol=1e-5)


@pytest.mark.parametrize("noise", [0.0, 0.6])
def test_the_control_counts_copies_that_would_be_called_with_their_own_subject(train, noise):
    made = controls(train)
    null = made.leave_one_out_null(train, np.arange(12), UNKNOWN).null
    query = made.search(made.search.units(embedded(images_of(5, seed=7), "g"), np.full(5, -1)))
    criteria = Criteria()
    decision = decide(query.statistic, np.full(5, np.nan), query.nearest, null, criteria)
    copy = RandCopyd("image", elastic=(0.0, 0.5), noise=(noise, noise), grid=4)
    control, copies = made.positive_control(train, np.arange(12), copy, 10, null, decision, criteria)
    assert control.images == len(copies.units) == 10 and control.ci95[0] <= control.recall <= control.ci95[1]
    if noise:
        assert control.recall < 0.5 and copies.found.best_ssim.max() < 0.9
    else:
        assert control.recall == control.source_found == 1 and copies.found.best_ssim.min() > 0.9
        assert control.nearest == control.nearest_ci95[1] == 1 and 0.6 < control.nearest_ci95[0] < 1
    # an embedding that knows nothing of what an image shows: alignment finds a source only where it is a candidate
    blind = replace(train, vectors=np.roll(train.vectors, 3, axis=0))
    made = controls(blind)
    control, _ = made.positive_control(blind, np.arange(12), copy, 10, null, decision, criteria)
    assert control.nearest == 0 and control.source_found <= control.among <= 0.8


def test_a_lone_copy_among_many_images_is_harder_to_call(train):
    made, criteria = controls(train), Criteria()
    null = made.leave_one_out_null(train, np.arange(12), UNKNOWN).null
    copy = RandCopyd("image", elastic=(0.0, 1.0), noise=(0.05, 0.05), grid=4)
    alone = []
    for images in (5, 500, 50_000):
        others = decide(np.r_[np.full(images, 9.0)], np.full(images, np.nan), np.zeros(images, int), null, criteria)
        control, _ = made.positive_control(train, np.arange(12), copy, 12, null, others, criteria)
        assert control.recall == 1  # all others are called, so a p below the level is enough
        alone.append(control.alone)
    assert alone == sorted(alone, reverse=True) and alone[0] > 0.5 > alone[2]


def test_fewer_training_images_than_copies_are_all_taken(train):
    made = controls(train)
    null = made.leave_one_out_null(train, np.arange(12), UNKNOWN).null
    nothing = decide(np.zeros(0), np.zeros(0), np.zeros(0, int), null, Criteria())
    control, _ = made.positive_control(train, np.arange(12), RandCopyd("image"), 500, null, nothing, Criteria())
    assert control.images == 12 and control.recall == 1, "with no other image a p below the level is a call"
    assert benjamini_hochberg([0.04]).tolist() == [0.04]
