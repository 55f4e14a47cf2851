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

"""The rows of benchmarks/scale.py run on little, and measure what they say."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import phantoms
import pytest
import scale
from scripts.embedder import cache


def test_an_audit_of_random_embeddings_calls_the_copies_and_counts_all(tmp_path, capsys):
    row = scale.audit(1200, 700, tmp_path)
    assert row["called"] == 12 and row["page_mb"] > 0 and row["table_mb"] > 0
    stages = [row[name] for name in ("embeddings", "search and decide", "tables and page")]
    assert stages[0]["peak_gib"] <= stages[1]["peak_gib"] <= stages[2]["peak_gib"] > 0
    assert len((tmp_path / "matches.csv").read_text().splitlines()) == 1201


def test_calls_take_turns_and_the_first_turn_does_not_count(monkeypatch):
    clock = iter([0, 50, 50, 90, 100, 101, 101, 104, 110, 113, 113, 114, 120, 122, 122, 128])
    monkeypatch.setattr(scale, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert scale.median_seconds([lambda: None, lambda: None], 3) == [2, 3]


def test_few_files_are_open_and_all_images_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "MOST_IN_MEMORY", cache.MOST_IN_MEMORY)  # which the row changes
    monkeypatch.setattr(scale, "CACHED", 640)
    row = scale.files(tmp_path / "cache")
    assert row["images"] == 640 and row["most_open"] < 64 and not (tmp_path / "cache").exists()


def test_search_and_ssim_are_compared_with_their_rivals(monkeypatch):
    pytest.importorskip("faiss", reason="needs faiss-cpu, the oracle of the search")
    monkeypatch.setattr(scale, "REFERENCES", 300)
    monkeypatch.setattr(scale, "SUBJECTS", (30, 300))
    monkeypatch.setattr(scale, "QUERIES", 20)
    row = scale.search(1)
    assert set(row) == {"30 subjects", "300 subjects"} and all(found["times_faiss"] > 0 for found in row.values())
    assert scale.ssim(1)["ms_a_pair"] > 0


def test_finished_rows_are_kept(tmp_path, monkeypatch, capsys):
    known = {"row": "ssim", "ms_a_pair": 1.0}
    (tmp_path / "results.jsonl").write_text(json.dumps(known) + "\n")
    monkeypatch.setattr("sys.argv", ["scale.py", "--rows", "ssim", "--output_dir", str(tmp_path)])
    scale.main()
    assert json.loads(capsys.readouterr().out) == known


def test_phantoms_are_people_of_their_own():
    one, again, other = phantoms.phantom(0), phantoms.phantom(0), phantoms.phantom(1)
    np.testing.assert_array_equal(one, again)
    assert one.shape == (112, 96) and 0 <= one.min() < one.max() <= 1 and np.abs(one - other).mean() > 0.05


def test_memory_is_drawn_against_the_pairs_and_without_audits_it_says_so(tmp_path):
    stages = {name: {"anonymous_gib": 0.5} for name in ("embeddings", "search and decide", "tables and page")}
    rows = [{"row": f"audit {size}", **stages} for size in ("100000x1000", "1000x1000")] + [{"row": "ssim"}]
    scale.draw_memory(rows, tmp_path / "memory.png")
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="run --rows audit first"):
        scale.draw_memory(rows[2:], tmp_path / "memory.png")
