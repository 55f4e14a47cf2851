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
import shutil
import subprocess
import sys

import numpy as np
import pytest
from heads import head, write_heads
from helpers import ROOT, picture, read, run_config
from PIL import Image
from scripts import component, find_images, split_subjects
from scripts.studies.planted import PlantedCopies, run_study

CONFIG = str(ROOT / "configs" / "planted_copies.yaml")
SCANNER = f"['{CONFIG}','{ROOT}/configs/planted_scanner.yaml']"


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


@pytest.fixture
def people(tmp_path):
    """Ten simulated heads as NIfTI files, and the arguments that have eight of them copied."""
    names = [f"s{number}" for number in range(10)]
    folder = write_heads(tmp_path / "people", {name: head(number) for number, name in enumerate(names)})
    (tmp_path / "split.json").write_text(json.dumps({"test": names}))
    sizes = ("--draws", "1", "--train_subjects", "8", "--copies", "3", "--new", "2", "--which", "['mild']")
    return ("--dataset_dir", str(folder), "--split_file", str(tmp_path / "split.json"), *sizes)


@pytest.mark.parametrize("scanner", ["t1_other", pytest.param("t2_like", marks=pytest.mark.slow)])
def test_everybody_is_scanned_again(people, tmp_path, scanner):
    result = run_config(SCANNER, tmp_path, "--output_dir", "out", "--scanner", scanner, *people)
    assert result.returncode == 0, result.stderr
    (row,) = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert (row["strength"], row["source_subject"]) == ("mild", 1.0)
    assert (tmp_path / "out" / "curve.png").exists()


def test_a_folder_of_pictures_is_a_study_too(tmp_path):
    """Pictures by a pattern, one of each person, with weights of one's own."""
    names = [f"p{number}" for number in range(10)]
    (tmp_path / "pictures").mkdir()
    for seed, name in enumerate(names):
        large = Image.fromarray(picture(seed)).resize((96, 112), Image.Resampling.BICUBIC)
        large.save(tmp_path / "pictures" / f"{name}_000.png")
    (tmp_path / "split.json").write_text(json.dumps({"test": names}))
    shutil.copy(ROOT / "models" / "model.pt", tmp_path / "own.pt")
    arguments = ("--dataset_dir", "pictures", "--split_file", "split.json", "--subject_pattern", "(?P<subject>p.)_")
    sizes = ("--draws", "1", "--train_subjects", "8", "--copies", "3", "--new", "2", "--which", "['mild']")
    result = run_config(CONFIG, tmp_path, *arguments, *sizes, "--checkpoint", "own.pt", "--output_dir", "out")
    assert result.returncode == 0, result.stderr
    (row,) = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert row["source_subject"] == 1.0
    truth = read(tmp_path / "out" / "mild_0" / "truth.csv")
    assert sum(bool(line["subject_id"]) for line in truth) == 3 and len(truth) == 5


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--scanner", "t3"), "scanner: expected one of t1_other, t2_like, got 't3'"),
        (("--scaner", "t2_like"), "--scaner: expected a key of the config, found none of this name"),
        (("--which", "['weak']"), "which: expected one of mild, strong, extreme, got 'weak'"),
    ],
)
def test_a_wrong_key_ends_in_one_sentence(people, tmp_path, arguments, sentence):
    result = run_config(SCANNER, tmp_path, "--output_dir", "out", *people, *arguments)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"error: {sentence}")


@pytest.mark.parametrize("volumes", [False, True])
def test_what_is_written_was_scanned_again_and_alike_each_time(people, tmp_path, volumes):
    items = find_images(tmp_path / "people")
    preprocessing = component(ROOT / "configs" / "inference.yaml", "preprocessing")
    acquisition = component([CONFIG, ROOT / "configs" / "planted_scanner.yaml"], "acquisition")
    plain, first, again = (
        PlantedCopies(items, preprocessing, volumes=volumes, acquisition=scanner)._images("s0")
        for scanner in (None, acquisition, acquisition)
    )
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(first, again, strict=True))
    assert first[0][1].ndim == plain[0][1].ndim
    assert not any(a.shape == b.shape and np.allclose(a, b, atol=0.02) for (_, a), (_, b) in zip(first, plain))
