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

"""Lines where there is no terminal: when they come, and what they say."""

from __future__ import annotations

import io
import re

import pytest
from scripts.bundle.progress import Progress
from tqdm import std


class Clock:
    """Stands for the module `time` in tqdm."""

    now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(std, "time", clock.time)
    return clock


def lines(clock: Clock, steps: int, seconds: float, capsys) -> list[str]:
    for _ in Progress(range(steps), desc="aligning", unit="block"):
        clock.now += seconds
    return capsys.readouterr().err.splitlines()


def test_a_short_step_says_nothing(clock, capsys):
    assert lines(clock, steps=4, seconds=1, capsys=capsys) == []


def test_the_first_line_comes_after_five_seconds_then_one_every_thirty_and_a_last_one(clock, capsys):
    said = lines(clock, steps=100, seconds=1, capsys=capsys)
    counts = [int(re.search(r"(\d+) of 100 blocks", line).group(1)) for line in said]
    assert counts == [5, 35, 65, 95, 100]


def test_a_last_line_is_said_once(clock, capsys):
    assert len(lines(clock, steps=2, seconds=40, capsys=capsys)) == 2


def test_a_line_says_what_how_far_and_how_long_still(clock, capsys):
    said = lines(clock, steps=100, seconds=2, capsys=capsys)
    assert said[1].startswith("aligning: 18 of 100 blocks, 00:36 passed, 02:44 left")


def test_a_terminal_gets_one_bar_that_is_written_over(clock, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    for _ in Progress(range(20), desc="aligning"):
        clock.now += 1
    assert terminal.getvalue().count("\n") == 1 and terminal.getvalue().count("\r") > 10
