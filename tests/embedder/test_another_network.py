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

"""A network of one's own, trained and used in an audit by overlays alone."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from helpers import ROOT, read, run_config

NETWORK = """
import torch


class Small(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.features = torch.nn.Sequential(
            torch.nn.AvgPool2d(4), torch.nn.Conv2d(1, 4, 3, 2), torch.nn.ReLU(), torch.nn.Flatten(),
            torch.nn.Linear(4 * 11 * 13, size),
        )

    def forward(self, images):
        return torch.nn.functional.normalize(self.features(images).float())
"""


@pytest.mark.slow
def test_another_network_is_trained_and_audits(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(NETWORK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "network.json").write_text(json.dumps({"network_def": {"_target_": "mine.Small", "size": 12}}))
    configs = ROOT / "configs"
    files = [str(configs / "train.yaml"), str(configs / "train_plain.yaml"), "network.json"]
    few = ["--epochs", "1", "--iterations", "2", "--groups", "4", "--num_workers", "0", "--val_interval", "1"]
    result = run_config(str(files), tmp_path, *few, "--output_dir", "trained")
    assert result.returncode == 0, result.stderr
    assert "Held-out subjects: 5" in result.stdout
    for name, count in (("train", 16), ("generated", 4)):
        (tmp_path / name).mkdir()
        for path in sorted((ROOT / "demo" / name).iterdir())[:count]:
            shutil.copy(path, tmp_path / name)
    few = ["--control_images", "2", "--thumbnails", "False", "--train_dir", "train", "--generated_dir", "generated"]
    audit = [str([str(configs / "detect.yaml"), "network.json"]), tmp_path, "--checkpoint", "trained/model.pt", *few]
    result = run_config(*audit, "--output_dir", "audit")
    assert len(read(tmp_path / "audit" / "matches.csv")) == 4, result.stderr
    shapes = {np.load(path).shape[1] for path in (tmp_path / "audit").rglob("*.vectors.npy")}
    assert shapes == {12}
    (tmp_path / "mine.py").write_text(NETWORK.replace("normalize(", "relu("))
    result = run_config(*audit, "--output_dir", "other")
    assert result.returncode == 1
    assert "network Small: expected unit vectors, found lengths from" in result.stderr.splitlines()[-1]
