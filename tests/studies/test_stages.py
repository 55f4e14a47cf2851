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
import sys

import pytest
from fire.parser import DefaultParseValue
from helpers import ROOT
from monai.bundle import ConfigParser
from scripts.bundle.files import read_table, write_table
from scripts.studies.stages import Attack, AuditSamples, Generate, Job, Split, Train
from scripts.studies.study_results import Cell


@pytest.fixture
def split(tmp_path):
    """Tables of 14 subjects, with one slice and with three."""
    rows = [{"image": f"s{n:02d}.png", "subject_id": f"s{n:02d}"} for n in range(14)]
    write_table(tmp_path / "one.csv", rows)
    write_table(tmp_path / "many.csv", [row for row in rows for _ in range(3)])
    return Split({"one": tmp_path / "one.csv", "many": tmp_path / "many.csv"})


@pytest.fixture
def job(tmp_path):
    """A function that makes a job of one cell."""

    def make(samples=16, cores=1, **fields) -> Job:
        return Job(Cell(**{"name": "a", "subjects": 8, **fields}), 0, samples, tmp_path / "cell", cores)

    return make


@pytest.fixture
def interpreter(tmp_path, monkeypatch):
    """Stands for Python: a program that prints its arguments and ends with this status."""

    def install(status: int) -> None:
        path = tmp_path / "python"
        path.write_text(f'#!/bin/sh\necho "$OMP_NUM_THREADS" "$@"\nexit {status}\n')
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return install


def test_subjects_are_split_once(split, job):
    split(job())
    train, holdout = (read_table(job().folder / f"{name}.csv") for name in ("train", "holdout"))
    assert len(train) == 8 and len(holdout) == 6
    assert not {row["subject_id"] for row in train} & {row["subject_id"] for row in holdout}
    split(job(subjects=5))  # the output is there
    assert read_table(job().folder / "train.csv") == train


@pytest.mark.parametrize(
    "fields, sentence",
    [
        (
            {"subjects": 9, "samples": 18},
            "cell a: expected 9 subjects to train on and 6 or more as holdout, found 9 and 5",
        ),
        ({"subjects": 15, "samples": 15}, "expected 15 subjects to train on and 6 or more as holdout, found 14 and 0"),
        ({"samples": 17}, "expected a number of training images that divides 17 samples, found 8"),
        ({"slices": "all"}, "slices: expected one of one, many, got 'all'"),
    ],
)
def test_cells_that_cannot_be_are_errors(split, job, fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        split.check(job(**fields))


def test_a_cell_of_many_slices_is_drawn_from_for_some_of_them(split, job):
    some = job(samples=5, slices="many")  # fewer than 24 records, which need not divide them
    split.check(some)
    split(some)
    assert len(read_table(some.folder / "train.csv")) == 24 and len(read_table(some.folder / "holdout.csv")) == 18
    keys = Generate("autoencoder.pt").keys(some)
    assert keys["records"] == 5 and keys["samples_per_record"] == 1


@pytest.mark.parametrize(
    "stage", [Train("a.pt", ["age"]), Attack("a.pt"), Generate("a.pt"), AuditSamples()], ids=lambda s: s.name
)
def test_a_stage_gives_keys_that_its_config_has(split, job, stage):
    some = job(condition="variables")
    split(some)
    shipped = ConfigParser.load_config_file(str(stage.configs()[0]))
    assert stage.keys(some).keys() <= shipped.keys()
    assert all(path.is_absolute() for path in stage.keys(some).values() if hasattr(path, "is_absolute"))


def test_a_cell_of_sentences_trains_on_people_who_have_all_their_columns(job, tmp_path):
    rows = [{"image": f"s{n}.png", "subject_id": f"s{n}", "age": 20 + n if n else "", "sex": "F"} for n in range(9)]
    write_table(tmp_path / "one.csv", rows)
    split = Split({"one": tmp_path / "one.csv"}, ["sex"], "{sex}, {age:.0f} years")
    cell = Cell("a", 8, condition="text")
    for seed in range(3):
        assert {row["subject_id"] for row in split.rows(cell, seed, True)} == {f"s{n}" for n in range(1, 9)}
    with pytest.raises(ValueError, match="text: expected a sentence with columns in braces"):
        Split({"one": tmp_path / "one.csv"}).rows(cell, 0, True)


def test_a_sentence_and_its_encoder_are_handed_on_where_a_cell_is_of_texts(job, tmp_path):
    some = job(condition="text")
    stage = Train("a.pt", ["age"], "{sex}, {age}", tmp_path / "clip")
    keys = stage.keys(some)
    assert DefaultParseValue(keys["text"]) == "{sex}, {age}" and keys["text_encoder"] == tmp_path / "clip"
    assert keys["text_cache"] == tmp_path / "text_embeddings.npz" and "condition_columns" not in keys
    assert "text_encoder" not in Train("a.pt", text="{sex}").keys(some)  # an overlay may give another one
    assert not {"text", "text_cache"} & stage.keys(job(condition="variables")).keys()


def test_a_stage_runs_its_config_and_keeps_time_and_log(split, job, interpreter):
    interpreter(0)
    some = job(cores=3)
    split(some)
    stage = Train("a.pt", overlays=["more.yaml"], overrides={"epochs": 1, "passes": 7})
    stage(some)
    (line,) = (some.folder / "log.txt").read_text().splitlines()
    config = ROOT / "configs" / "ldm" / "train_diffusion.yaml"
    assert line.startswith(f"3 -m monai.bundle run --config_file ['{config}', 'more.yaml'] --dataset_dir")
    assert "--passes 7" in line and "--epochs 1" in line  # the overrides win
    Generate("a.pt")(some)
    assert json.loads((some.folder / "seconds.json").read_text()).keys() == {"train", "generate"}


def test_a_stage_whose_output_exists_is_skipped(job, interpreter):
    interpreter(1)
    for stage in (Train("a.pt"), Attack("a.pt"), Generate("a.pt"), AuditSamples()):
        output = stage.output(job())
        output.parent.mkdir(parents=True)
        output.touch()
        stage(job())
    assert not (job().folder / "log.txt").exists()


def test_a_failing_stage_names_its_log(split, job, interpreter):
    interpreter(1)
    split(job())
    with pytest.raises(ChildProcessError, match=r"log.txt: expected stage detect to end well, found exit status 1"):
        AuditSamples()(job())
    assert not (job().folder / "seconds.json").exists()


def test_an_audit_without_an_answer_is_a_result_and_no_failure(split, job, interpreter):
    interpreter(3)
    split(job())
    AuditSamples().make(job())
    assert "detect" in json.loads((job().folder / "seconds.json").read_text())
    with pytest.raises(ChildProcessError, match="expected stage .* to end well, found exit status 3"):
        Train("a.pt").make(job())


def test_a_stopped_training_goes_on_and_its_checkpoints_are_removed(split, job, interpreter):
    interpreter(0)
    some, stage = job(), Train("a.pt")
    split(some)
    (some.folder / "model").mkdir()
    checkpoint = some.folder / "model" / "checkpoint_epoch=3.pt"
    checkpoint.touch()
    assert stage.keys(some)["resume"] == checkpoint
    stage(some)
    assert not checkpoint.exists() and "resume" not in stage.keys(some)
