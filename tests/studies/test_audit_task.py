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
from scripts.auditing.audit import Audit
from scripts.studies.audit_task import AuditTask
from scripts.studies.pairs import moved


@pytest.fixture
def task(copies):
    audit = Audit(None, copies.verifier, copies.transform, control_images=4)
    return AuditTask(audit, audits=2, copies=5)


def test_the_sets_hold_copies_of_train_and_images_of_others(task, test_slices, copies, oracle):
    trials = task.draw(test_slices, copies)
    assert len(trials) == 2 and (trials[0].train.images != trials[1].train.images).any()
    for trial in trials:
        known = set(trial.train.subject)
        assert len(known) == round(0.7 * 14) and len(trial.images) == 10
        assert (trial.source >= 0).sum() == 5 and known >= set(trial.source[:5]) and (trial.source[5:] < 0).all()
        nearest = oracle.matrix(trial.images, test_slices.images).argmax(1)
        assert test_slices.subject[nearest][:5].tolist() == trial.source[:5].tolist()
        assert not known & set(test_slices.subject[nearest][5:])
    np.testing.assert_array_equal(task.draw(test_slices, copies)[1].images, trials[1].images)


def test_an_oracle_lets_the_audit_find_more_than_noise(task, test_slices, copies, flip, oracle, noise):
    trials = [replace(t, images=moved(t.images, flip, 0)) for t in task.draw(test_slices, copies)[:1]]
    best, worst = task(oracle, trials), task(noise, trials)
    assert best.recall[0] >= worst.recall[0] and len(best.recall) == len(best.false_share) == 1
    assert best.recall[0] >= 0.8 and best.false_share[0] <= 0.2
