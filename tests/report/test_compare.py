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

import copy
import json

import pytest
from helpers import run_config
from scipy import stats
from scripts.report.compare import compare_reports, difference_interval

REPORT = {
    "schema_version": "1.4",
    "checkpoint": {"sha256": "a"},
    "fdr": 0.05,
    "inputs": {"train": {"subjects": 50, "slices": 500}},
    "calibration": {"images": 200, "null": "holdout", "p_value": "tail"},
    "positive_control": {"recall": 0.95},
    "memorized": {"count": 40, "rate": 0.2, "ci95": [0.15, 0.27]},
    "leaked_subjects": {"ids": ["s1", "s2", "s3"], "curve": {"samples": [0, 100, 200], "subjects": [0.0, 2.0, 3.0]}},
    "set_level": {"auc": 0.7},
}


def changed(**parts) -> dict:
    report = copy.deepcopy(REPORT)
    for name, part in parts.items():
        report[name] = {**report[name], **part} if isinstance(part, dict) else part
    return report


def write(folder, **reports) -> None:
    for name, report in reports.items():
        (folder / name).mkdir()
        (folder / name / "report.json").write_text(json.dumps(report))


def test_the_interval_of_a_difference_is_newcombes_for_wilson_intervals():
    # Newcombe 1998, table II, row a: 56 of 70 against 48 of 80, method 10: 0.0524 to 0.3339
    first, second = (stats.binomtest(k, n).proportion_ci(method="wilson") for k, n in ((48, 80), (56, 70)))
    assert difference_interval(48 / 80, first, 56 / 70, second) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    low, high = difference_interval(0.2, (0.1, 0.3), 0.2, (0.1, 0.3))
    assert low == pytest.approx(-high) and high == pytest.approx(0.1 * 2**0.5)


def test_the_config_compares_at_equal_sample_size(tmp_path):
    after = changed(
        calibration={"images": 100},
        memorized={"count": 2, "rate": 0.02, "ci95": [0.0, 0.07]},
        leaked_subjects={"ids": ["s3", "s4"], "curve": {"samples": [0, 50, 100], "subjects": [0.0, 1.5, 2.0]}},
        positive_control={"recall": 0.7},
    )
    write(tmp_path, before=REPORT, after=after)
    run = run_config("compare.yaml", tmp_path, "--first_dir", "before", "--second_dir", "after/report.json")
    assert run.returncode == 0, run.stderr
    result = json.loads((tmp_path / "eval" / "compare" / "comparison.json").read_text())
    assert result["leaked_subjects"]["expected"] == [2.0, 2.0]  # 200 images leaked 3, 100 of them would have leaked 2
    assert result["leaked_subjects"]["both"] == ["s3"] and result["leaked_subjects"]["only_second"] == ["s4"]
    assert result["memorized"]["ci95"][1] < 0 and result["unlike"] == []
    for words in ("-18.0%", "fewer copies.", "Recall differs", "2 by the first alone"):
        assert words in run.stdout
    assert "differ in more" not in run.stdout


def test_what_makes_two_audits_unlike_is_named(tmp_path, capsys):
    write(tmp_path, a=REPORT, b=changed(checkpoint={"sha256": "b"}, inputs={"train": {"subjects": 9, "slices": 500}}))
    result = compare_reports(tmp_path / "a", tmp_path / "b", tmp_path)
    assert result.unlike == ["embedder weights", "training subjects"]
    text = capsys.readouterr().out
    assert "no difference that the intervals show" in text
    assert "differ in more than the generated images: embedder weights, training subjects." in text


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "missing: expected a report.json of an audit, found none; check the path"),
        ("[1]", "report.json: expected a report.json of an audit, found another file; check the path"),
        ("{", "report.json: expected a report.json of an audit, found another file; check the path"),
        ('{"schema_version": "0.9"}', "report.json: expected a report of version 1, found '0.9'; run the audit again"),
    ],
)
def test_what_is_no_report_is_an_error(tmp_path, content, sentence):
    write(tmp_path, a=REPORT)
    path = tmp_path / "missing"
    if content is not None:
        path = tmp_path / "report.json"
        path.write_text(content)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        compare_reports(tmp_path / "a", path, tmp_path / "out")
    assert sentence in str(caught.value)
    assert not (tmp_path / "out").exists()
