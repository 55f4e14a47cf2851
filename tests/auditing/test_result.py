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
from audits import audit, embedded, images_of
from scripts.auditing.calibration import Control
from scripts.auditing.findings import SetFit
from scripts.auditing.result import Verdict
from scripts.decision.labels import Label, Thresholds
from scripts.images.correction import Correction


def test_a_match_names_the_file_that_most_slices_match_and_the_strongest_slice():
    """Two scans of one person: a copy of the second one, whose first slice is lost, is a copy of that file."""
    stacks = images_of(14 * 3, seed=15)
    train = embedded(stacks, slices=3)
    for file in (12, 13):
        train.items[file]["subject_id"] = "twice"
    copy = stacks[39:42].copy()
    copy[0] = stacks[36]
    result = audit()(train, embedded(np.concatenate([copy, images_of(3, seed=16)]), "g", slices=3))
    match = result.match(0)
    assert result.subject_names[match.subject] == "twice" and match.file == 0 and match.rows.tolist() == [0, 1, 2]
    assert match.train_file == 13 and match.train_row == result.found.image[match.row, result.found.best[0]]
    scores = result.found.slice_ssim[match.rows, result.found.best[0]]
    assert match.row == scores.argmax() and match.aligned_ssim == pytest.approx(scores.mean(), rel=1e-6)
    assert not match.mirrored


def test_what_the_result_says_of_each_image():
    train = embedded(images_of(20, seed=0))
    result = audit(control_images=4)(train, embedded(np.concatenate([train.images[[5]], images_of(3, seed=1)]), "g"))
    assert result.memorized.tolist() == (result.q_value <= result.fdr).tolist() == [True, False, False, False]
    assert result.leaked == ["s005"] and result.subject_names[result.found.nearest[0]] == "s005"
    assert result.train_subject.tolist() == list(range(20))
    best = result.found.best_ssim
    loose = replace(result, thresholds=Thresholds(similar=0.0, duplicate=float(best[1:].min()), separable=True))
    assert loose.candidate.tolist() == [False, True, True, True], "calls are no candidates"
    strict = replace(result, thresholds=Thresholds(similar=2.0, duplicate=0.0, separable=False))
    assert not strict.candidate.any() and strict.label == [Label.DIFFERENT] * 4
    without = replace(result, thresholds=Thresholds(similar=float("inf"), duplicate=0.0, separable=False))
    assert without.candidate.tolist() == [False, True, True, True], "without a null only the copies' cut counts"


def test_doubts_make_a_clean_answer_inconclusive_and_never_hide_a_copy():
    train = embedded(images_of(20, seed=0))
    clean = audit(control_images=20)(train, embedded(images_of(4, seed=1), "g"))
    assert not clean.memorized.any() and clean.control.ci95[0] > 0.5
    assert clean.doubts == [] and clean.verdict is Verdict.NO_COPYING
    for change, sentence in (
        ({"fit": SetFit(Correction(), 0.2, 0.5, fits=False)}, "do not resemble the training images as a set"),
        ({"fit": SetFit(mixed=0.5)}, "About 50% of the generated images do not fit as the others do"),
        ({"subject_names": ["a"] * 5}, "There are 5 training subjects, and at least 6 are needed."),
        ({"calibration": replace(clean.calibration, null="none")}, "There is no null"),
        ({"control": Control(20, 0.6, (0.36, 0.81), 1.0)}, r"it would have called 60% (95 % interval 36% to 81%)"),
        ({"shared": 5}, "The holdout holds 5 of the training images"),
        (
            {"shared_people": [(f"h{i}", f"s{i}") for i in range(5)]},
            "5 subjects of the holdout stand in the training set too (h0 is s0, h1 is s1, h2 is s2 and 2 more)",
        ),
        (
            {"generated": replace(clean.generated, skipped=[("a", "bad")])},
            "20% of the generated files could not be read",
        ),
    ):
        doubtful = replace(clean, **change)
        assert len(doubtful.doubts) == 1 and sentence in doubtful.doubts[0]
        assert doubtful.verdict is Verdict.INCONCLUSIVE
        found = replace(doubtful, decision=replace(clean.decision, memorized=np.arange(4) == 2))
        assert found.verdict is Verdict.LIKENESSES and found.doubts == doubtful.doubts
        found = replace(found, detail=np.ones(4))
        assert found.verdict is Verdict.COPIES and found.tier == ["none", "none", "copy", "none"]
    tolerant = replace(clean, criteria=replace(clean.criteria, least_recall=0.0, most_skipped=0.5))
    for change in (
        {"control": Control(20, 0.1, (0.01, 0.3), 1.0)},
        {"generated": replace(clean.generated, skipped=[("a", "")])},
    ):
        assert replace(tolerant, **change).verdict is Verdict.NO_COPYING


def test_a_holdout_that_holds_training_images_under_other_names_is_noticed():
    images = images_of(30, seed=0)
    train, holdout = embedded(images[:20]), embedded(np.concatenate([images[20:], images[:3]]), "h")
    result = audit(control_images=8)(train, embedded(images_of(4, seed=1), "g"), holdout)
    assert result.shared == 3 and any("holds 3 of the training images" in doubt for doubt in result.doubts)
