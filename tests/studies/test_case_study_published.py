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

"""The case study at the published size: its plan, and a cell as short as can be, on files in the form of IXI T2."""

from __future__ import annotations

import json
import shutil

import nibabel
import numpy as np
import pytest
import torch
from heads import head, write_heads
from helpers import ROOT, run_config
from monai.bundle import ConfigParser
from PIL import Image
from scripts.bundle.components import component
from scripts.bundle.files import read_table, write_table
from scripts.bundle.weights import save_weights
from text_models import write_clip

pytest.importorskip("transformers", reason="text models need the extra `published`")

PLAN = [f"{ROOT}/configs/case_study.yaml", f"{ROOT}/configs/case_study_published.yaml"]
MODEL = str(ROOT / "configs" / "ldm" / "model.yaml")
PEOPLE = 16


@pytest.fixture(scope="module")
def ixi(tmp_path_factory):
    """A folder with IXI-T2/, of 16 people, and IXI.csv, which knows neither the sex of one nor the age of another."""
    folder = tmp_path_factory.mktemp("published")
    names = {f"IXI{number:03d}-Guys-{800 + number:04d}-T2": head(number) for number in range(1, PEOPLE + 1)}
    write_heads(folder / "IXI-T2", names)
    rows = [{"IXI_ID": n, "SEX_ID (1=m, 2=f)": 1 + n % 2, "AGE": 20.25 + n} for n in range(1, PEOPLE + 1)]
    rows[3]["SEX_ID (1=m, 2=f)"], rows[4]["AGE"] = 0, ""
    write_table(folder / "IXI.csv", rows)
    return folder


def planned(**keys):
    """What the plan says once these keys are given."""
    parser = ConfigParser()
    parser.read_config(PLAN)
    parser.update(keys)
    return lambda key: parser.get_parsed_content(key)


def test_the_plan_is_three_duplications_by_three_conditions(ixi):
    plan = planned(dataset_dir=str(ixi / "IXI-T2"), people_file=str(ixi / "IXI.csv"))
    cells = plan("cells")
    grid = {(cell["duplication"], cell["condition"]) for cell in cells}
    assert grid == {(d, c) for d in ("none", "low", "high") for c in ("none", "variables", "text")} and len(cells) == 9
    # of 14 people whose age and sex are known six are left to the holdout
    assert {cell["subjects"] for cell in cells} == {8} and plan("samples") == 30 * 8
    assert {cell["passes"] for cell in cells} == {100}
    assert plan("condition_columns") == ["age", "sex"] and plan("level") == 63.0
    assert plan("text") == "Axial brain MRI, sex {sex}, age {age:.0f} years"
    keys = plan("train::overrides")
    assert keys == {"batch_size": 8, "embedding_dim": 512} and plan("train::overlays") == []
    shipped = ConfigParser.load_config_file(str(ROOT / "configs" / "ldm" / "train_diffusion.yaml"))
    assert keys.keys() <= shipped.keys()
    assert (shipped["size"], shipped["passes"], float(shipped["lr"])) == ("published", 100, 2.5e-5)
    # the slices fill the field of the published networks
    assert plan("spatial_size") == component(MODEL, "spatial_size", size="published")
    assert plan("pixel_mm") == component(MODEL, "pixel_mm", size="published")


def test_where_there_are_label_maps_tissues_are_told_too(ixi, tmp_path):
    rows = []
    for path in sorted((ixi / "IXI-T2").iterdir()):
        labels = np.zeros((4, 4, 4), np.uint8)
        labels[1:3, 1:3, 1:3] = 4
        nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), tmp_path / f"mask_{path.name}")
        rows.append({"image": str(path), "mask": f"mask_{path.name}"})
    write_table(tmp_path / "list.csv", rows)
    plan = planned(dataset_dir=str(tmp_path / "list.csv"), people_file=str(ixi / "IXI.csv"))
    assert plan("condition_columns") == ["age", "sex", "csf", "gm", "wm"] and plan("level") == 48.0
    assert plan("text").endswith("{csf:.1%} cerebrospinal fluid, {gm:.1%} grey matter, {wm:.1%} white matter")


@pytest.mark.parametrize(("dim", "entries"), [(5, 1), (512, 1)])
def test_the_published_network_takes_variables_and_texts(dim, entries):
    with torch.device("meta"):  # 400 MB otherwise; nothing is computed
        network = component(MODEL, "diffusion_def", size="published", condition_dim=dim)
        noise = network(torch.zeros(8, 3, 28, 36), torch.zeros(8), torch.zeros(8, entries, dim))
    assert noise.shape == (8, 3, 28, 36)


@pytest.mark.parametrize(("size", "frame"), [("published", 144), ("cpu", 128)])
@pytest.mark.parametrize("config", ["train_autoencoder.yaml", "train_diffusion.yaml"])
def test_a_picture_as_large_as_the_networks_field_is_not_shrunk(config, size, frame, tmp_path):
    parser = ConfigParser()
    parser.read_config(str(ROOT / "configs" / "ldm" / config))
    parser.update({"size": size})
    sides = parser.get_parsed_content("spatial_size")
    pixels = np.random.default_rng(0).integers(100, 256, (sides[1], sides[0])).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = parser.get_parsed_content("preprocessing")({"image": str(tmp_path / "a.png"), "id": "a"})["image"][0]
    assert parser.get_parsed_content("frame") == frame and tuple(image.shape) == tuple(sides)
    scaled = (pixels.T - pixels.min()) / (np.percentile(pixels, 99.5) - pixels.min())
    np.testing.assert_allclose(image, scaled.clip(0, 1), atol=1e-5)


