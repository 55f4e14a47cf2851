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
"""Answers about planted volumes are counted."""

from __future__ import annotations

from dataclasses import replace

from scripts import LookupAnswer, Tier
from single_images import counted, table

COPY = LookupAnswer(Tier.COPY, "sub-3", "a.nii", 0.98, False, 0.97, 1e-6, 0.01, 0.95, 60, [])
LIKENESS, NONE = replace(COPY, tier=Tier.LIKENESS), replace(COPY, tier=Tier.NONE)


def test_answers_are_counted_by_verdict_and_of_copies_by_subject():
    first = counted("mild", 0, [COPY, COPY, LIKENESS, NONE, NONE], ["sub-3", "sub-4", "sub-3", "sub-9", ""])
    assert (first.copies, first.new, first.wrong_subject) == ({"copy": 2, "likeness": 1, "none": 1}, {"none": 1}, 1)
    second = counted("mild", 1, [COPY, LIKENESS], ["sub-3", ""])
    assert table([first, second, counted("strong", 0, [NONE], ["sub-3"])]).splitlines()[2:] == [
        "| mild | 5 | 3 | 1 | 1 | 2 | 1 |",
        "| strong | 1 | 0 | 0 | 0 | 0 | 0 |",
    ]
