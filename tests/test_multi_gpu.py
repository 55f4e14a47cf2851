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

"""The overlays for several GPUs, run by torchrun as two gloo processes on the CPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DEMO, ROOT, run_config
from PIL import Image
from scripts.bundle.components import component
from scripts.bundle.files import read_table
from scripts.bundle.weights import save_weights

LDM = ROOT / "configs" / "ldm"


def run_two(files: list[str], cwd: Path, *arguments: str, folder: Path = LDM) -> str:
    """Run configs of a folder, configs/ldm, as two processes and return what they printed."""
    names = str([str(folder / name) for name in files])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "monai.bundle", "run", "--config_file", names, *arguments]
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def read_png(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image, int)


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "autoencoder.pt"
    save_weights(component(str(LDM / "model.yaml"), "autoencoder_def", size="cpu"), path)
    return path


@pytest.mark.slow
def test_two_processes_train_an_autoencoder_and_resume(tmp_path):
    files = ["train_autoencoder.yaml", "autoencoder_cpu.yaml", "multi_gpu_autoencoder.yaml"]
    short = ["--dataset_dir", DEMO["train_dir"], "--iterations", "2", "--output_dir", str(tmp_path / "out")]
    log = run_two(files, tmp_path, *short, "--epochs", "1")
    assert log.count("best value") == 1  # validated by both, told by the first
    state = torch.load(tmp_path / "out" / "checkpoint_epoch=1.pt", weights_only=True)
    assert state["trainer"]["iteration"] == 2 and not any(key.startswith("module.") for key in state["model"])
    run_two(files, tmp_path, *short, "--epochs", "2", "--resume", str(tmp_path / "out" / "checkpoint_epoch=1.pt"))
    assert torch.load(tmp_path / "out" / "checkpoint_epoch=2.pt", weights_only=True)["trainer"]["iteration"] == 4


@pytest.mark.slow
def test_two_processes_train_a_diffusion_model_for_as_many_passes(tmp_path, autoencoder):
    files = ["train_diffusion.yaml", "diffusion_cpu.yaml", "multi_gpu_diffusion.yaml"]
    keys = ["--dataset_dir", DEMO["train_dir"], "--autoencoder_file", str(autoencoder), "--output_dir", "out"]
    run_two(files, tmp_path, *keys, "--passes", "2", "--epochs", "1", "--batch_size", "8")
    state = torch.load(tmp_path / "out" / "checkpoint_epoch=1.pt", weights_only=True)
    assert state["trainer"]["iteration"] == 96 * 2 / (2 * 8)
    assert len(read_table(tmp_path / "out" / "records.csv")) == 96
    weights = torch.load(tmp_path / "out" / "diffusion.pt", weights_only=True)
    assert all(torch.equal(weights[name], state["model"][name]) for name in weights)


@pytest.mark.slow
def test_two_processes_draw_what_one_draws(tmp_path, autoencoder):
    keys = ["--dataset_dir", DEMO["train_dir"], "--autoencoder_file", str(autoencoder), "--output_dir", "model"]
    train = f"['{LDM}/train_diffusion.yaml','{LDM}/diffusion_cpu.yaml']"
    result = run_config(train, tmp_path, *keys, "--passes", "1", "--epochs", "1")
    assert result.returncode == 0, result.stderr
    keys = ["--model_dir", "model", "--autoencoder_file", str(autoencoder), "--size", "cpu", "--samples_per_record"]
    keys += ["1", "--steps", "2", "--output_dir"]
    run_two(["generate.yaml", "multi_gpu_generate.yaml"], tmp_path, *keys, "two")
    result = run_config("ldm/generate.yaml", tmp_path, *keys, "one")
    assert result.returncode == 0, result.stderr
    one, two = (sorted((tmp_path / name / "images").iterdir()) for name in ("one", "two"))
    assert len(one) == len(two) == 96
    for a, b in zip(one, two):
        difference = np.abs(read_png(a) - read_png(b))
        assert difference.max() <= 1  # of 255; threads round differently
    assert (tmp_path / "one" / "generated.csv").read_text() == (tmp_path / "two" / "generated.csv").read_text()


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[str]:
    """A part of the demo: eight training subjects, two images each, and six generated images, two of them copies."""
    folder, flags = tmp_path_factory.mktemp("sets"), []
    for name, count in (("train", 16), ("generated", 6)):
        (folder / name).mkdir()
        for path in sorted((ROOT / "demo" / name).iterdir())[:count]:
            shutil.copy(path, folder / name)
        flags += [f"--{name}_dir", str(folder / name)]
    return [*flags, *FEW]


FEW = ["--control_images", "4", "--bends", "[]", "--thumbnails", "False"]


@pytest.fixture(scope="module")
def alone(folders, tmp_path_factory) -> bytes:
    """matches.csv of one process."""
    cwd = tmp_path_factory.mktemp("alone")
    assert run_config("detect.yaml", cwd, *folders, "--output_dir", "out").returncode in (0, 3)
    return (cwd / "out" / "matches.csv").read_bytes()


def test_shards_and_then_the_audit_are_the_audit_alone(folders, alone, tmp_path, monkeypatch):
    said = []
    for shard in ("1/2", "2/2", "1/2", "1/2", "2/2"):  # the second one ends the first step, and does the next as well
        done = run_config("detect.yaml", tmp_path, *folders, "--output_dir", "out", "--shard", shard)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.strip().splitlines()[-1])
    assert [" ".join(line.split()[:2]) for line in said] == [f"Shard {n}/2" for n in (1, 2, 1, 1, 2)]
    assert "Shard 1/2 has embedded its training images; 1 of 2 shards have" in said[0]
    assert said[-1] == "Shard 2/2 is done, as all are: run the audit without a shard."
    assert not (tmp_path / "out" / "report.html").exists()
    done = run_config("detect.yaml", tmp_path, *folders, "--output_dir", "out")
    assert done.returncode in (0, 3), done.stderr
    assert (tmp_path / "out" / "matches.csv").read_bytes() == alone


def test_what_a_shard_did_not_do_the_audit_does(folders, alone, tmp_path):
    run_config("detect.yaml", tmp_path, *folders, "--output_dir", "out", "--shard", "2/2")
    for path in (tmp_path / "out" / "embeddings").rglob("*.vectors.npy"):
        path.write_bytes(path.read_bytes()[:-3])  # cut by a full disk
    done = run_config("detect.yaml", tmp_path, *folders, "--output_dir", "out")
    assert done.returncode in (0, 3) and "damaged" in done.stderr
    assert (tmp_path / "out" / "matches.csv").read_bytes() == alone


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--shard", "3/2"], "shard: expected one from 1/2 to 2/2, found 3/2; the first is 1"),
        (["--shard", "half"], "shard: expected a share such as 3/16, found 'half'; write the third of 16 so"),
    ],
)
def test_no_share_is_an_error(folders, tmp_path, arguments, sentence):
    done = run_config("detect.yaml", tmp_path, *folders, "--output_dir", "out", *arguments)
    assert done.returncode == 1 and sentence in done.stderr and "Traceback" not in done.stderr


def test_parts_are_no_work_to_share(folders, tmp_path):
    arguments = ["--output_dir", "out", "--shard", "1/1", "--window", "16"]
    done = run_config("detect.yaml", tmp_path, *folders, *arguments)
    assert done.returncode == 1 and "shard: expected window 0 and a store_dir, found other ones" in done.stderr


def test_two_processes_audit_as_one(folders, alone, tmp_path):
    files = ["detect.yaml", "multi_gpu_detect.yaml"]
    log = run_two(files, tmp_path, *folders, "--output_dir", "out", folder=ROOT / "configs")
    assert log.count("Report: ") == 1 and "Shard 2/2 is done, as all are: the first one writes the report." in log
    assert (tmp_path / "out" / "matches.csv").read_bytes() == alone
