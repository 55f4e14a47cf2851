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

import json

import pytest
from helpers import ROOT, run_config
from scripts.auditing.audit import Audit
from scripts.studies.audit_task import AuditTask
from scripts.studies.benchmark import Benchmark
from scripts.studies.pair_task import PairTask
from scripts.studies.rivals import SSIM, AlignedSSIM, CalibratedL2, Correlation
from scripts.studies.search_task import SearchTask


@pytest.fixture
def bench(copies, flip):
    """A function that makes a small benchmark of these methods."""

    def make(methods, conditions=("still", "moved")) -> Benchmark:
        audit = Audit(None, copies.verifier, copies.transform, control_images=4)
        return Benchmark(
            methods,
            {name: flip if name == "moved" else None for name in conditions},
            copies,
            PairTask(pairs=10, draws=20),
            SearchTask(queries=8, draws=20),
            AuditTask(audit, ["moved"], audits=1, copies=5),
        )

    return make


def timeless(result) -> dict:
    """The JSON without what differs from run to run."""
    content = json.loads(json.dumps(result.json()))
    for table in content["conditions"].values():
        for row in table["search"].values():
            row.pop("searches_per_second")
    return content


METHODS = {"ours": Correlation(), "L2": CalibratedL2(nearest=3)}


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory):
    return tmp_path_factory.mktemp("benchmark") / "whole.json"


@pytest.fixture
def whole(bench, validation, test_slices, whole_file):
    """A benchmark that ran at once; the first test makes it."""
    return bench(METHODS)(validation, test_slices, whole_file)


def test_methods_get_the_rows_that_they_can(bench, validation, test_slices, oracle, tmp_path):
    methods = {"aligned": AlignedSSIM(bench({}).copies.verifier), "ours": oracle, "SSIM": SSIM(), "absent": None}
    found = bench(methods)(validation, test_slices, tmp_path / "a.json")
    still, moved = found.conditions["still"], found.conditions["moved"]
    assert list(still.pairs) == list(moved.pairs) == list(methods) and moved.pairs["absent"] is None
    assert moved.pairs["ours"].reference_minus["macro_f1"] == [0, 0]
    assert moved.pairs["SSIM"].reference_minus["macro_f1"][0] > 0
    assert list(moved.search) == ["ours", "SSIM"]  # alignment is far too slow to search with
    assert moved.search["ours"].recall["1"] > 0.9 > moved.search["SSIM"].recall["1"]
    assert still.audit is None and list(moved.audit) == ["ours", "SSIM"]
    assert found.subjects == {"validation": 6, "test": 14} and 0 < found.cap < 1


def test_a_benchmark_goes_on_where_it_stopped_and_repeats_itself(bench, validation, test_slices, whole, tmp_path):
    data = validation, test_slices, tmp_path / "part.json"
    bench(METHODS, ["still"])(*data)
    assert timeless(bench(METHODS)(*data)) == timeless(whole)


def test_a_method_that_comes_later_is_all_that_is_run(bench, validation, test_slices, whole, tmp_path, monkeypatch):
    data = validation, test_slices, tmp_path / "part.json"
    first = bench(METHODS | {"L2": None})(*data)
    assert first.conditions["moved"].pairs["L2"] is None

    def fail(*arguments):
        raise AssertionError("ran again")

    monkeypatch.setattr(Correlation, "pairs", fail)
    monkeypatch.setattr(Correlation, "matrix", fail)
    later = bench(METHODS)(*data)
    assert timeless(later) == timeless(whole)
    assert list(later.conditions["moved"].audit) == ["ours", "L2"]


def test_one_method_is_run_on_images_that_were_only_turned(tmp_path):
    names = [f"sub-{n:02d}" for n in range(1, 49)]
    (tmp_path / "split.json").write_text(json.dumps({"validation": names[:6], "test": names[6:12]}))
    arguments = [f"['{ROOT}/configs/benchmark.yaml','{ROOT}/configs/benchmark_turned.yaml']", tmp_path]
    arguments += ["--dataset_dir", str(ROOT / "demo" / "train"), "--split_file", str(tmp_path / "split.json")]
    arguments += ["--output_dir", str(tmp_path / "out"), "--pairs", "8", "--queries", "8", "--draws", "20"]
    result = run_config(*arguments, "--only", "['SSIM','ours']")
    assert result.returncode == 0, result.stderr
    conditions = json.loads((tmp_path / "out" / "whole.json").read_text())["conditions"]
    assert len(conditions) == 5 and all(list(found["pairs"]) == ["SSIM", "ours"] for found in conditions.values())
    assert all(found["pairs"]["ours"]["duplicate_auc"] > 0.95 for found in conditions.values())
    assert conditions["as it is"]["pairs"]["SSIM"]["duplicate_auc"] == 1.0  # a copy is the image itself
    assert conditions["flipped, front and back"]["pairs"]["SSIM"]["duplicate_auc"] < 0.9
    assert not any(found.get("audit") for found in conditions.values())
    wrong = run_config(*arguments, "--only", "['our']")
    assert wrong.returncode == 1 and "only" in wrong.stderr and "'our'" in wrong.stderr


@pytest.mark.slow
def test_the_config_runs_and_resumes(tmp_path):
    names = [f"sub-{n:02d}" for n in range(1, 49)]
    (tmp_path / "split.json").write_text(json.dumps({"validation": names[:6], "test": names[6:18]}))
    audit = "$scripts.component(@bundle_root + '/configs/detect.yaml', 'audit', checkpoint=@checkpoint, k=5, control_images=2)"  # noqa: E501
    (tmp_path / "small.json").write_text(json.dumps({"benchmark#audits#audit": audit}))
    arguments = [f"['{ROOT}/configs/benchmark.yaml','{tmp_path}/small.json']", tmp_path]
    arguments += ["--dataset_dir", str(ROOT / "demo" / "train"), "--split_file", str(tmp_path / "split.json")]
    arguments += ["--output_dir", str(tmp_path / "out"), "--pairs", "10", "--queries", "10", "--draws", "20"]
    arguments += ["--audits", "1", "--audited", "['strong']", "--audit_copies", "3"]
    result = run_config(*arguments)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "out" / "whole.json").read_text())
    assert list(found["conditions"]) == ["aligned", "misaligned", "strong", "generator"]
    table = found["conditions"]["misaligned"]
    assert table["pairs"]["SSCD"] == {"missing": "weights not given"}
    assert table["pairs"]["ours"]["macro_f1"] > table["pairs"]["SSIM"]["macro_f1"]
    assert table["search"]["ours"]["recall"]["1"] > table["search"]["SSIM"]["recall"]["1"]
    assert set(found["conditions"]["strong"]["audit"]) == set(table["search"])
    assert "| ours |" in (tmp_path / "out" / "benchmark.md").read_text()
    again = run_config(*arguments)
    assert again.returncode == 0
    # to the last digit of the times: nothing was rerun
    assert again.stdout.partition("## whole")[1:] == result.stdout.partition("## whole")[1:]
