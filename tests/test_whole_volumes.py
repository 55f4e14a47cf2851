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
import shutil
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
from heads import FIELD, copy, head, write_heads
from helpers import ROOT, read, run_config
from scipy.ndimage import binary_erosion, gaussian_filter

COPIES = {"copy_a": 3, "copy_b": 7, "copy_c": 11}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Volumes of 16 people, and 4 generated ones, three of them copies; and an audit of them."""
    folder = tmp_path_factory.mktemp("volumes")
    write_heads(folder / "train", {f"sub-{seed:02d}": head(seed) for seed in range(16)})
    volumes = {name: copy(head(source), source) for name, source in COPIES.items()}
    write_heads(folder / "generated", {**volumes, "new": copy(head(100), 5)})
    result = audit(folder, "out")
    assert result.returncode == 0, result.stderr
    return folder, result


def audit(folder, output, *arguments, train="train", generated="generated"):
    keys = ("--train_dir", train, "--generated_dir", generated, "--output_dir", output, "--control_images", "6")
    return run_config("detect.yaml", folder, *keys, "--bent_images", "4", *arguments)


def test_copied_volumes_are_found_with_their_sources_and_decided_whole(folder):
    matches = {row["generated_id"]: row for row in read(folder[0] / "out" / "matches.csv")}
    for name, source in COPIES.items():
        row = matches[f"{name}.nii.gz"]
        assert row["memorized"] == "1" and row["train_subject"] == f"sub-{source:02d}"
        assert float(row["aligned_ssim"]) > 0.9
    assert matches["new.nii.gz"]["memorized"] == "0"
    assert read(folder[0] / "out" / "slices.csv") == []
    report = json.loads((folder[0] / "out" / "report.json").read_text())
    assert report["checkpoint"]["path"].endswith("model_3d.pt")
    assert [bent["pixels"] for bent in report["positive_control"]["bent"]] == [0.5, 0.75, 1.0]
    assert "by 0.5, " in folder[1].stdout and "voxels of 4 mm." in folder[1].stdout


def test_the_detail_of_calls_is_compared_in_finer_voxels_where_the_files_have_them(folder):
    # a field that is too small for a head, so that no detail agrees
    fine = ("--volume_fine_most_mm", "5.0", "--volume_fine_size", "[8, 8, 8]", "--thumbnails", "False")
    result = audit(folder[0], "fine", *fine)
    assert result.returncode == 0, result.stderr
    tiers = [Counter(row["verdict"] for row in read(folder[0] / name / "matches.csv")) for name in ("out", "fine")]
    called = sum(count for verdict, count in tiers[0].items() if verdict != "none")
    assert tiers[0]["copy"] >= 3 and tiers[1] == {"likeness": called, "none": 4 - called}


def test_the_page_shows_three_planes_all_slices_and_how_the_volumes_lie(folder):
    page = (folder[0] / "out" / "report.html").read_text()
    figure = page[page.index('<figure id="subject-0"') : page.index("</figure>", page.index('<figure id="subject-0"'))]
    assert figure.count("data:image/png") >= 9 + 2 and 'data-slices="40"' in figure
    assert re.search(r"turned by \d+°, shifted by \d+ mm, scaled by 1\.0\d", figure) or "scaled by 0.9" in figure
    assert "volumes, each taken as one" in page and not re.search(r"(src|href)=.https?:", page)


@pytest.mark.slow
def test_slices_remain_a_choice_and_a_network_of_ones_own_gets_them(folder, tmp_path):
    shutil.copy(ROOT / "models" / "model.pt", tmp_path / "own.pt")
    for number, keys in enumerate((("--volumes", "slices"), ("--checkpoint", str(tmp_path / "own.pt")))):
        output = f"slices_{number}"
        result = audit(folder[0], output, *keys, "--bends", "[]", "--thumbnails", "False")
        assert result.returncode in (0, 3), result.stderr
        report = json.loads((folder[0] / output / "report.json").read_text())
        assert report["inputs"]["train"]["slices"] > report["inputs"]["train"]["images"] == 16
        assert not report["checkpoint"]["path"].endswith("model_3d.pt")


def test_a_planar_image_among_volumes_is_one_sentence(folder, tmp_path):
    for name in ("train", "generated"):
        shutil.copytree(folder[0] / name, tmp_path / name)
    np.save(tmp_path / "generated" / "middle.npy", head(0)[:, :, 20])
    result = audit(tmp_path, "out")
    assert result.returncode == 1 and len(result.stderr.strip().splitlines()[-1]) < 400
    assert "middle.npy: cannot be audited (expected a volume, found an image of 2 axes" in result.stderr


def test_an_unknown_choice_is_one_sentence(folder):
    result = audit(folder[0], "never", "--volumes", "all")
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].endswith("volumes must be auto, whole or slices, got 'all'")


@pytest.mark.slow
def test_volumes_whose_voxel_size_is_wrong_are_set_right(folder, tmp_path):
    shutil.copytree(folder[0] / "train", tmp_path / "train")
    volumes = {name: copy(head(source), source) for name, source in COPIES.items()}
    more = {f"new_{seed}": copy(head(200 + seed), seed) for seed in range(3)}
    write_heads(tmp_path / "generated", {**volumes, **more}, mm=2.0)
    result = audit(tmp_path, "out", "--thumbnails", "False")
    assert result.returncode == 0, result.stderr
    matches = read(tmp_path / "out" / "matches.csv")
    called = {row["generated_id"] for row in matches if row["memorized"] == "1"}
    assert called >= {f"{name}.nii.gz" for name in COPIES} and len(called) <= 4  # at 5 % one may be wrong
    findings = json.loads((tmp_path / "out" / "report.json").read_text())["fit"]["findings"]
    assert [finding["kind"] for finding in findings] == ["size"]


ON_ITS_FACE = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def turned(folder: Path, names: list[str]) -> None:
    """Let the headers of volumes say that up is forward, as where two axes of the arrays were swapped."""
    for name in names:
        image = nibabel.load(folder / f"{name}.nii.gz")
        array, affine = np.asarray(image.dataobj), ON_ITS_FACE @ image.affine
        nibabel.save(nibabel.Nifti1Image(array, affine), folder / f"{name}.nii.gz")


@pytest.mark.slow
@pytest.mark.parametrize("share", ["all", "some"])
def test_volumes_whose_headers_are_wrong_about_their_axes(folder, tmp_path, share):
    """All: they are turned and the copies found. Some: said, and no clean answer."""
    shutil.copytree(folder[0] / "train", tmp_path / "train")
    volumes = {name: copy(head(source), source) for name, source in COPIES.items()}
    more = {f"new_{seed}": copy(head(200 + seed), seed) for seed in range(5)}
    write_heads(tmp_path / "generated", {**volumes, **more})
    turned(tmp_path / "generated", [*volumes, *(more if share == "all" else [])])
    result = audit(tmp_path, "out", "--thumbnails", "False")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    kinds = [finding["kind"] for finding in report["fit"]["findings"]]
    if share == "all":
        assert result.returncode == 0 and kinds == ["axes"], result.stderr
        called = {row["generated_id"] for row in read(tmp_path / "out" / "matches.csv") if row["memorized"] == "1"}
        assert called >= {f"{name}.nii.gz" for name in COPIES} and len(called) <= 4
    else:
        assert result.returncode == 3 and "mixed" in kinds, result.stdout
        assert "lie in another way than the others" in result.stdout


@pytest.mark.slow
def test_volumes_that_show_less_are_compared_where_both_show_something(folder, tmp_path):
    shutil.copytree(folder[0] / "train", tmp_path / "train")
    volumes = {name: copy(head(source), source) for name, source in COPIES.items()}
    volumes |= {f"new_{seed}": copy(head(200 + seed), seed) for seed in range(3)}
    core = {name: volume * binary_erosion(volume > 0.1, iterations=5) for name, volume in volumes.items()}
    write_heads(tmp_path / "generated", core)
    result = audit(tmp_path, "out", "--thumbnails", "False")
    assert result.returncode == 0, result.stderr
    called = {row["generated_id"] for row in read(tmp_path / "out" / "matches.csv") if row["memorized"] == "1"}
    assert len(called & {f"{name}.nii.gz" for name in COPIES}) >= 2 and len(called) <= 3
    findings = json.loads((tmp_path / "out" / "report.json").read_text())["fit"]["findings"]
    # simulated heads are so alike that a core, made as large as a head, fits too
    assert {finding["kind"] for finding in findings} <= {"view", "size"} and findings


@pytest.mark.slow
def test_noise_in_place_of_volumes_is_inconclusive(folder):
    rng = np.random.default_rng(0)
    noise = {f"n{i}": gaussian_filter(rng.uniform(0, 1, FIELD), 1.5).astype(np.float32) for i in range(8)}
    write_heads(folder[0] / "noise", {name: (v - v.min()) / np.ptp(v) for name, v in noise.items()})
    result = audit(folder[0], "of_noise", "--thumbnails", "False", "--volume_bends", "[]", generated="noise")
    assert result.returncode == 3, result.stdout + result.stderr
    assert "do not resemble the training images as a set" in result.stdout


def test_training_in_3d_runs_resumes_and_keeps_its_best_weights(folder, tmp_path):
    overlay = f"['{ROOT}/configs/train.yaml','{ROOT}/configs/train_3d.yaml']"
    small = ("--dataset_dir", str(folder[0] / "train"), "--groups", "2", "--iterations", "1", "--num_workers", "0")
    result = run_config(overlay, tmp_path, *small, "--output_dir", "out", "--epochs", "1")
    assert result.returncode == 0, result.stderr
    assert "Held-out subjects: 2, 2 images." in result.stdout
    resumed = run_config(
        overlay, tmp_path, *small, "--output_dir", "out", "--epochs", "2", "--resume", "out/checkpoint_epoch=1.pt"
    )
    assert resumed.returncode == 0, resumed.stderr
    assert (tmp_path / "out" / "checkpoint_epoch=2.pt").exists() and (tmp_path / "out" / "model.pt").exists()


def test_embeddings_of_volumes_are_one_row_each(folder, tmp_path):
    overlay = f"['{ROOT}/configs/inference.yaml','{ROOT}/configs/inference_3d.yaml']"
    result = run_config(overlay, tmp_path, "--dataset_dir", str(folder[0] / "generated"), "--output_dir", "out")
    assert result.returncode == 0, result.stderr
    rows = (tmp_path / "out" / "embeddings.csv").read_text().splitlines()
    assert len(rows) == 4 and all(len(row.split(",")) == 257 for row in rows)