def tiny(folder, cells, **more):
    """Write an overlay that makes the plan as short as can be, with small networks; return its path."""
    overlay = {
        "cells": cells,
        "samples_per_record": 2,
        "spatial_size": [96, 112],
        "pixel_mm": 2.0,
        "train#overlays": [f"{ROOT}/configs/ldm/diffusion_cpu.yaml"],
        "train#overrides": {"epochs": 1, "batch_size": 4, "embedding_dim": 512},
        "attack#overrides": {"size": "cpu", "timesteps": [100]},
        "generate#overrides": {"size": "cpu", "steps": 2},
        "detect#overrides#control_images": 4,
        "detect#overrides#thumbnails": False,
        **more,
    }
    (folder / "tiny.json").write_text(json.dumps(overlay))
    return f"{folder}/tiny.json"


def cell_of(duplication, condition):
    name = f"{duplication}-{condition}"
    return {"name": name, "subjects": "@subjects", "duplication": duplication, "passes": 1, "condition": condition}


@pytest.fixture(scope="module")
def ready(ixi):
    """The folder with the networks that a study needs."""
    torch.manual_seed(0)
    save_weights(component(MODEL, "autoencoder_def", size="cpu"), ixi / "autoencoder.pt")
    write_clip(ixi / "clip")
    return ixi


KEYS = ["--dataset_dir", "IXI-T2", "--people_file", "IXI.csv", "--text_encoder", "clip"]
KEYS += ["--autoencoder_file", "autoencoder.pt", "--pairs", "2", "--workers", "2"]  # a core for each


def test_a_cell_is_conditioned_on_sentences_and_sampled_by_them(ready):
    files = [*PLAN, tiny(ready, [cell_of("low", "text")])]
    result = run_config(str(files), ready, *KEYS, "--output_dir", "out")
    assert result.returncode == 0, result.stderr
    folder = ready / "out" / "cells" / "low-text_0"
    assert len(read_table(folder / "train.csv")) == 8 and len(read_table(folder / "holdout.csv")) == 6
    records = read_table(folder / "model" / "records.csv")
    ages = {row["subject_id"]: float(row["age"]) for row in records}
    assert all(age == 20.25 + int(name[3:]) for name, age in ages.items())
    for row in records:
        assert row["text"] == f"Axial brain MRI, sex {row['sex']}, age {float(row['age']):.0f} years"
    conditions = np.load(folder / "model" / "conditions.npy")
    facts = json.loads((folder / "model" / "model.json").read_text())
    assert conditions.shape == (8, 512) and facts["condition_dim"] == 512
    assert facts["condition"]["text"] == "Axial brain MRI, sex {sex}, age {age:.0f} years"
    with np.load(ready / "out" / "cells" / "text_embeddings.npz") as kept:  # shared by the cells
        vectors = dict(zip(kept["texts"].tolist(), kept["vectors"]))
    assert vectors.keys() > {row["text"] for row in records}  # and of the holdout, whom the attack asks of
    scored = read_table(folder / "membership" / "membership.csv")
    assert [row["member"] for row in scored] == ["1"] * 8 + ["0"] * 6
    np.testing.assert_array_equal(conditions, [vectors[row["text"]] for row in records])
    drawn = read_table(folder / "generated" / "generated.csv")
    assert len(drawn) == 16 and [drawn[0]["group"], drawn[2]["group"]] == [row["image"] for row in records[:2]]
    assert "8 subjects x 1-4 copies, 1 passes, text" in (ready / "out" / "case_study.md").read_text()


def test_a_study_without_an_encoder_says_so(ready, tmp_path):
    shutil.copytree(ready / "IXI-T2", tmp_path / "IXI-T2")
    files = [*PLAN, tiny(tmp_path, [cell_of("none", "text")])]
    result = run_config(
        str(files),
        tmp_path,
        *("--dataset_dir", "IXI-T2", "--people_file", str(ready / "IXI.csv"), "--output_dir", "out"),
        *("--autoencoder_file", str(ready / "autoencoder.pt")),
    )
    assert result.returncode == 1
    assert "expected stage train to end well" in result.stderr
    assert "text_encoder: expected a folder" in (tmp_path / "out" / "cells" / "none-text_0" / "log.txt").read_text()


@pytest.mark.slow
def test_all_nine_cells_are_trained_sampled_and_audited(ready):
    cells = [cell_of(d, c) for d in ("none", "low", "high") for c in ("none", "variables", "text")]
    files = [*PLAN, tiny(ready, cells)]
    result = run_config(str(files), ready, *KEYS, "--output_dir", "all")
    assert result.returncode == 0, result.stderr
    found = json.loads((ready / "all" / "case_study.json").read_text())["cells"]
    assert [cell["cell"]["name"] for cell in found] == [cell["name"] for cell in cells]
    trained = [
        {row["subject_id"] for row in read_table(ready / "all" / "cells" / f"{cell['name']}_0" / "train.csv")}
        for cell in cells
    ]
    assert all(people == trained[0] for people in trained)  # the same in all
