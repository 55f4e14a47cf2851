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


"""A question's verdict, and the table's text worked out by hand."""

from __future__ import annotations

import pytest
from question import Question, table

ASKED = Question("rate", lambda: 0.04, "at most 0.05", lambda rate: rate <= 0.05)
SHOWN = Question("counts", lambda: {"with_a_call": 3, "ci95": [0.0351, 0.109]})


@pytest.mark.parametrize(("rate", "verdict"), [(0.05, "yes"), (0.0501, "**no**"), (float("nan"), "**no**")])
def test_the_predicate_decides(rate, verdict):
    assert ASKED.verdict(rate) == verdict


def test_where_nothing_is_asked_nothing_is_decided():
    assert SHOWN.verdict(SHOWN.run()) == "" and SHOWN.asked == "shown, nothing asked"


def test_table():
    found = {"rate": {"answer": 0.06, "seconds": 1.0}, "counts": {"answer": SHOWN.run(), "seconds": 1.0}}
    assert table([SHOWN, ASKED], found).splitlines() == [
        "| audits | found | asked | holds |",
        "|---|---|---|---|",
        "| counts | with a call 3, ci95 0.0351 to 0.109 | shown, nothing asked |  |",
        "| rate | 0.06 | at most 0.05 | **no** |",
    ]


def test_table_leaves_out_what_is_not_answered():
    assert table([ASKED, SHOWN], {}).count("\n") == 2
