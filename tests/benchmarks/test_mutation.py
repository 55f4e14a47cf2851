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

"""The draw of the mutants and the table of what was noticed; neither needs mutmut."""

from __future__ import annotations

from mutation import drawn, table

NAMES = [f"m{number}" for number in range(50)]


def test_a_draw_depends_on_seed_and_module_alone():
    first = drawn(NAMES, 10, 0, "a.py")
    assert len(set(first)) == 10 and set(first) <= set(NAMES) and first == drawn(NAMES[::-1], 10, 0, "a.py")
    assert first != drawn(NAMES, 10, 1, "a.py") and first != drawn(NAMES, 10, 0, "b.py")
    assert drawn(NAMES, 60, 0, "a.py") == sorted(NAMES)


def test_a_test_that_never_ends_has_noticed_and_one_that_is_missing_has_not():
    status = {"a.py": {"1": "killed", "2": "timeout", "3": "survived"}, "b.py": {"4": "no tests", "5": "killed"}}
    assert table(status).splitlines()[2:] == ["| a.py | 3 | 2 | 1 |", "| b.py | 2 | 1 | 1 |", "| all | 5 | 3 | 2 |"]
