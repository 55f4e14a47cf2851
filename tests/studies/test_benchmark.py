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

import numpy as np
from helpers import MISALIGN, ROOT, run_config, slices

from scripts.audit.audit import Audit
from scripts.images.augmentations import RandCopyd, RandMisalignd
from scripts.similarity.verification import Verifier
from scripts.studies.benchmark import Benchmark
from scripts.studies.benchmark_report import plot_scores, tables
from scripts.studies.rivals import SSIM, AlignedSSIM, CalibratedL2, Correlation, Method


class Oracle(Method):
    """Knows the images: an image is like itself and its copies, by the verifier's own alignment."""

    def pairs(self, first, second):
        return Verifier().align(second, first).aligned_ssim.astype(float)

    def matrix(self, queries, references):
        rows = [Verifier().align(np.repeat(q[None], len(references), 0), references).aligned_ssim for q in queries]
        return np.stack(rows)


class Noise(Method):
    """Knows nothing."""

    def pairs(self, first, second):
        return np.random.default_rng(0).random(len(first))

    def matrix(self, queries, references):
        return np.random.default_rng(0).random((len(queries), len(references)), np.float32)


def bench(methods, **more) -> Benchmark:
    copy = RandCopyd("image", elastic=(0.1, 0.3), blur=(0.0, 0.2))
    still = dict.fromkeys(("bias_prob", "blur_prob", "noise_prob"), 0.0)
    move = RandMisalignd("image", **MISALIGN | still | {"flip_prob": 1.0, "affine_prob": 1.0})
    verifier = Verifier()
    audit = Audit(None, verifier, copy, control_images=4)
    options = {"audit": audit, "audited": ["moved"], "pairs": 15, "queries": 12, "audits": 1, "copies": 5, "draws": 50}
    return Benchmark(methods, {"still": None, "moved": move}, copy, verifier, **{**options, **more})


def test_an_oracle_and_noise_get_what_they_deserve(tmp_path):
    methods = {"ours": Oracle(), "noise": Noise(), "SSIM": SSIM(), "absent": None}
    found = bench(methods)(slices(6, 3), slices(14, 3), tmp_path / "a.json")
    moved = found["conditions"]["moved"]
    assert moved["pairs"]["ours"]["duplicate_auc"] > 0.95 > 0.75 > moved["pairs"]["noise"]["duplicate_auc"]
    assert moved["pairs"]["ours"]["reference_minus"]["macro_f1"] == [0, 0]
    assert moved["pairs"]["noise"]["reference_minus"]["macro_f1"][0] > 0
    # copies are hardly bent, so that SSIM of images at rest is exact; of moved ones it is not
    errors = [c["pairs"]["SSIM"]["ssim_error"]["mean_of_bins"] for c in found["conditions"].values()]
    assert errors[0] < 1e-5 < 0.1 < errors[1]
    assert moved["search"]["ours"]["recall"]["1"] > 0.9 > moved["search"]["noise"]["recall"]["1"]
    assert moved["search"]["noise"]["recall"]["20"] == 1  # there are only 14 subjects
    assert "audit" not in found["conditions"]["still"]
    assert set(moved["audit"]) == {"ours", "noise", "SSIM"}
    assert moved["audit"]["ours"]["recall"][0] >= moved["audit"]["noise"]["recall"][0]
    text = tables(found)
    assert "| absent | weights not given | | | | |" in text and "audit: recall" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.count("|") in (7, 5, 7) for line in rows)
    plot_scores(found, tmp_path / "scores.png")
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_a_benchmark_goes_on_where_it_stopped_and_repeats_itself(tmp_path):
    methods = {"ours": Correlation(), "L2": CalibratedL2(nearest=3), "aligned": AlignedSSIM(Verifier())}
    data = slices(6, 3), slices(8, 3)
    whole = bench(methods, audit=None)(*data, tmp_path / "whole.json")
    stopped = bench(methods, audit=None)
    stopped.conditions.pop("moved")
    stopped(*data, tmp_path / "part.json")
    resumed = bench(methods, audit=None)(*data, tmp_path / "part.json")
    assert "aligned" not in resumed["conditions"]["moved"]["search"]  # far too slow to search with
    for result in (whole, resumed):
        for table in result["conditions"].values():
            for row in table["search"].values():
                row.pop("searches_per_second")
    assert json.loads(json.dumps(whole)) == json.loads(json.dumps(resumed))


def test_a_method_that_comes_later_is_all_that_is_run(tmp_path, monkeypatch):
    data = slices(6, 3), slices(14, 3)
    whole = bench({"ours": Correlation(), "L2": CalibratedL2(nearest=3)})(*data, tmp_path / "whole.json")
    first = bench({"ours": Correlation(), "L2": None})(*data, tmp_path / "part.json")
    assert first["conditions"]["moved"]["pairs"]["L2"] == {"missing": "weights not given"}

    def fail(*arguments):
        raise AssertionError("ran again")

    monkeypatch.setattr(Correlation, "pairs", fail)
    monkeypatch.setattr(Correlation, "matrix", fail)
    later = bench({"ours": Correlation(), "L2": CalibratedL2(nearest=3)})(*data, tmp_path / "part.json")
    for result in (whole, later):
        for table in result["conditions"].values():
            for row in table["search"].values():
                row.pop("searches_per_second")
    assert json.loads(json.dumps(whole)) == json.loads(json.dumps(later))
    assert list(later["conditions"]["moved"]["audit"]) == ["ours", "L2"]


def test_the_config_runs_and_resumes(tmp_path):
    names = [f"sub-{n:02d}" for n in range(1, 49)]
    (tmp_path / "split.json").write_text(json.dumps({"validation": names[:6], "test": names[6:18]}))
    arguments = ["--dataset_dir", str(ROOT / "demo" / "train"), "--split_file", str(tmp_path / "split.json")]
    arguments += ["--output_dir", str(tmp_path / "out"), "--pairs", "20", "--queries", "10", "--draws", "20"]
    arguments += ["--audits", "1", "--audited", "['strong']", "--audit_copies", "5"]
    result = run_config("benchmark.yaml", tmp_path, *arguments)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "out" / "whole.json").read_text())
    assert list(found["conditions"]) == ["aligned", "misaligned", "strong", "generator"]
    table = found["conditions"]["misaligned"]
    assert table["pairs"]["SSCD"] == {"missing": "weights not given"}
    assert table["pairs"]["ours"]["macro_f1"] > table["pairs"]["SSIM"]["macro_f1"]
    assert table["search"]["ours"]["recall"]["1"] > table["search"]["SSIM"]["recall"]["1"]
    assert "| ours |" in (tmp_path / "out" / "benchmark.md").read_text()
    again = run_config("benchmark.yaml", tmp_path, *arguments)
    assert again.returncode == 0 and again.stdout == result.stdout  # to the last digit of the times: nothing was rerun
