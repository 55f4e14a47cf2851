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

"""The configs of the published system, run as a user runs them, with a tiny network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, read, run_config

pytest.importorskip("transformers", reason="the published networks need the extra `published`")

CONFIGS = ROOT / "configs"
TRAIN = {
    1: ["train.yaml", "published/train_v1.yaml"],
    2: ["train.yaml", "published/train_v1.yaml", "published/train_v2.yaml"],
}
INFERENCE = {
    1: ["inference.yaml", "published/inference_v1.yaml"],
    2: ["inference.yaml", "published/inference_v1.yaml", "published/inference_v2.yaml"],
}


def tiny(folder: Path, version: int, *keys: str) -> str:
    """Write an overlay with a network of its kind that trains in seconds, and takes these keys of the config."""
    network = {"_target_": f"scripts.PublishedV{version}", "depths": [1, 1, 1, 1], "widths": [4, 6, 8, 10]}
    (folder / "tiny.json").write_text(json.dumps({"network_def": network | {key: f"@{key}" for key in keys}}))
    return "tiny.json"


def files(names: list[str], *more: str) -> str:
    return str([*(str(CONFIGS / name) for name in names), *more])


@pytest.fixture(scope="module", params=[1, 2])
def trained(request, tmp_path_factory) -> tuple[int, Path]:
    """A version, and the folder of its training."""
    version, folder = request.param, tmp_path_factory.mktemp("published")
    small = ["--epochs", "1", "--iterations", "2", "--pairs", "3", "--num_workers", "0", "--groups", "4"]
    overlays = files(TRAIN[version], tiny(folder, version, "imagenet_file", "frozen"))
    result = run_config(overlays, folder, *small, "--output_dir", "trained")
    assert result.returncode == 0, result.stderr
    assert "Held-out subjects: 5" in result.stdout
    return version, folder


def test_training_writes_the_weights(trained):
    version, folder = trained
    state = torch.load(folder / "trained" / "checkpoint_epoch=1.pt", weights_only=True)
    assert state["trainer"]["iteration"] == 2
    weights = torch.load(folder / "trained" / "model.pt", weights_only=True)
    assert weights["fc.6.weight" if version == 1 else "fc.4.weight"].shape[0] == 256
    summary = json.loads((folder / "trained" / "held_out.json").read_text())
    assert summary["subjects"] == 5 and np.isfinite(summary["ssim_error"])


def test_inference_writes_a_vector_an_image(trained, tmp_path):
    version, folder = trained
    overlays = files(INFERENCE[version], tiny(tmp_path, version, "imagenet_file", "frozen", "cuts"))
    result = run_config(overlays, tmp_path, "--checkpoint", str(folder / "trained/model.pt"), "--output_dir", "out")
    assert result.returncode == 0, result.stderr
    rows = (tmp_path / "out" / "embeddings.csv").read_text().splitlines()
    vectors = np.array([[float(number) for number in row.split(",")[1:]] for row in rows])
    assert vectors.shape == (40, 256)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


@pytest.fixture
def few(tmp_path) -> tuple[str, ...]:
    """Two folders of a few of the demo's images, and what audits them quickly."""
    for name, count in (("train", 16), ("generated", 3)):
        (tmp_path / name).mkdir()
        for path in sorted((ROOT / "demo" / name).iterdir())[:count]:
            shutil.copy(path, tmp_path / name)
    return ("--train_dir", "train", "--generated_dir", "generated", "--thumbnails", "False", "--output_dir", "audit",
            "--control_images", "2", "--bends", "[]", "--null_slices", "1")  # fmt: skip


def test_the_audit_takes_the_published_network(trained, few, tmp_path):
    version, folder = trained
    overlays = files(["detect.yaml"], tiny(tmp_path, version))
    network = ["--network", f"published_v{version}", "--checkpoint", str(folder / "trained" / "model.pt")]
    result = run_config(overlays, tmp_path, *few, *network)
    assert len(read(tmp_path / "audit" / "matches.csv")) == 3, result.stderr
    assert {np.load(path).shape[1] for path in (tmp_path / "audit").rglob("*.vectors.npy")} == {256}
    assert {np.load(path).shape[1:] for path in (tmp_path / "audit").rglob("*.images.npy")} <= {(112, 136)}
    run = json.loads((tmp_path / "audit" / "report.json").read_text())["run"]
    assert run["settings"]["network"] == f"published_v{version}"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--network", "published_v3"],
            "error: network: expected one of deepssim, published_v1, published_v2, got 'published_v3'",
        ),
        (
            ["--network", "published_v2", "--volumes", "whole"],
            "error: volumes: expected auto or slices, as network published_v2 embeds images, found whole; cut them",
        ),
        (
            ["--network", "published_v2"],
            "model.pt: expected weights of PublishedV2 as network_def configures it, found",
        ),
        (["--checkpoint_sha256", "ab"], "model.pt: expected the SHA-256 ab, found "),
    ],
)
def test_what_the_audit_cannot_embed_with_is_one_sentence(words, sentence, few, tmp_path):
    result = run_config("detect.yaml", tmp_path, *few, *words)
    assert result.returncode == 1
    assert sentence in result.stderr.splitlines()[-1]
    assert not (tmp_path / "audit" / "report.html").exists()
