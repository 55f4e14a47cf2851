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
import re
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import ROOT, run_config
from monai.bundle import ConfigParser
from PIL import Image
from scipy.ndimage import gaussian_filter
from scripts.bundle.components import component
from scripts.bundle.files import read_table, write_table
from scripts.bundle.weights import save_weights
from scripts.studies.case_study import CaseStudy
from scripts.studies.stages import Stage
from scripts.studies.study_report import table
from scripts.studies.study_results import CellResult, StudyResult

MODEL = str(ROOT / "configs" / "ldm" / "model.yaml")
CELL = {"name": "few", "subjects": 8, "duplication": "low", "passes": 1, "condition": "variables"}
BLANK = """
import numpy as np
from PIL import Image
from scripts.studies.stages import Stage

class Blank(Stage):  # blackens a sample, as a model may draw one that shows nothing
    def output(self, job):
        return job.folder / "generated" / "blank"

    def make(self, job):
        path = sorted((job.folder / "generated" / "images").iterdir())[0]
        Image.fromarray(np.zeros_like(np.asarray(Image.open(path)))).save(path)
        self.output(job).touch()
"""


def head(seed: int) -> np.ndarray:
    """A textured ellipse, 8 bits, as a picture (row, column)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:112j, -1:1:96j]
    texture = gaussian_filter(rng.normal(size=(112, 96)), 3)
    return np.where(x**2 / 0.7 + y**2 / 0.8 < 1, 140 + 80 * texture / np.abs(texture).max(), 0).astype(np.uint8)


@pytest.fixture(scope="module")
def study_dir(tmp_path_factory):
    """The folder of a study of one cell, as short as can be, that the real configs made of 14 subjects.

    It runs case_study.yaml, which runs ldm/train_diffusion.yaml, ldm/generate.yaml and detect.yaml.
    """
    folder, rows = tmp_path_factory.mktemp("study"), []
    for number in range(14):
        name = f"s{number:02d}"
        Image.fromarray(head(number)).save(folder / f"{name}.png")
        (folder / f"{name}.png").chmod(0o600)
        rows.append({"image": f"{name}.png", "subject_id": name, "age": 20 + number, "sex": "MF"[number % 2]})
    write_table(folder / "participants.csv", rows)
    torch.manual_seed(0)
    save_weights(component(MODEL, "autoencoder_def", size="cpu"), folder / "autoencoder.pt")
    overlay = {
        "cells": [CELL],
        "seeds": 1,
        "samples": 16,
        "condition_columns": ["age", "sex"],
        "train#overrides": {"epochs": 1, "batch_size": 4},
        "generate#overrides": {"size": "cpu", "steps": 2},
        "detect#overrides#control_images": 4,
        "detect#overrides#thumbnails": False,
        "blank": {"_target_": "blank.Blank"},
        "study#stages": ["@split", "@train", "@attack", "@generate", "@blank", "@detect"],
    }
    (folder / "blank.py").write_text(BLANK)
    (folder / "tiny.json").write_text(json.dumps(overlay))
    result = run_config(
        f"['{ROOT}/configs/case_study.yaml','{folder}/tiny.json']",
        folder,
        *("--dataset_dir", "participants.csv", "--autoencoder_file", "autoencoder.pt", "--output_dir", "out"),
        *("--pairs", "3"),
    )
    assert result.returncode == 0, result.stderr
    assert "few, seed 0:" in result.stdout
    assert (folder / "out" / "case_study.png").exists() and (folder / "out" / "contact_sheet_1.png").exists()
    return folder


@pytest.fixture(scope="module")
def result(study_dir):
    return json.loads((study_dir / "out" / "case_study.json").read_text())


def test_a_cell_is_trained_sampled_and_audited(study_dir, result):
    (cell,) = result["cells"]
    folder = study_dir / "out" / "cells" / "few_0"
    assert len(read_table(folder / "train.csv")) == 8 and len(read_table(folder / "holdout.csv")) == 6
    report = json.loads((folder / "audit" / "report.json").read_text())
    assert report["calibration"]["null"] == "holdout" and report["inputs"]["generated"]["images"] == 15
    assert cell["memorized"] == report["memorized"] and cell["seconds"].keys() == {
        "train",
        "attack",
        "generate",
        "detect",
    }
    counts = {s["subject_id"]: s["copies"] for s in cell["subjects"]}
    assert len(counts) == 8 and set(counts.values()) <= {1, 2, 3, 4} and max(counts.values()) > 1
    assert len(cell["rivals"]) == 5 and all(0 <= rival["flagged"] <= 1 for rival in cell["rivals"].values())
    # untrained networks draw no heads: far from the real ones
    assert cell["quality"]["mmd"] > 10 * abs(cell["quality"]["mmd_train"])
    assert [row["copies"] for row in result["copies"]] == sorted(set(counts.values()))


def test_a_membership_attack_scores_members_and_people_whom_the_model_never_saw(study_dir, result):
    rows = read_table(study_dir / "out" / "cells" / "few_0" / "membership" / "membership.csv")
    (cell,) = result["cells"]
    copies = {row["subject_id"]: int(row["copies"]) for row in rows if row["member"] == "1"}
    assert copies == {s["subject_id"]: s["copies"] for s in cell["subjects"]}
    assert sum(row["member"] == "0" for row in rows) == 6
    found = cell["membership"]
    assert {s["subject_id"]: s["member"] for s in found["subjects"]} == {
        r["subject_id"]: r["member"] == "1" for r in rows
    }
    assert 0 <= found["auc"]["ci95"][0] <= found["auc"]["value"] <= found["auc"]["ci95"][1] <= 1
    assert {s["subject_id"] for s in found["subjects"] if s["leaked"]} == {
        s["subject_id"] for s in cell["subjects"] if s["leaked"]
    }
    assert found["recognised"]["subjects"] + found["missed"]["subjects"] == 8
    with Image.open(study_dir / "out" / "membership.png") as figure:
        assert figure.size == (495, 465)


def test_the_attack_is_a_command_of_its_own(study_dir):
    cell = "out/cells/few_0"
    files = ["--model_dir", f"{cell}/model", "--autoencoder_file", "autoencoder.pt", "--output_dir", "loss"]
    sets = ["--train_dir", f"{cell}/train.csv", "--holdout_dir", f"{cell}/holdout.csv"]
    result = run_config("ldm/membership.yaml", study_dir, "--size", "cpu", *files, *sets, "--attack", "loss")
    assert result.returncode == 0, result.stderr
    assert "8 training images and 6 others scored; 0 others had no value for the condition" in result.stdout
    loss, proximal = (read_table(study_dir / folder / "membership.csv") for folder in ("loss", f"{cell}/membership"))
    assert [row | {"score": ""} for row in loss] == [row | {"score": ""} for row in proximal]
    # an untrained network predicts no noise, whose variance is 1
    assert [float(row["score"]) for row in loss] == pytest.approx([-1] * 14, abs=0.2)
    wrong = run_config("ldm/membership.yaml", study_dir, "--size", "cpu", *files, *sets, "--attack", "pia")
    assert wrong.returncode == 1 and "attack: expected one of proximal, loss, got 'pia'" in wrong.stderr


def test_all_that_is_written_can_be_read_by_those_alone_who_can_read_the_images(study_dir):
    files = [path for path in (study_dir / "out").rglob("*") if path.is_file()]
    assert {"records.csv", "diffusion.pt", "generated.csv", "membership.csv", "log.txt", "train.csv"} <= {
        path.name for path in files
    }
    assert [path for path in files if path.stat().st_mode & 0o077] == []


def test_what_the_command_writes_shows_the_study(study_dir, result):
    out = study_dir / "out"
    cells = [CellResult.of_json(cell) for cell in result["cells"]]
    shown = (out / "case_study.md").read_text()
    seen, expected = (text.partition("| times that") for text in (shown, table(StudyResult(16, cells, None, []))))
    assert expected[0] == seen[0] and expected[2].partition("| cell, seed")[1:] == seen[2].partition("| cell, seed")[1:]
    assert "| few, 0 | 8 subjects x 1-4 copies, 1 passes, variables |" in seen[0] and "cross-correlation" in seen[0]
    with Image.open(out / "case_study.png") as figure:
        assert figure.size == (1980, 570)
    rows = read_table(out / "contact_sheet.csv")
    called = sum(row["memorized"] == "1" for row in read_table(out / "cells/few_0/audit/matches.csv"))
    assert len(rows) == min(3, called) + min(3, 15 - called)


def test_a_sample_that_shows_nothing_is_counted_and_left_out(study_dir, result):
    """Of the 16 that were drawn."""
    assert result["cells"][0]["empty"] == 1
    assert len(read_table(study_dir / "out" / "cells" / "few_0" / "audit" / "matches.csv")) == 15


class Stub(Stage):
    """Writes a file; `before` is called with the job first."""

    def __init__(self, before=lambda job: None):
        self.before = before

    def output(self, job):
        return job.folder / "made"

    def make(self, job):
        self.before(job)
        job.folder.mkdir(parents=True)
        self.output(job).touch()


@pytest.fixture
def make(documented, tmp_path):
    """A function that makes a study whose models are stubs."""

    def study(names, before=lambda job: None, measure=None, **more) -> CaseStudy:
        cells = [{"name": name, "subjects": 100, "passes": 44, **more} for name in names]

        def result(job):
            return replace(documented.cells[0], cell=job.cell, seed=job.seed)

        return CaseStudy(tmp_path, cells, [0], 400, [Stub(before)], measure or result, workers=2)

    return study


def fail(job):
    raise ChildProcessError("no")


def test_cells_of_several_workers_come_in_order(make, tmp_path, capsys):
    done, pause = [], threading.Event()

    def before(job):
        if job.cell.name == "a":
            pause.wait(20)  # ends after b and c
        if job.cell.name == "c":
            pause.set()
        done.append(job.cell.name)

    study = make("abcd", before).run()
    assert [r.cell.name for r in study.cells] == ["a", "b", "c", "d"] and done[0] == "b"
    assert json.loads((tmp_path / "case_study.json").read_text()) == json.loads(json.dumps(study.json()))
    assert (tmp_path / "case_study.md").read_text() == table(study)
    assert [line[:9] for line in capsys.readouterr().out.splitlines()] == [
        "a, seed 0",
        "b, seed 0",
        "c, seed 0",
        "d, seed 0",
    ]


def test_a_failure_ends_the_study_and_keeps_what_was_finished(make, tmp_path):
    with pytest.raises(ChildProcessError):
        make("abcd", lambda job: fail(job) if job.cell.name == "b" else None).run()
    assert [cell["cell"]["name"] for cell in json.loads((tmp_path / "case_study.json").read_text())["cells"]] == ["a"]


def test_a_finished_cell_is_not_run_again(make):
    first = make("ab").run()
    assert make("ab", fail, measure=fail).run() == first
    assert [r.cell.name for r in make("abc").run().cells] == ["a", "b", "c"]


def test_a_study_of_no_cell_is_an_error(make):
    with pytest.raises(ValueError, match="cells and seeds: expected one or more of each, found none"):
        make("")


def test_a_changed_cell_is_an_error(make):
    make("a").run()
    with pytest.raises(ValueError, match="expected the cell .* remove the folder"):
        make("a", duplication="low").run()


def test_no_cell_begins_where_one_cannot_be(make, tmp_path):
    study = make("ab")

    def check(job):
        if job.cell.name == "b":
            raise ValueError("cell b")

    study.stages[0].check = check
    with pytest.raises(ValueError, match="cell b"):
        study.run()
    assert not list(tmp_path.iterdir())


def check(key, value):
    """Check the shipped config with this value as its `run` does."""
    file = ROOT / "configs" / "case_study.yaml"
    config = ConfigParser.load_config_file(str(file)) | {key: value}
    config["check"] = f"$scripts.check_arguments('{file}', allow=['check'])"
    ConfigParser(config).get_parsed_content("check")


def test_lists_of_any_length_are_checked_for_their_kind(as_command):
    check("condition_columns", ["age"])
    check("cells", [CELL])
    for key, value, sentence in (
        ("condition_columns", "age", "--condition_columns: expected a list of texts, as ['age'"),
        ("condition_columns", [1], "--condition_columns: expected a list of texts"),
        ("cells", [3], "--cells: expected a list of objects, as {'name'"),
    ):
        with pytest.raises(SystemExit, match=f"error: {re.escape(sentence)}"):
            check(key, value)
