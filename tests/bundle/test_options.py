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

from pathlib import Path

import numpy as np
import pytest
from scripts.bundle.options import Option, value_problems

PART = {"_target_": "x"}
NUMBERS, NAMES, CELLS = [1.0, 2.0], ["a", "b"], [{"name": "a"}]


def said(key: str, value: object, default: object, given: str | None = None) -> list[str]:
    return list(value_problems(Option(key, value, default, given)))


@pytest.mark.parametrize(
    ("default", "values"),
    [
        (True, [False]),
        (3, [0, -1]),
        (0.5, [2, 0.1]),
        (NUMBERS, [[3, 4], (3, 4)]),
        ([1.0, 2.0, 3.0], [[], [2], (1, 2.5, 3, 4)]),
        (NAMES, [["c"], (), ["a", "b", "c"]]),
        (CELLS, [[{"name": "b"}, {}], []]),
        (None, ["text", None, ["a"]]),
        ("text", ["other"]),
        ("$1 + 1", [3, None, "x"]),  # what an expression gives is checked by what takes it
        (3, ["$1 + 1", "@count", {"_target_": "x"}]),
        (PART, [{"_target_": "y", "a": 1}, "$1", None]),  # an overlay may take a part out
        ({"a": 1}, [{}, {"b": 2}]),
        (3, [np.int64(4)]),
        (0.5, [np.float32(0.25)]),
        ("auto", [3, "other"]),  # what takes it says what else it may be
    ],
)
def test_values_of_the_defaults_kind_pass(default, values):
    for value in (default, *values):
        assert said("key", value, default) == [], value


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [
        (1, True, "True or False, found 1"),
        (True, 3, "a whole number, found True"),
        (2.5, 3, "a whole number, found 2.5"),
        ("half", 0.5, "a number, found 'half'"),
        (False, 0.5, "a number, found False"),
        ([1], NUMBERS, '2 numbers, as "[1.0, 2.0]", found [1]'),
        (3, NUMBERS, '2 numbers, as "[1.0, 2.0]", found 3'),
        ([1, "x"], NUMBERS, "2 numbers, as \"[1.0, 2.0]\", found [1, 'x']"),
        (3, [1.0, 2.0, 3.0], 'a list of numbers, as "[1.0, 2.0, 3.0]", found 3'),
        ([True], [1.0, 2.0, 3.0], 'a list of numbers, as "[1.0, 2.0, 3.0]", found [True]'),
        ("a", NAMES, "a list of texts, as ['a', 'b'], found 'a'"),
        ([1], NAMES, "a list of texts, as ['a', 'b'], found [1]"),
        (["a"], CELLS, "a list of objects, as {'name': 'a'}, found ['a']"),
        (3, None, "text, found 3"),
        (" ", "text", "text, found ' '"),
        (float("inf"), 0.5, "a number, none above 4294967296, found inf"),
        (float("nan"), 0.5, "a number, none above 4294967296, found nan"),
        (10**400, 3, f"a whole number, none above 4294967296, found 1{'0' * 400}"),
        ([1.0, -1e300], NUMBERS, '2 numbers, as "[1.0, 2.0]", none above 4294967296, found [1.0, -1e+300]'),
        (0, PART, "an object with a _target_, found 0"),
        ({"a": 1}, PART, "an object with a _target_, found {'a': 1}"),
        (5, {"a": 1}, "an object, found 5"),
        ("null", "text", "text, found 'null'; leave the flag out, or write ./null for a file of that name"),
    ],
)
def test_values_of_another_kind_are_one_sentence(value, default, expected):
    assert said("key", value, default) == [f"--key: expected {expected}"]


def test_what_the_shell_gave_is_compared_with_what_monai_made_of_it():
    assert said("out_dir", "a", "b", "a") == said("out_dir", Path("a"), "b") == []
    assert said("out_dir", 2024, "b", "2024") == [
        "--out_dir: expected a path, found '2024', which MONAI reads as 2024; write ./2024"
    ]
    assert said("name", "a", "b", "a#b") == [
        "--name: expected text, found 'a#b', which MONAI reads as 'a'; use a name or a link without '#'"
    ]
    assert said("count", 3, 3, "None") == [
        "--count: expected a value, found None, which MONAI drops in favour of the default; leave the flag out"
    ]
    assert said("free", None, None, "None") == []
