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

import sys

import pytest
from helpers import ROOT
from monai.bundle import ConfigParser
from scripts.bundle.arguments import check_arguments

pytestmark = pytest.mark.usefixtures("as_command")

CONFIG = """
run: []
count: 3
names: [a, b]
device: "$'cpu'"
part: {_target_: builtins.dict, count: '@count', names: [c]}
"""


def check(tmp_path, **changes) -> str:
    """The sentence that ends the process, as an expression of a changed config calls the check; '' for none."""
    shipped = tmp_path / "a.yaml"
    shipped.write_text(CONFIG)
    flag = changes.pop("flag", None)
    config = ConfigParser.load_config_file(str(shipped)) | changes
    config["door"] = "$check_arguments(@shipped, build=['built'], allow=['shipped', 'door', 'extra', 'built'])"
    config = {"built": 0, "shipped": str(shipped)} | config
    parser = ConfigParser(config, globals={"check_arguments": check_arguments})
    if flag:
        parser[flag[0].replace("#", "::")] = flag[1]
    try:
        parser.get_parsed_content("door")
    except SystemExit as stop:
        return str(stop.code)
    return ""


def test_known_allowed_and_used_keys_pass(tmp_path):
    assert check(tmp_path) == "" == check(tmp_path, extra=1, _note="x", count=4)
    assert check(tmp_path, own=5, count="$@own + 1") == ""  # an overlay's key that something refers to
    assert check(tmp_path, show_keys=False) == ""


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"count": "many"}, "--count: expected a whole number, found 'many'"),
        ({"coutn": 3}, "--coutn: expected a key of the config, found none of this name; did you mean --count?"),
        ({"show_key": 1}, "--show_key: expected a key of the config, found none of this name; did you mean --show_"),
        ({"zzz": 1}, "--zzz: expected a key of the config, found none of this name; --show_keys True lists them"),
        ({"built": "$int('x')"}, "invalid literal for int() with base 10: 'x'"),
        ({"built": "$1 / 0"}, "ZeroDivisionError: division by zero"),
    ],
)
def test_what_is_wrong_ends_the_process_with_one_sentence(tmp_path, change, sentence):
    said = check(tmp_path, **change)
    assert said.startswith(f"error: {sentence}") and "\n" not in said


@pytest.mark.parametrize(
    ("flag", "value", "sentence"),
    [
        ("part::count", "x", "--part::count: expected a whole number, found 'x'"),
        ("part#count", 2.5, "--part#count: expected a whole number, found 2.5"),
        ("part::count", "$[1]", "--part::count: expected a whole number, found [1], which '$[1]' gives"),
        ("part::names::0", 5, "--part::names::0: expected text, found '5', which MONAI reads as 5; quote it twice"),
        (
            "count",
            "$1 / 0",
            "--count: expected a value, found '$1 / 0', which MONAI evaluates as it starts with '$' (div",
        ),
        ("count", "$'x'", """--count: expected a whole number, found 'x', which "$'x'" gives"""),
        ("count", "$float('nan')", "--count: expected a whole number, found nan, which"),
        ("names", "@count", "--names: expected a list of texts, as ['a', 'b'], found 3, which '@count' gives"),
        ("device", "tpu", "--device: expected cpu, or cuda or cuda:N where there is such a GPU, found 'tpu' ("),
        ("device", "meta", "--device: expected cpu, or cuda or cuda:N where there is such a GPU, found 'meta' (which"),
        ("device", [1], "--device: expected cpu, or cuda or cuda:N where there is such a GPU, found [1] (a list)"),
        ("device", "cpu", ""),
        ("count", "$2 + 2", ""),
        ("part::count", 4, ""),
        ("part::new", "x", ""),  # what takes it will say
    ],
)
def test_a_flag_is_checked_by_what_it_gives_and_a_part_by_the_key_that_it_refers_to(
    tmp_path, monkeypatch, flag, value, sentence
):
    monkeypatch.setattr(sys, "argv", ["monai/bundle/__main__.py", "run", f"--{flag}", str(value)])
    assert check(tmp_path, flag=(flag, value)).startswith(sentence and f"error: {sentence}")


def test_every_config_begins_with_the_same_guard_and_the_check():
    """Another package called scripts has no check_arguments: the guard says so before anything else fails."""
    runs = []
    for path in (ROOT / "configs").rglob("*.yaml"):
        if "run" in (config := ConfigParser.load_config_file(str(path))):
            runs.append(config["run"])
    assert len(runs) >= 13
    assert len({steps[0] for steps in runs}) == 1 and runs[0][0].startswith("$hasattr(scripts, 'check_arguments') or")
    assert all(steps[1].startswith("$scripts.check_arguments(@bundle_root + '/configs/") for steps in runs)
