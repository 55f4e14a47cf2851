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
import threading
from dataclasses import asdict

import numpy as np
import pytest
import torch
from helpers import ROOT, run_config
from monai.bundle import ConfigParser
from PIL import Image
from scipy.ndimage import gaussian_filter

from scripts.bundle.arguments import _problems
from scripts.bundle.components import component
from scripts.bundle.files import read_table, write_table
from scripts.bundle.weights import save_weights
from scripts.similarity.verification import Verifier
from scripts.studies import case_study, study_report
from scripts.studies.case_study import CaseStudy, Cell, export_slices
from scripts.studies.rivals import Correlation
from scripts.studies.study_report import copies_slope, leaks_by_copies, leaks_by_sight

MODEL = str(ROOT / "configs" / "ldm" / "model.yaml")
INFERENCE = str(ROOT / "configs" / "inference.yaml")


def head(seed: int) -> np.ndarray:
    """A textured ellipse, 8 bits, as a picture (row, column)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:112j, -1:1:96j]
    texture = gaussian_filter(rng.normal(size=(112, 96)), 3)
    return np.where(x**2 / 0.7 + y**2 / 0.8 < 1, 140 + 80 * texture / np.abs(texture).max(), 0).astype(np.uint8)


CELL = {"name": "few", "subjects": 8, "duplication": "low", "passes": 1, "condition": "variables"}


@pytest.fixture(scope="module")
def study_dir(tmp_path_factory):
    """The folder of a study of one cell, as short as can be, that the real configs made of 14 subjects.

    It runs case_study.yaml, which runs ldm/train_diffusion.yaml, ldm/generate.yaml and detect.yaml.
    """
    folder, rows = tmp_path_factory.mktemp("study"), []
    for number in range(14):
        name = f"s{number:02d}"
        Image.fromarray(head(number)).save(folder / f"{name}.png")
        rows.append({"image": f"{name}.png", "subject_id": name, "age": 20 + number, "sex": "MF"[number % 2]})
    write_table(folder / "participants.csv", rows)
    torch.manual_seed(0)
    save_weights(component(MODEL, "autoencoder_def", size="cpu"), folder / "autoencoder.pt")
    overlay = {
        "cells": [CELL],
        "seeds": 1,
        "samples": 16,
        "condition_columns": ["age", "sex"],
        "study#train": {"epochs": 1, "batch_size": 4},
        "study#generate": {"size": "cpu", "steps": 2},
        "study#detect": {"control_images": 4, "thumbnails": False},
    }
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
def make(study_dir):
    """A function that makes a study in that folder."""

    def study(cells=(CELL,), samples=16, one=study_dir / "out" / "slices" / "slices.csv"):
        return CaseStudy(
            {"one": one, "many": study_dir / "out" / "slices_many" / "slices.csv"},
            study_dir / "autoencoder.pt",
            study_dir / "out",
            cells,
            seeds=[0],
            samples=samples,
            preprocessing=component(INFERENCE, "preprocessing"),
            methods={"cross-correlation": Correlation(), "not given": None},
            condition_columns=["age", "sex"],
            train={"size": "cpu"},
        )

    return study


@pytest.fixture(scope="module")
def finished(make):
    study = make()
    return study, study.run()


def test_a_cell_is_trained_sampled_and_audited(finished):
    study, result = finished
    (cell,) = result["cells"]
    folder = study.output_dir / "cells" / "few_0"
    assert len(read_table(folder / "train.csv")) == 8 and len(read_table(folder / "holdout.csv")) == 6
    report = json.loads((folder / "audit" / "report.json").read_text())
    assert report["calibration"]["null"] == "holdout" and report["inputs"]["generated"]["images"] == 16
    assert cell["memorized"] == report["memorized"] and cell["seconds"].keys() == {"train", "generate", "detect"}
    counts = {s["subject_id"]: s["copies"] for s in cell["subjects"]}
    assert len(counts) == 8 and set(counts.values()) <= {1, 2, 3, 4} and max(counts.values()) > 1
    assert len(cell["rivals"]) == 5 and all(0 <= rival["flagged"] <= 1 for rival in cell["rivals"].values())
    # untrained networks draw no heads: far from the real ones
    assert cell["quality"]["mmd"] > 10 * abs(cell["quality"]["mmd_train"])
    assert [row["copies"] for row in result["copies"]] == sorted(set(counts.values()))


def test_merged_subjects_are_both_leaked_and_calls_labelled_duplicates_are_counted(finished, tmp_path):
    study, _ = finished
    folder = tmp_path / "cell"
    shutil.copytree(study.output_dir / "cells" / "few_0", folder)
    a, b, *_ = (row["subject_id"] for row in read_table(folder / "model" / "records.csv"))
    report = json.loads((folder / "audit" / "report.json").read_text())
    report["merged_subjects"]["groups"], report["leaked_subjects"]["ids"] = [[a, b]], [f"{a}+{b}"]
    (folder / "audit" / "report.json").write_text(json.dumps(report))
    matches = read_table(folder / "audit" / "matches.csv")
    for row, (called, label) in zip(
        matches, ((1, "duplicate"), (1, "similar"), (0, "duplicate"), *[(0, "different")] * 13)
    ):
        row["memorized"], row["label"] = called, label
    write_table(folder / "audit" / "matches.csv", matches)
    measured = study._measure(folder)
    assert {s["subject_id"] for s in measured["subjects"] if s["leaked"]} == {a, b}
    assert measured["duplicates"] == 1  # called and as alike as copies


def test_a_sample_that_shows_nothing_is_counted_and_left_out(finished, make, tmp_path):
    study, done = make(), finished[0].output_dir / "cells" / "few_0"
    study.output_dir, study.keys["detect"] = tmp_path, {"on_error": "skip", "control_images": 4, "thumbnails": False}
    folder = tmp_path / "cells" / "few_0"
    shutil.copytree(done, folder, ignore=shutil.ignore_patterns("audit", "result.json"))
    path = sorted((folder / "generated" / "images").iterdir())[0]
    Image.fromarray(np.zeros_like(np.asarray(Image.open(path)))).save(path)
    result = study.run_cell(study.cells[0], 0)
    assert result["empty"] == 1 and len(read_table(folder / "audit" / "matches.csv")) == 15


def test_a_finished_cell_is_not_run_again(finished, make, monkeypatch):
    def fail(*arguments, **keys):
        raise AssertionError("a stage ran again")

    monkeypatch.setattr(case_study.subprocess, "run", fail)
    assert make().run() == finished[1]


def test_a_changed_cell_is_an_error(finished, make):
    with pytest.raises(ValueError, match="expected the cell .* remove the folder"):
        make([{"name": "few", "subjects": 8}]).run()


def test_a_failing_stage_names_its_log(finished, make, tmp_path):
    study = make([{"name": "bad", "subjects": 8, "condition": "text"}])
    with pytest.raises(ChildProcessError, match=r"log.txt: expected stage train to end well, found exit status 1"):
        study.run()
    log = (study.output_dir / "cells" / "bad_0" / "log.txt").read_text()
    assert "error: condition: expected none, variables or embedding, got 'text'" in log


def test_cells_of_several_workers_come_in_order_and_a_failure_ends_them(make, monkeypatch, tmp_path):
    study = make([CELL | {"name": name} for name in "abcd"])
    study.workers, study.output_dir, done, pause = 2, tmp_path, [], threading.Event()

    def run_cell(cell, seed):
        if cell.name == "a":
            pause.wait(20)  # ends after b and c
        if cell.name == "c":
            pause.set()
        done.append(cell.name)
        return {"cell": asdict(cell), "seed": seed}

    monkeypatch.setattr(study, "run_cell", run_cell)
    monkeypatch.setattr(case_study, "leaks_by_copies", lambda results: {})
    monkeypatch.setattr(case_study, "leaks_by_sight", lambda results: [])
    for name in ("table", "_line"):
        monkeypatch.setattr(case_study, name, lambda content: "")
    monkeypatch.setattr(case_study, "plot_study", lambda study, path: None)
    assert [r["cell"]["name"] for r in study.run()["cells"]] == ["a", "b", "c", "d"] and done[0] == "b"

    def fail(cell, seed):
        raise ChildProcessError("no")

    monkeypatch.setattr(study, "run_cell", fail)
    with pytest.raises(ChildProcessError):
        study.run()


def test_cells_that_cannot_be_are_errors(make):
    for cell, samples, sentence in (
        ({"subjects": 9}, 18, "expected 9 subjects to train on and 6 or more as holdout, found 9 and 5"),
        ({"subjects": 15}, 15, "expected 15 subjects to train on and 6 or more as holdout, found 14 and 0"),
        ({"subjects": 8}, 17, "expected a number of training images that divides 17 samples, found 8"),
        ({"subjects": 8, "slices": "all"}, 16, "slices: expected one of one, many, got 'all'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            make([{"name": "a", **cell}], samples=samples)


def test_a_conditioned_cell_trains_on_subjects_with_all_values(make, study_dir, tmp_path):
    rows = read_table(study_dir / "out" / "slices" / "slices.csv")
    for row, column in zip(rows, ("age", "sex", "age")):
        row[column] = "n/a" if column == "age" else ""
    write_table(tmp_path / "slices.csv", rows)
    study = make(one=tmp_path / "slices.csv")
    free, bound = (Cell("a", 7, condition=condition) for condition in ("none", "variables"))
    for seed in range(5):
        plain, known, unseen = (
            {row["subject_id"] for row in study._rows(cell, seed, training)}
            for cell, training in ((free, True), (bound, True), (bound, False))
        )
        assert len(plain) == len(known) == 7 and known | unseen == {row["subject_id"] for row in rows}
        assert not known & {row["subject_id"] for row in rows[:3]}
        assert plain - {row["subject_id"] for row in rows[:3]} <= known  # as few others as can be


def test_a_cell_of_many_slices_is_drawn_from_for_some_of_them(make, study_dir, monkeypatch, tmp_path):
    rows = read_table(study_dir / "out" / "slices" / "slices.csv")
    write_table(study_dir / "out" / "slices_many" / "slices.csv", [row for row in rows for _ in range(3)])
    cell, ran = {"name": "many", "subjects": 8, "slices": "many"}, []
    study = make([cell], samples=5)  # fewer than 24 records, which need not divide them
    monkeypatch.setattr(study, "_run_config", lambda folder, stage, configs, keys: ran.append(keys))
    study._split(study.cells[0], 0, tmp_path)
    assert len(read_table(tmp_path / "train.csv")) == 24 and len(read_table(tmp_path / "holdout.csv")) == 18
    study._generate(study.cells[0], 0, tmp_path)
    assert ran[0]["records"] == 5 and ran[0]["samples_per_record"] == 1
    shipped = ConfigParser.load_config_file(str(ROOT / "configs" / "ldm" / "generate.yaml"))
    assert not list(_problems(shipped | {"records": 5}, shipped, {"records": "5"}, (), ()))


def test_table_figure_and_sheets_show_the_study(finished, tmp_path):
    study, result = finished
    text = study_report.table(result)
    assert text == (study.output_dir / "case_study.md").read_text()
    assert "| few, 0 | 8 subjects x 1-4 copies, 1 passes, variables |" in text and "cross-correlation" in text
    study_report.plot_study(result, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as figure:
        assert figure.size == (1980, 570)
    pages = study_report.contact_sheets(
        study.output_dir, component(INFERENCE, "preprocessing"), Verifier(), count=5, page=4
    )
    rows = read_table(study.output_dir / "contact_sheet.csv")
    called = sum(row["memorized"] == "1" for row in read_table(study.output_dir / "cells/few_0/audit/matches.csv"))
    assert len(rows) == 5 + min(5, called) and len(pages) == -(-len(rows) // 4)


def test_slices_are_exported_once_with_their_columns(tmp_path):
    volume = [{"image": torch.full((1, 8, 6), i / 10), "level": 10.0 * i} for i in range(5)]
    calls = []

    def chain(item):
        calls.append(item)
        return volume

    items = [{"image": "a.nii", "id": "a.nii", "subject_id": "a", "age": "40"}]
    for _ in range(2):
        path = export_slices(items, chain, [21.0], tmp_path / "slices")
    assert read_table(path) == [{"image": "a.png", "subject_id": "a", "age": "40"}] and len(calls) == 1
    assert np.asarray(Image.open(path.parent / "a.png")).shape == (6, 8)
    assert np.asarray(Image.open(path.parent / "a.png"))[0, 0] == 51
    many = export_slices(items, chain, [9.0, 31.0], tmp_path / "many")
    assert [row["image"] for row in read_table(many)] == ["a_0.png", "a_1.png"]
    assert np.asarray(Image.open(many.parent / "a_1.png"))[0, 0] == 76


def simulated(people: int, slope: float, *intercepts: float) -> tuple[np.ndarray, ...]:
    """Copies, leaks, subjects and models of people who were in a training for each intercept."""
    rng, parts = np.random.RandomState(0), []
    for number, intercept in enumerate(intercepts):
        copies = rng.randint(1, 15, size=people)
        leaked = rng.rand(people) < 1 / (1 + np.exp(-intercept - slope * np.log2(copies)))
        parts.append((copies, leaked, np.arange(people), np.full(people, f"m{number}")))
    return tuple(map(np.concatenate, zip(*parts)))


def test_slope_is_that_of_the_simulated_odds():
    found = copies_slope(*simulated(3000, 1.2, -3, 0), draws=200)
    assert found["per_doubling"] == pytest.approx(1.2, abs=0.2)
    assert found["intercepts"] == {"m0": pytest.approx(-3, abs=0.5), "m1": pytest.approx(0, abs=0.3)}
    low, high = found["ci95"]
    assert low < 1.2 < high and high - low < 0.4
    none = copies_slope(*simulated(3000, 0, -1), draws=200)["ci95"]
    assert none[0] < 0 < none[1]


def test_a_model_that_leaks_more_is_no_slope():
    """Few copies in a model that leaks much, many in one that does not: pooled, copies would seem to protect."""
    copies, leaked, subjects, models = simulated(3000, 0, -2, 2)
    few = models == "m1"
    keep = np.where(few, copies <= 4, copies >= 4)
    low, high = copies_slope(*(a[keep] for a in (copies, leaked, subjects, models)), draws=200)["ci95"]
    assert low < 0 < high
    assert copies_slope(*(a[keep] for a in (copies, leaked, subjects)), np.zeros(keep.sum()), draws=50)["ci95"][1] < -1


def test_trainings_of_the_same_people_are_no_new_evidence():
    one = simulated(300, 1.2, -3)
    once = np.diff(copies_slope(*one)["ci95"])
    copies, leaked, people, models = (np.tile(a, 4) for a in one)
    assert np.diff(copies_slope(copies, leaked, people, models)["ci95"]) == pytest.approx(once, rel=0.15)
    # a half, if people were taken for four
    assert np.diff(copies_slope(copies, leaked, np.arange(1200), models)["ci95"]) < 0.65 * once


def test_slope_exists_where_copies_separate_the_leaked_and_where_nothing_leaked():
    copies, model = np.arange(1, 15), np.zeros(14)
    assert 1 < copies_slope(copies, copies > 7, copies, model, draws=50)["per_doubling"] < 100
    assert copies_slope(copies, copies > 20, copies, model, draws=50)["per_doubling"] <= 0


def test_leaks_are_counted_by_how_often_an_image_was_seen():
    def result(passes, counts):
        return {"cell": {"passes": passes}, "subjects": [{"copies": n, "leaked": leak} for n, leak in counts]}

    cells = [result(50, [(1, False), (2, True), (4, False)]), result(200, [(1, True), (9, True)])]
    found = leaks_by_sight(cells, (0, 100, 200, 300))
    assert [(row["seen"], row["leaked"], row["subjects"]) for row in found] == [
        ([50, 50], 0, 1),
        ([100, 100], 1, 1),  # 2 x 50
        ([200, 200], 1, 2),  # 4 x 50 and 200
        ([1800, 1800], 1, 1),  # 9 x 200
    ]
    assert found[0]["ci95"] == pytest.approx([0, 0.975])  # Clopper and Pearson: 1 - 0.025 ** (1 / n)
    assert len(leaks_by_sight(cells, (0, 10_000))) == 1  # no subject, no row


def test_leaks_are_counted_by_copies_and_duplication():
    def result(name, duplication, counts):
        subjects = [{"subject_id": f"s{i}", "copies": n, "leaked": leak} for i, (n, leak) in enumerate(counts)]
        return {"cell": {"name": name, "duplication": duplication}, "seed": 0, "subjects": subjects}

    cells = [
        result("once", "none", [(1, True)]),
        result("low", "low", [(1, True), (1, False), (4, True)]),
        result("high", "high", [(1, False), (1, False), (12, True), (14, False), (9, True)]),
    ]
    found = leaks_by_copies(cells)
    counts = {(row["duplication"], row["copies"]): (row["leaked"], row["subjects"]) for row in found["copies"]}
    assert counts == {
        ("low", 1): (1, 2),
        ("low", 4): (1, 1),
        ("high", 1): (0, 2),
        ("high", 9): (1, 1),
        ("high", 12): (1, 1),
        ("high", 14): (0, 1),
    }
    # of the model that has subjects of ten copies or more
    assert found["leaked_once"] == {"subjects": 2, "leaked": 0}
    assert found["leaked_often"] == {"subjects": 2, "leaked": 1}
    assert found["slope"]["intercepts"].keys() == {"low_0", "high_0"}
    assert leaks_by_copies(cells[:1]) == {"copies": None}


def test_flagged_share_of_unseen_images_is_a_twentieth():
    rng = np.random.default_rng(0)
    train, holdout = rng.random((2, 400, 8, 8), np.float32)
    same = case_study._flagged(Correlation(), train, holdout, holdout)["flagged"]
    assert same == pytest.approx(0.05, abs=0.005)
    assert case_study._flagged(Correlation(), train, holdout, train)["flagged"] == 1


def test_lists_of_any_length_are_checked_for_their_kind():
    shipped = ConfigParser.load_config_file(str(ROOT / "configs" / "case_study.yaml"))
    good = shipped | {"condition_columns": ["age"], "cells": [CELL]}
    assert not list(_problems(good, shipped, {}, (), ()))
    for key, value, sentence in (
        ("condition_columns", "age", "--condition_columns: expected a list of texts, as ['age'"),
        ("condition_columns", [1], "--condition_columns: expected a list of texts"),
        ("cells", [3], "--cells: expected a list of objects, as {'name'"),
    ):
        (problem,) = _problems(shipped | {key: value}, shipped, {}, (), ())
        assert problem.startswith(sentence)
