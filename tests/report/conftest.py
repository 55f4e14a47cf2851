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
"""Audits of small synthetic sets: what must be called, what must not, and what is degenerate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from audits import audit, embedded, images_of
from scripts.auditing.result import AuditResult


@pytest.fixture(scope="session")
def result() -> AuditResult:
    """Of 20 training subjects two are copied, among 4 new images; a file of each real set could not be read."""
    train = embedded(images_of(20, seed=0), "patient")
    generated = embedded(np.concatenate([train.images[[3, 8]], images_of(4, seed=35)]), "sample")
    holdout = embedded(images_of(24, seed=6), "stranger")
    skipped = [("secret.png", "secret.png is flat")]
    sets = (replace(data, skipped=skipped) for data in (train, holdout))
    train, holdout = sets
    return audit()(train, generated, holdout)


@pytest.fixture(scope="session")
def volumes() -> AuditResult:
    """One of 8 training volumes of 8 slices is copied, beside a new one."""
    stacks = images_of(8 * 8, seed=11)
    train = embedded(stacks, "patient", slices=8)
    generated = embedded(np.concatenate([stacks[16:24], images_of(8, seed=12)]), "sample", slices=8)
    return audit(control_images=4)(train, generated)
