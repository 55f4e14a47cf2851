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

"""The fuzzer: no answer is a traceback, a hang or nonsense, and the fuzzer would notice each."""

from __future__ import annotations

import time

import fuzz
import fuzz_case
import numpy as np
import pytest
from fuzz import faults, table, thrown
from fuzz_images import ImageCases
from fuzz_lists import ListCases
from fuzz_overrides import OverrideCases
from scripts.embedder.file_loader import Loaded, LoadedImage, Unreadable
from scripts.images import people

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # MONAI's PILReader, of a truncated file
    pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning"),
]


def columns(results: list[fuzz.Thrown]) -> set[str]:
    return {result.outcome.column for result in results}


@pytest.mark.parametrize(
    ("kind", "cases", "numbers"),
    [("images", ImageCases, 80), ("lists", ListCases, 150), ("overrides", lambda: OverrideCases(0.0), 9)],
)
def test_every_answer_is_right_or_one_sentence(monkeypatch, kind, cases, numbers):
    monkeypatch.setattr(people, "SLOWEST", 0.1)
    with fuzz.quiet():
        results = list(thrown(kind, cases(), range(numbers), seed=7))
    assert faults(results) == []
    assert {"right", "sentence"} <= columns(results) or kind == "overrides"


def swallow(_) -> Loaded:
    """A reader that gives a picture whatever the file holds."""
    return Loaded("", [LoadedImage(np.eye(9, dtype=np.float16), -1, np.nan)])


def fail(_) -> Loaded:
    raise KeyError("image")


@pytest.mark.parametrize(
    ("load", "column"),
    [
        (swallow, "nonsense"),
        (lambda _: Unreadable("", "expected an image, found none"), "nonsense"),  # sound files are refused
        (lambda _: Unreadable("", "'NoneType' object has no attribute 'shape'"), "traceback"),
        (fail, "traceback"),
    ],
)
def test_a_reader_with_a_fault_is_counted(load, column):
    with fuzz.quiet():
        results = list(thrown("images", ImageCases(load), range(20), seed=2))
    assert column in columns(results) <= {column, "right", "sentence"}
    assert faults(results) and all(line.startswith(f"{column}: --only images:") for line in faults(results))


def test_what_takes_too_long_is_a_hang():
    slow = fuzz_case.Case("slow", lambda: time.sleep(5), lambda _: "", limit=0.05)
    assert fuzz_case.outcome(slow) == fuzz_case.Outcome("hang", "more than 0.05 s")


def test_an_error_that_names_nothing_is_no_sentence():
    def said(text: str) -> str:
        return fuzz_case.outcome(fuzz_case.Case("a", lambda: float(text), lambda _: "", "a.png")).column

    assert (said("b.png"), said("a.png"), said("1")) == ("traceback", "sentence", "right")
    assert fuzz_case.outcome(fuzz_case.Case("a", lambda: 1, lambda _: "one")).column == "nonsense"


def test_an_input_is_reproduced_by_its_number():
    for cases, kind in ((ImageCases, "images"), (ListCases, "lists")):
        with fuzz.quiet():
            several = list(thrown(kind, cases(), range(5), seed=1))
            (alone,) = thrown(kind, cases(), range(4, 5), seed=1)
        assert (several[4].what, several[4].outcome.column) == (alone.what, alone.outcome.column)


def test_a_fault_is_status_1_and_stands_in_the_table(monkeypatch, capsys):
    monkeypatch.setitem(fuzz.KINDS, "images", lambda: ImageCases(swallow))
    with pytest.raises(SystemExit) as end:
        fuzz.main(["--inputs", "25", "--only", "images:0"])
    assert end.value.code == 1
    out = capsys.readouterr().out
    assert out.startswith(fuzz.HEADER) and "| images | 1 | 0 | 0 | 0 | 0 | 1 |" in out
    assert "nonsense: --only images:0 (" in out


def test_the_table_adds_up():
    results = [fuzz.Thrown("lists", n, "", fuzz_case.Outcome(column, "")) for n, column in enumerate(fuzz_case.COLUMNS)]
    assert table(results * 2).splitlines()[2:] == ["| lists | 10 | 2 | 2 | 2 | 2 | 2 |"]
