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

"""The study of killed runs: it kills, it sees what is broken, and it goes on where it was stopped."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from killed import Stage, broken, table, trials

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of Python 3.12 on


@dataclass
class Counting(Stage):
    """Writes ten tables; a careless one writes each in two parts, under its own name."""

    careless: bool
    name: str = "counting"

    def run(self, folder: Path, again: bool) -> None:
        for number in range(10):
            path = folder / f"{number}.json"
            if not path.exists() or again:
                half = path if self.careless else folder / f".{number}.tmp"
                half.write_text("[1,")
                time.sleep(0.02)
                half.write_text("[1, 2]")
                half.rename(path)

    def difference(self, folder: Path, undisturbed: Path) -> float:
        return float(any((folder / f"{n}.json").read_text() != "[1, 2]" for n in range(10)))


@pytest.mark.parametrize("careless", [True, False])
def test_killed_runs_are_counted_with_what_they_left(tmp_path, careless):
    done = trials(Counting(careless), kills=6, folder=tmp_path, seed=0)
    assert len(done) == 6 and all(trial.ended_well and trial.difference == 0 for trial in done)
    assert any(trial.broken for trial in done) == careless
    lines = (tmp_path / "results.jsonl").read_text()
    assert trials(Counting(careless), kills=6, folder=tmp_path, seed=0) == done  # nothing is done again
    assert (tmp_path / "results.jsonl").read_text() == lines
    count = sum(bool(trial.broken) for trial in done)
    assert table(done).splitlines()[2] == f"| counting | 6 | {count} | 6 | 6 | 0.0e+00 |"


def test_a_file_that_is_not_whole_is_seen(tmp_path):
    for name, text in (("a.csv", "x\n1\n"), ("b.json", "{"), ("c.pt", "PK"), (".d.json", "{"), ("e.html", "<html>")):
        (tmp_path / name).write_text(text)
    assert [Path(line.partition(":")[0]).name for line in broken(tmp_path)] == ["b.json", "c.pt", "e.html"]


def test_a_page_without_its_tables_is_seen(tmp_path):
    (tmp_path / "report.html").write_text("<html></html>")
    assert len(broken(tmp_path)) == 1 and "matches.csv" in broken(tmp_path)[0]
