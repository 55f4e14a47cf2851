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

"""Shares of the work: together they are all of it, and what is done is seen by all."""

from __future__ import annotations

import threading

import pytest
from scripts.bundle import shares
from scripts.bundle.shares import ALL, Share, Steps


@pytest.mark.parametrize("count", [1, 2, 3, 16])
@pytest.mark.parametrize("pieces", [0, 1, 7, 16, 33])
def test_shares_are_all_of_the_work_once(count, pieces):
    found = [piece for number in range(1, count + 1) for piece in Share(number, count).of(range(pieces))]
    assert sorted(found) == list(range(pieces))
    assert ALL.of(range(pieces)) == list(range(pieces))


def test_a_share_is_read_as_it_is_written():
    assert Share.parse(" 3 / 16") == Share.parse("3/16") == Share(3, 16) and str(Share(3, 16)) == "3/16"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("3", "expected a share such as 3/16, found '3'"),
        ("1/0", "expected one from 1/0 to 0/0, found 1/0"),
        ("0/3", "expected one from 1/3 to 3/3, found 0/3"),
        ("4/3", "expected one from 1/3 to 3/3, found 4/3"),
        ("-1/3", "expected a share such as 3/16"),
        (0.25, "expected a share such as 3/16, found 0.25"),
    ],
)
def test_what_is_no_share_is_refused(text, sentence):
    with pytest.raises(ValueError, match=f"shard: {sentence}"):
        Share.parse(text)


def test_steps_count_the_shares_that_are_done(tmp_path):
    one, two = (Steps(tmp_path / "new", Share(number, 2), ["a", "b"]) for number in (1, 2))
    assert one.done("embedded") == 1 and one.done("embedded") == 1  # again is not more
    assert one.missing("embedded") == [Share(2, 2)] and len(one.missing("aligned")) == 2
    assert two.done("embedded") == 2 and one.done("aligned") == 1
    assert Steps(tmp_path / "new", Share(1, 2), ["a", "c"]).done("embedded") == 1  # other files are other work
    assert Steps(tmp_path / "new", Share(1, 3), ["a", "b"]).done("embedded") == 1  # as is another division


def test_a_step_may_wait_for_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(shares, "POLL", 0.01)
    found = []
    waiting = threading.Thread(target=lambda: found.append(Steps(tmp_path, Share(1, 2), ["a"], wait=True).done("x")))
    waiting.start()
    while waiting.is_alive() and not list(tmp_path.glob("*.done")):
        pass
    assert not found
    assert Steps(tmp_path, Share(2, 2), ["a"], wait=True).done("x") == 2
    waiting.join(10)
    assert found == [2]
