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

"""The guard, and what is not reached end to end by tests/test_front_door.py."""

from __future__ import annotations

import pytest
from helpers import ROOT
from monai.bundle import ConfigParser

from scripts.bundle.arguments import check_arguments

CONFIG = """
run: []
count: 3
share: 0.5
flag: false
pair: [1.0, 2.0]
names: [a, b]
cells: [{name: a}]
free: null
title: x
"""


def check(tmp_path, **changes) -> str:
    """The sentence that ends the process, as an expression of a changed config calls the check; '' for none."""
    shipped = tmp_path / "a.yaml"
    shipped.write_text(CONFIG)
    config = ConfigParser.load_config_file(str(shipped)) | changes
    config["door"] = "$check_arguments(@shipped, allow=['shipped', 'door', 'check_arguments', 'extra'])"
    parser = ConfigParser(config | {"shipped": str(shipped)}, globals={"check_arguments": check_arguments})
    try:
        parser.get_parsed_content("door")
    except SystemExit as stop:
        return str(stop.code)
    return ""


def test_the_shipped_values_and_others_of_their_kinds_pass(tmp_path):
    assert check(tmp_path) == ""
    changes = {"count": 0, "share": 2, "flag": True, "pair": (3, 4), "names": ["c"], "cells": [{"name": "b"}, {}]}
    assert check(tmp_path, **changes, free="text", title="y", extra=1) == ""
    assert check(tmp_path, free=["a"]) == "" == check(tmp_path, count="$1 + 1", cells="@names", title={"_target_": "x"})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"count": True}, "--count: expected a whole number, found True"),
        ({"count": 2.5}, "--count: expected a whole number, found 2.5"),
        ({"share": "half"}, "--share: expected a number, found 'half'"),
        ({"share": False}, "--share: expected a number, found False"),
        ({"flag": 1}, "--flag: expected True or False, found 1"),
        ({"pair": [1]}, '--pair: expected 2 values, as "[1.0, 2.0]", found [1]'),
        ({"pair": 3}, '--pair: expected 2 values, as "[1.0, 2.0]", found 3'),
        ({"names": "a"}, "--names: expected a list of texts, as ['a', 'b'], found 'a'"),
        ({"names": [1]}, "--names: expected a list of texts, as ['a', 'b'], found [1]"),
        ({"cells": ["a"]}, "--cells: expected a list of objects, as {'name': 'a'}, found ['a']"),
        ({"free": 3}, "--free: expected text, found 3"),
        ({"title": "null"}, "--title: expected text, found 'null'; leave the flag out, or write ./null for a file of"),
        ({"coutn": 3}, "--coutn: expected a key of the config, found none of this name; did you mean --count?"),
        ({"show_key": 1}, "--show_key: expected a key of the config, found none of this name; did you mean --show_"),
    ],
)  # fmt: skip
def test_values_of_another_kind_are_one_sentence(tmp_path, change, sentence):
    assert check(tmp_path, **change).startswith(f"error: {sentence}")


def test_every_config_begins_with_the_same_guard_and_the_check():
    """Another package called scripts has no check_arguments: the guard says so before anything else fails."""
    runs = []
    for path in (ROOT / "configs").rglob("*.yaml"):
        if "run" in (config := ConfigParser.load_config_file(str(path))):
            runs.append(config["run"])
    assert len(runs) >= 13
    assert len({steps[0] for steps in runs}) == 1 and runs[0][0].startswith("$hasattr(scripts, 'check_arguments') or")
    assert all(steps[1].startswith("$scripts.check_arguments(@bundle_root + '/configs/") for steps in runs)
