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

"""What MONAI and its Model Zoo demand of a bundle, checked with their own tools, offline."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import monai
import pytest
import torch
from helpers import ROOT, SHARED_DATA
from monai.bundle import ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out

METADATA = ROOT / "configs" / "metadata.json"
INFERENCE = str(ROOT / "configs" / "inference.yaml")
SCHEMA = SHARED_DATA / "monai" / "meta_schema_20240725.json"
SCHEMA_SHA256 = "cd64aa8a5904426f6fc6855dabe46af8c742d5bad644b4e9cfb78ebad09ad678"


def test_metadata_passes_the_schema(tmp_path):
    if not SCHEMA.is_file():
        pytest.skip(f"needs the Model Zoo's schema, not found at {SCHEMA}")
    copy = tmp_path / "schema.json"
    copy.write_bytes(SCHEMA.read_bytes())
    verify_metadata(meta_file=str(METADATA), filepath=str(copy), hash_val=SCHEMA_SHA256, hash_type="sha256")


def test_root_metadata_is_a_copy():
    assert (ROOT / "metadata.json").read_bytes() == METADATA.read_bytes()


def test_versions_agree():
    metadata = json.loads(METADATA.read_text())
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert metadata["version"] in metadata["changelog"]
    # MONAI looks for both beside a config, also in a folder below
    below = json.loads((ROOT / "configs" / "ldm" / "metadata.json").read_text())
    assert {key: below[key] for key in metadata if key in below and "version" in key} == {
        key: metadata[key] for key in below if "version" in key
    }
    assert (ROOT / "configs" / "ldm" / "logging.conf").read_bytes() == (ROOT / "configs" / "logging.conf").read_bytes()
    assert metadata["version"] in (ROOT / "CHANGELOG.md").read_text()
    assert f'version = "{metadata["version"]}"' in (ROOT / "pyproject.toml").read_text()
    for package, version in metadata["required_packages_version"].items():
        assert {name.lower(): v for name, v in pins.items()}[package] == version
    for package in ("monai", "numpy", "torch"):
        assert metadata["pytorch_version" if package == "torch" else f"{package}_version"] == pins[package]


def test_every_requirement_is_pinned():
    names = [re.split("[>=<]", line)[0] for f in ("requirements.txt", "requirements-dev.txt")
             for line in (ROOT / f).read_text().splitlines() if line[:1].isalpha()]  # fmt: skip
    pins = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert not {name.lower() for name in names} - pins


def test_model_zoo_files():
    for name in ("LICENSE", "README.md", "metadata.json", "docs/README.md", "docs/data_license.txt"):
        assert (ROOT / name).stat().st_size > 0, name
    for name in ("model.pt", "model_3d.pt", "model_chest_xray.pt"):
        assert (ROOT / "models" / name).stat().st_size < 25e6
        state = torch.load(ROOT / "models" / name, weights_only=True)
        assert all(isinstance(value, torch.Tensor) for value in state.values())


def test_network_takes_and_gives_what_metadata_says(in_root):
    verify_net_in_out(net_id="network_def", meta_file=str(METADATA), config_file=INFERENCE)


def test_checkpoint_exports_to_torchscript(in_root, tmp_path):
    file = tmp_path / "model.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(file),
        ckpt_file="models/model.pt",
        meta_file=str(METADATA),
        config_file=INFERENCE,
    )
    exported = torch.jit.load(file)
    image = torch.rand(2, 1, 96, 112)
    from scripts import component, load_weights

    with torch.no_grad():
        expected = load_weights(component(INFERENCE, "network_def"), "models/model.pt")(image)
        torch.testing.assert_close(exported(image), expected)


@pytest.mark.parametrize("kind", ["train", "inference"])
def test_workflow_properties_are_real_objects(in_root, tmp_path, kind):
    workflow = ConfigWorkflow(
        config_file=str(ROOT / "configs" / f"{kind}.yaml"),
        meta_file=str(METADATA),
        workflow_type=kind,
        output_dir=str(tmp_path),
        **({"num_workers": 0} if kind == "train" else {}),
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert isinstance(workflow.device, torch.device)
    if kind == "train":
        assert isinstance(workflow.trainer, monai.engines.SupervisedTrainer)
        assert isinstance(workflow.evaluator, monai.engines.SupervisedEvaluator)
        assert isinstance(workflow.train_inferer, monai.inferers.Inferer)
        assert workflow.max_epochs > 0 and len(workflow.train_dataset) > 0
    else:
        assert isinstance(workflow.evaluator, monai.engines.SupervisedEvaluator)
        assert isinstance(workflow.network_def, torch.nn.Module)
        assert isinstance(workflow.inferer, monai.inferers.Inferer)
        assert len(workflow.dataset) == 40


def test_configs_name_the_metric_and_transforms(in_root):
    from monai.bundle import ConfigParser

    parser = ConfigParser(
        {
            "metric": {"_target_": "scripts.MemorizationMetric", "reference": "$__import__('torch').eye(3)"},
            "move": {"_target_": "scripts.RandMisalignd", "keys": "image", "flip_prob": 0.5},
            "copy": {"_target_": "scripts.RandCopyd", "keys": "image", "elastic": [0.0, 1.5]},
        }
    )
    metric = parser.get_parsed_content("metric")
    metric(torch.eye(3)[:1])
    assert metric.aggregate().item() == 0, "three subjects leave no null"
    assert metric.summary().score == pytest.approx(1)
    image = {"image": torch.rand(1, 20, 20)}
    for name in ("move", "copy"):
        assert parser.get_parsed_content(name)(image)["image"].shape == (1, 20, 20)


def test_no_doubt_about_the_package(tmp_path):
    """A run from another folder takes the bundle's own code."""
    command = "import sys; sys.path.insert(0, sys.argv[1]); import scripts; print(scripts.__file__)"
    result = subprocess.run([sys.executable, "-c", command, str(ROOT)], cwd=tmp_path, capture_output=True, text=True)
    assert str(ROOT) in result.stdout
