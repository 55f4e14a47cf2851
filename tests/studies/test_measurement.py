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

import json

import numpy as np
import pytest
import torch
from scripts.bundle.files import write_table
from scripts.studies.measurement import Measurement, flagged, pooled, quality
from scripts.studies.rivals import CalibratedL2, Correlation
from scripts.studies.stages import Job
from scripts.studies.study_results import AttackedSubject, Cell, CellResult, Flagged, SubjectLeak

REPORT = {
    "memorized": {"count": 2, "rate": 0.2, "ci95": [0.1, 0.3], "excess_rate": 0.1},
    "inputs": {"generated": {"skipped": [{"path": "empty.png", "reason": "shows nothing"}]}},
    "leaked_subjects": {"count": 1, "rate": 0.1, "ci95": [0, 0.2], "ids": ["a+b"], "curve": {"samples": [10]}, "p": 0},
    "merged_subjects": {"groups": [["a", "b"]]},
    "set_level": {"auc": 0.5},
    "positive_control": {"recall": 1.0},
}


@pytest.fixture
def job(tmp_path):
    """A model that has been audited: training subjects a, a, b, c; images are drawn from their numbers."""
    folder = tmp_path / "cell"
    for name, subjects in (("train", "abc"), ("holdout", "defghi")):
        for subject in subjects:
            (folder / f"{subject}.png").parent.mkdir(exist_ok=True)
            (folder / f"{subject}.png").touch()
        write_table(folder / f"{name}.csv", [{"image": f"{s}.png", "subject_id": s} for s in subjects])
    write_table(folder / "model" / "records.csv", [{"subject_id": s, "copies": c} for s, c in zip("aabc", "2211")])
    rows = [(1, "duplicate"), (1, "similar"), (0, "duplicate"), *[(0, "different")] * 3]
    write_table(
        folder / "audit" / "matches.csv",
        [
            {"generated_id": f"{n}.png", "generated_path": f"/g/{n}.png", "memorized": m, "label": label}
            | {"train_subject": "a+b" if m else "c"}
            for n, (m, label) in enumerate(rows)
        ],
    )
    (folder / "audit" / "report.json").write_text(json.dumps(REPORT))
    (folder / "seconds.json").write_text(json.dumps({"train": 1.5}))
    return Job(Cell("few", 3, duplication="low"), 7, 6, folder)


def chain(item):
    """Stands for the bundle's chain: an image drawn from the path's number."""
    image = np.random.default_rng(sum(map(ord, item["image"][-6:]))).random((1, 16, 8), np.float32)
    return {"image": torch.from_numpy(image), "level": np.nan, "slice": -1}


def test_merged_subjects_are_both_leaked_and_calls_labelled_duplicates_are_counted(job):
    found = Measurement(chain, {"correlation": Correlation(), "not given": None})(job)
    assert found.subjects == [SubjectLeak("a", 2, True), SubjectLeak("b", 1, True), SubjectLeak("c", 1, False)]
    assert found.duplicates == 1  # called and as alike as copies
    assert found.empty == 1
    assert found.cell == job.cell and found.seed == 7 and found.seconds == {"train": 1.5}
    assert found.memorized == REPORT["memorized"] and found.leaked_subjects.keys() == {"count", "rate", "ci95", "curve"}
    assert found.rivals.keys() == {"correlation"} and 0 <= found.rivals["correlation"].flagged <= 1


def test_a_membership_attack_is_compared_with_the_calls_where_there_was_one(job):
    measure = Measurement(chain, {})
    assert measure(job).membership is None
    rows = [{"subject_id": s, "member": int(s in "abc"), "score": -n} for n, s in enumerate("abcdefghi")]
    write_table(job.folder / "membership" / "membership.csv", rows)
    found = measure(job).membership
    assert found.subjects[:3] == [  # calls of merged subjects are of both
        AttackedSubject("a", True, 0.0, True, 2),
        AttackedSubject("b", True, -1.0, True, 2),
        AttackedSubject("c", True, -2.0, False, 0),
    ]
    assert found.auc.value == found.leaked_auc.value == found.tpr.value == 1
    measure(job).write(job.folder / "result.json")
    assert CellResult.read(job.folder / "result.json").membership == found


def test_flagged_share_of_unseen_images_is_a_twentieth():
    rng = np.random.default_rng(0)
    train, holdout = rng.random((2, 400, 8, 8), np.float32)
    assert flagged(Correlation(), train, holdout, holdout).flagged == pytest.approx(0.05, abs=0.005)
    assert flagged(Correlation(), train, holdout, train).flagged == 1
    method = CalibratedL2(nearest=3)
    expected = np.percentile(method.fit(train).matrix(holdout, train).max(1), 95)
    assert flagged(method, train, holdout, holdout) == Flagged(pytest.approx(0.05, abs=0.005), pytest.approx(expected))


def test_quality_is_the_squared_distance_of_mean_features():
    rng = np.random.default_rng(0)
    train, holdout = rng.random((2, 60, 16, 16), np.float32)
    found = quality(pooled, train, holdout, holdout + np.float32(0.5))
    assert found.mmd == pytest.approx(4 * 0.25, abs=0.02)  # four features, each 0.5 away
    assert abs(found.mmd_train) < 0.01


def test_pooled_images_are_means_of_blocks():
    images = np.random.default_rng(0).random((3, 16, 24), np.float32)
    expected = images.reshape(3, 2, 8, 3, 8).mean((2, 4)).reshape(3, 6)
    np.testing.assert_allclose(pooled(images), expected, atol=1e-6)
    volumes = np.random.default_rng(0).random((2, 8, 16, 24), np.float32)
    expected = volumes.reshape(2, 1, 8, 2, 8, 3, 8).mean((2, 4, 6)).reshape(2, 6)
    np.testing.assert_allclose(pooled(volumes), expected, atol=1e-6)
