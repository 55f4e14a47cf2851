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


"""The list of questions: a stopped run goes on, and docs/validity.md answers exactly these."""

from __future__ import annotations

import json

import pytest
import validity
from helpers import ROOT
from question import Question

EVERYTHING = validity.simulated() + validity.real("", "", "")


def test_docs_answer_every_question_in_order_and_say_what_was_asked():
    lines = (ROOT / "docs" / "validity.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    documented = [(name, asked) for name, _, asked, _ in rows if name != "audits"]
    assert documented == [(question.name, question.asked) for question in EVERYTHING]
    shown = [name for name, _, _, holds in rows if holds == ""]
    assert shown == [question.name for question in EVERYTHING if question.holds is None]


def test_names_are_unique():
    assert len({question.name for question in EVERYTHING}) == len(EVERYTHING)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("rank floor, n = 50", 0.86, 1.71),
        ("rank floor, n = 50, without the correction 2", 1.71, 0.86),
        ("levels", 0.91, 2.98),
        ("levels, null at a random level", 2.98, 0.91),
        ("nothing memorized, clustered, n = 20, 100 images", 35, 36),
        (
            "mixed, iid, 1% copies",
            {"false_share": 0.06, "standard_error": 0.01, "recall": 0.96},
            {"false_share": 0.06, "standard_error": 0.01, "recall": 0.94},
        ),
        (
            "mixed, clustered, 1% copies",
            {"false_share": 0.08, "standard_error": 0.011, "recall": 0.2},
            {"false_share": 0.08, "standard_error": 0.009, "recall": 0.2},
        ),
        (
            "mixed, iid, 1% copies, p <= 0.05 calls",
            {"false_share": 0.8, "standard_error": 0.01, "recall": 1.0},
            {"false_share": 0.04, "standard_error": 0.01, "recall": 1.0},
        ),
        ("smoothing by the generator", 0.04, 0.97),
        ("smoothing by the generator, raw similarity", 0.97, 0.04),
        (
            "5 leaked subjects, 200 copies among 5,000",
            {"false_share": 0.05, "power": 0.9},
            {"false_share": 0.05, "power": 0.8},
        ),
        (
            "5 leaked subjects, from the images' calls",
            {"false_share": 0.42, "power": 1.0},
            {"false_share": 0.01, "power": 1.0},
        ),
        ("5 % of scans stored twice", 1.0, 0.0),
        ("5 % of scans stored twice, not merged", 0.0, 1.0),
        ("known transforms of real slices recovered", {"failures": 0}, {"failures": 1}),
        ("real slices, unseen ones blurred", {"audits": 40, "with_a_call": 4}, {"audits": 40, "with_a_call": 5}),
        (
            "real slices, unseen ones blurred, raw similarity",
            {"audits": 40, "with_a_call": 21},
            {"audits": 40, "with_a_call": 20},
        ),
        # of 100 calls at a rate of 0.05 a 99.9 % binomial limit leaves 13 wrong ones
        ("real slices, n = 20, 1% strong copies", {"called": 100, "wrong": 13}, {"called": 100, "wrong": 14}),
    ],
)
def test_a_right_answer_holds_and_a_wrong_one_does_not(name, right, wrong):
    question = next(question for question in EVERYTHING if question.name == name)
    assert [question.verdict(right), question.verdict(wrong)] == ["yes", "**no**"]


def test_a_stopped_run_goes_on_with_the_next_question(tmp_path, capsys):
    asked = []

    def once() -> float:
        asked.append("first")
        return 0.5

    def stopped() -> float:
        raise KeyboardInterrupt

    first = Question("first", once, "at least 0.5", lambda share: share >= 0.5)
    with pytest.raises(KeyboardInterrupt):
        validity.answer([first, Question("second", stopped)], tmp_path)
    validity.answer([first, Question("second", lambda: 7)], tmp_path)
    assert asked == ["first"]
    assert {name: row["answer"] for name, row in json.loads((tmp_path / "validity.json").read_text()).items()} == {
        "first": 0.5,
        "second": 7,
    }
    assert (tmp_path / "validity.md").read_text().splitlines()[2:] == [
        "| first | 0.5 | at least 0.5 | yes |",
        "| second | 7 | shown, nothing asked |  |",
    ]
    assert "second: 7 (" in capsys.readouterr().out


def test_another_runs_answers_stay_in_the_table(tmp_path):
    first, second = Question("first", lambda: 1), Question("second", lambda: 2)
    validity.answer([second], tmp_path)
    validity.answer([first], tmp_path, shown=[first, second])
    assert (tmp_path / "validity.md").read_text().count("\n") == 4


def test_missing_weights_are_noticed_before_anything_is_run(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["validity.py", "--autoencoder_file", str(tmp_path / "none.pt")])
    with pytest.raises(SystemExit):
        validity.main()
    assert "--autoencoder_file: expected a file, found none at" in capsys.readouterr().err
