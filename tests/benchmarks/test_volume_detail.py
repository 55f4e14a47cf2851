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

"""The study of the detail of whole heads: a head is its own copy, the mean of three is less of one, and it goes on."""

from __future__ import annotations

import json

import volume_detail
from heads import head, write_heads


def test_a_head_agrees_with_itself_more_than_a_mixture_does_and_a_run_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(volume_detail, "STRENGTHS", ("none",))
    kinds = {name: volume_detail.MIXTURES[name] for name in ("copy", "average of three")}
    monkeypatch.setattr(volume_detail, "MIXTURES", kinds)
    people = write_heads(tmp_path / "heads", {f"p{n}": head(n, (96, 112, 80), fold=1.5) for n in range(3)}, mm=2.0)
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"few": [f"p{n}" for n in range(3)]}))
    words = ["--dataset_dir", str(people), "--split_file", str(split), "--part", "few", "--people", "1"]
    volume_detail.main([*words, "--output_dir", str(tmp_path / "out")])
    (rows,) = map(json.loads, (tmp_path / "out" / "results.jsonl").read_text().splitlines())
    fine = {row["kind"]: row["fine"] for row in rows}
    assert list(fine) == ["copy", "average of three"]
    assert fine["copy"] > 0.995 > 0.993 > fine["average of three"]
    first = capsys.readouterr().out
    assert "| copy | none | 1 of 1 | 1 of 1 |" in first
    monkeypatch.setattr(volume_detail.Details, "of_person", None)  # nobody is measured again
    volume_detail.main([*words, "--output_dir", str(tmp_path / "out")])
    assert capsys.readouterr().out == first
