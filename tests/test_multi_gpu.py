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

import nibabel
import numpy as np
import pytest
import torch
from helpers import DEMO, ROOT, run_config
from PIL import Image
from scipy.ndimage import gaussian_filter
from scripts.bundle.components import component
from scripts.bundle.files import read_table
from scripts.bundle.weights import load_weights, save_weights

CONFIGS = ROOT / "configs"
LDM = CONFIGS / "ldm"


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


# what each process has before and after its first step, and the gradient of its own batch alone
PROBE = """
import copy, torch
from ignite.engine import Events

class Probe:
    def __init__(self, network, rank, folder):
        self.network, self.file = network, f"{folder}/{rank}.pt"

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_STARTED(once=1), self.before)
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), self.after)
        engine.add_event_handler(Events.COMPLETED, self.end)

    def before(self, engine):
        self.alone = copy.deepcopy(engine.network.module)
        self.inner = getattr(self.alone, "network", self.alone)  # within Posed

    def after(self, engine):
        start = {key: value.clone() for key, value in self.inner.state_dict().items()}
        images, label = engine.prepare_batch(engine.state.batch, "cpu")
        engine.loss_function(engine.inferer(images, self.alone), label).backward()
        weights = self.network.named_parameters()
        self.found = {
            "images": images.as_subclass(torch.Tensor).clone(),
            "before": start,
            "after": {key: value.clone() for key, value in self.network.state_dict().items()},
            "gradient": {key: value.grad.clone() for key, value in weights},
            "alone": {key: value.grad.clone() for key, value in self.inner.named_parameters()},
        }

    def end(self, engine):
        torch.save({**self.found, "end": self.network.state_dict()}, self.file)
"""
PROBED = "+train#handlers: [{_target_: probe.Probe, network: '@network', rank: '@rank', folder: FOLDER}]"


def probed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return an overlay that writes what each process has, 0.pt and 1.pt, into the folder."""
    (folder / "probe.py").write_text(PROBE)
    (folder / "probed.yaml").write_text(PROBED.replace("FOLDER", str(folder)))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return str(folder / "probed.yaml")


def is_one_training(folder: Path) -> None:
    """Check what two processes wrote: one step, of the mean gradient of two batches, from and to the same weights."""
    one, two = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert not torch.equal(one["images"], two["images"])
    for key in one["before"]:
        assert torch.equal(one["before"][key], two["before"][key]), key
        assert torch.equal(one["end"][key], two["end"][key]), key  # statistics of batches among them
    for key, gradient in one["gradient"].items():
        assert torch.equal(one["after"][key], two["after"][key]), key
        assert torch.equal(gradient, two["gradient"][key])
        mean = (one["alone"][key] + two["alone"][key]) / 2
        torch.testing.assert_close(gradient, mean, rtol=1e-3, atol=1e-6 + 1e-4 * float(mean.abs().max()))
    assert any(not torch.equal(one["before"][key], one["after"][key]) for key in one["gradient"])
    assert any(not torch.allclose(one["alone"][key], two["alone"][key], rtol=0.1) for key in one["alone"])


TINY = ["--dataset_dir", DEMO["train_dir"], "--iterations", "2", "--groups", "4", "--num_workers", "0"]
TINY += ["--output_dir", "out", "--amp", "False"]


def test_two_processes_train_one_embedder_and_resume(tmp_path, monkeypatch):
    files = ["train.yaml", "multi_gpu_train.yaml"]
    log = run_two([*files, probed(tmp_path, monkeypatch)], tmp_path, *TINY, "--epochs", "2", folder=CONFIGS)
    is_one_training(tmp_path)
    assert log.count("best value") == log.count("Held-out subjects") == 1 and log.count("Saved checkpoint") == 2
    out = tmp_path / "out"
    assert len({path.name.split(".")[-2] for path in out.glob("events.out.*")}) == 1  # one process's number
    state = torch.load(out / "checkpoint_epoch=2.pt", weights_only=True)
    assert state["trainer"]["iteration"] == 4
    end = torch.load(tmp_path / "1.pt", weights_only=True)["end"]
    assert all(torch.equal(value, state["model"][key]) for key, value in end.items())
    network = load_weights(component(str(CONFIGS / "inference.yaml"), "network_def"), out / "model.pt")
    assert all(torch.equal(value, end[key]) for key, value in network.state_dict().items())
    (out / "checkpoint_epoch=2.pt").unlink()  # as if it had been stopped after the first epoch
    run_two(files, tmp_path, *TINY, "--epochs", "2", "--resume", "out/checkpoint_epoch=1.pt", folder=CONFIGS)
    assert torch.load(out / "checkpoint_epoch=2.pt", weights_only=True)["trainer"]["iteration"] == 4


@pytest.mark.slow
def test_two_processes_train_a_network_without_a_pose(tmp_path, monkeypatch):
    files = ["train.yaml", "train_plain.yaml", "multi_gpu_train.yaml", probed(tmp_path, monkeypatch)]
    plain = [*TINY, "--epochs", "1", "--network_def", "{'_target_': 'probe.Plain'}"]
    with (tmp_path / "probe.py").open("a") as module:
        module.write(PLAIN)
    run_two(files, tmp_path, *plain, folder=CONFIGS)
    assert torch.load(tmp_path / "0.pt", weights_only=True)["after"].keys() == {"layer.weight", "layer.bias"}


PLAIN = """
class Plain(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(96 * 112, 8)

    def forward(self, x):
        return torch.nn.functional.normalize(self.layer(x.flatten(1).float()), dim=1)
"""


@pytest.mark.slow
def test_two_processes_train_an_embedder_of_volumes(tmp_path, monkeypatch):
    (tmp_path / "volumes").mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        head = np.zeros((48, 56, 44), np.float32)
        head[6:42, 6:50, 4:40] = gaussian_filter(rng.random((36, 44, 36)), 2) * 10
        nibabel.save(nibabel.Nifti1Image(head, np.diag([4.0, 4, 4, 1])), tmp_path / "volumes" / f"sub-{number}.nii.gz")
    files = ["train.yaml", "train_3d.yaml", "multi_gpu_train.yaml", probed(tmp_path, monkeypatch)]
    small = [*TINY, "--epochs", "1", "--dataset_dir", "volumes", "--groups", "2", "--validation_share", "0.4"]
    run_two(files, tmp_path, *small, folder=CONFIGS)
    is_one_training(tmp_path)
    chain = [str(CONFIGS / name) for name in ("inference.yaml", "inference_3d.yaml")]
    load_weights(component(chain, "network_def"), tmp_path / "out" / "model.pt")


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
    for shard in ("1/2", "2/2", "1/2", "1/2", "2/2", "1/2"):  # the second one ends the first step, and does the next
        done = run_config("detect.yaml", tmp_path, *folders, "--output_dir", "out", "--shard", shard)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.strip().splitlines()[-1])
    assert [" ".join(line.split()[:2]) for line in said] == [f"Shard {n}/2" for n in (1, 2, 1, 1, 2, 1)]
    assert "Shard 1/2 has embedded its training images, as 1 of 2 shards have." in said[0]
    assert "Shard 1/2 has aligned its images, as 1 of 2 shards have." in said[3]
    assert said[-1] == "Shard 1/2 is done, as all are: run the audit without a shard."
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
    log = run_two(files, tmp_path, *folders, "--output_dir", "out", folder=CONFIGS)
    assert log.count("Report: ") == 1 and "Shard 2/2 is done, as all are: the first one writes the report." in log
    assert (tmp_path / "out" / "matches.csv").read_bytes() == alone
