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
"""Diffusion models of whole volumes: the real configs, as short as can be, on simulated heads."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
from heads import FIELD, head, write_heads
from helpers import ROOT, run_config
from scripts.bundle.components import component
from scripts.bundle.files import read_table
from scripts.bundle.weights import load_weights

LDM = ROOT / "configs" / "ldm"


def paths(*names: str) -> str:
    """Configs of ldm/, as MONAI takes several."""
    return str([str(LDM / name) for name in names])


@pytest.fixture(scope="module")
def heads_dir(tmp_path_factory):
    """A folder of 14 heads, and the autoencoder that ldm/train_autoencoder.yaml makes of them in two steps."""
    folder = tmp_path_factory.mktemp("volumes")
    write_heads(folder / "heads", {f"s{number:02d}": head(number) for number in range(14)})
    few = ["--iterations", "2", "--epochs", "1", "--output_dir", "autoencoder"]
    files = paths("train_autoencoder.yaml", "autoencoder_3d.yaml", "autoencoder_3d_cpu.yaml")
    result = run_config(files, folder, "--dataset_dir", "heads", *few)
    assert result.returncode == 0, result.stderr
    return folder


def volumes_in(folder) -> list:
    """The volumes that a model drew, each of which is sound."""
    volumes = [nibabel.load(path) for path in sorted((folder / "images").iterdir())]
    for volume in volumes:
        assert volume.shape == FIELD and volume.header.get_zooms() == (4.0, 4.0, 4.0)
        assert 0 <= np.asarray(volume.dataobj).min() < np.asarray(volume.dataobj).max() <= 1
    return volumes


def test_a_diffusion_model_of_volumes_is_trained_and_sampled(heads_dir):
    network = component(LDM / "model.yaml", "autoencoder_def", size="volume_cpu")
    load_weights(network, heads_dir / "autoencoder" / "autoencoder.pt")
    files = paths("train_diffusion.yaml", "diffusion_3d.yaml", "diffusion_3d_cpu.yaml")
    weights = ["--autoencoder_file", "autoencoder/autoencoder.pt"]
    few = ["--passes", "1", "--epochs", "1", "--output_dir", "model"]
    result = run_config(files, heads_dir, "--dataset_dir", "heads", *weights, *few)
    assert result.returncode == 0, result.stderr
    facts = json.loads((heads_dir / "model" / "model.json").read_text())
    assert facts["latent_shape"] == [8, 12, 14, 10]
    files = paths("generate.yaml", "generate_3d.yaml")
    few = [
        "--size",
        "volume_cpu",
        "--steps",
        "2",
        "--samples_per_record",
        "1",
        "--records",
        "3",
        "--model_dir",
        "model",
    ]
    result = run_config(files, heads_dir, *weights, *few, "--output_dir", "drawn")
    assert result.returncode == 0, result.stderr
    assert len(volumes_in(heads_dir / "drawn")) == 3
    result = run_config(files, heads_dir, *weights, *few, "--output_dir", "pictures", "--suffix", ".png")
    assert result.returncode == 1 and "suffix: expected .nii.gz, as the model draws volumes" in result.stderr


@pytest.mark.slow
def test_a_case_study_of_volumes_is_trained_sampled_and_audited_whole(heads_dir):
    overlay = {
        "cells": [{"name": "few", "subjects": 8, "duplication": "low", "passes": 1}],
        "samples": 8,
        "train#overrides": {"epochs": 1},
        "generate#overrides": {"size": "volume_cpu", "steps": 2},
        "detect#overrides#control_images": 6,
        "detect#overrides#thumbnails": False,
    }
    (heads_dir / "tiny.json").write_text(json.dumps(overlay))
    files = [f"{ROOT}/configs/case_study.yaml", f"{ROOT}/configs/case_study_3d.yaml", f"{heads_dir}/tiny.json"]
    keys = ["--dataset_dir", "heads", "--autoencoder_file", "autoencoder/autoencoder.pt", "--output_dir", "out"]
    result = run_config(str(files), heads_dir, *keys)
    assert result.returncode == 0, result.stderr
    cell = heads_dir / "out" / "cells" / "few_0"
    assert len(volumes_in(cell / "generated")) == 8
    report = json.loads((cell / "audit" / "report.json").read_text())
    assert report["inputs"]["generated"]["images"] + len(report["inputs"]["generated"]["skipped"]) == 8
    assert report["inputs"]["train"]["images"] == 8  # one image a volume: no slices
    assert len(read_table(cell / "membership" / "membership.csv")) == 14
    (found,) = json.loads((heads_dir / "out" / "case_study.json").read_text())["cells"]
    assert found["rivals"].keys() == {"cross-correlation", "calibrated L2", "cosine of DeepSSIM"}
    assert len(read_table(cell / "train.csv")) == 8
