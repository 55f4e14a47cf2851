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


"""The speed table's short form runs, and the time of a call is the median one."""

from __future__ import annotations

import re

import numpy as np
import pytest
import speed


def test_the_median_call_counts_and_the_first_does_not(monkeypatch):
    clock = iter([0.0, 5.0, 10.0, 11.0, 20.0, 22.0])  # calls of 5, 1 and 2 seconds
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    calls = []
    assert speed.seconds(lambda: calls.append(0), repeats=3) == 2 and len(calls) == 4


@pytest.mark.parametrize(
    ("measure", "numbers"), [(speed.time_ssim, 5), (speed.time_embedder, 2), (speed.time_alignment, 1)]
)
def test_every_row_has_its_numbers(measure, numbers, capsys):
    measure(np.random.default_rng(0).random((4, *speed.SHAPE), np.float32), 1)
    found = [float(value) for value in re.findall(r"(?<![\w.-])\d+(?:\.\d+)?(?![\w.])", capsys.readouterr().out)]
    assert len(found) >= numbers and min(found) >= 0 and max(found) > 0


def test_volumes_have_their_numbers(capsys):
    heads = np.stack([speed.phantom_head(seed)[::2, ::2, ::2] for seed in range(2)])
    speed.time_volumes(heads, 1)
    times = re.findall(r"(?:embedded|five) (\d+\.\d+)", capsys.readouterr().out)
    assert len(times) == 2 and min(map(float, times)) > 0


def test_loading_has_its_numbers(capsys):
    speed.time_loading(1, sides=(40,), count=2)
    said = capsys.readouterr().out
    times = [float(number) for number in re.findall(r"(?:ours|transforms|alone) (\d+\.\d+)", said)]
    assert len(times) == 3 and min(times) > 0 and "loading a PNG of 40 x 40" in said and "ratio" in said
