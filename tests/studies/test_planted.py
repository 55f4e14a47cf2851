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
import subprocess
import sys

import pytest
from helpers import ROOT
from scripts import component, find_images, split_subjects
from scripts.studies.planted import PlantedCopies, run_study

CONFIG = str(ROOT / "configs" / "planted_copies.yaml")


@pytest.mark.slow
def test_copies_of_unseen_real_subjects_are_found(ixi, tmp_path):
    """One draw of the study in the README; over ten draws mild copies have recall 0.995, false discoveries 0.016."""
    items = split_subjects(find_images(ixi / "participants.tsv"), ROOT / "configs" / "splits" / "ixi.json", 0.1, 0)
    sets = PlantedCopies(items["test"], component(ROOT / "configs" / "inference.yaml", "preprocessing"))
    mild = {"mild": component(CONFIG, "strengths")["mild"]}
    (row,) = run_study(sets, mild, 1, str(ROOT / "configs" / "detect.yaml"), str(tmp_path), seed=1)
    assert row.recall >= 0.95
    assert row.false_discovery_share <= 0.1
    assert row.source_image >= 0.95
    # finished rows are not done again
    assert run_study(sets, mild, 1, "no such config", str(tmp_path), seed=1) == [row]


@pytest.mark.slow
@pytest.mark.parametrize("configs", ["planted_copies.yaml", "planted_copies.yaml planted_volumes.yaml"])
def test_the_documented_commands_run(ixi, tmp_path, configs):
    files = [str(ROOT / "configs" / name) for name in configs.split()]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(files), "--output_dir", str(tmp_path)]
    command += ["--dataset_dir", str(ixi / "participants.tsv"), "--draws", "1", "--copies", "4", "--new", "2"]
    result = subprocess.run([*command, "--train_subjects", "8"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["strength"] for row in rows] == ["mild", "strong", "extreme"]
    assert (tmp_path / "curve.png").exists()
