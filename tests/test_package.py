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


"""The installed package, `deepssim`, inside another bundle that has a `scripts` package of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

CONFIG = """
imports:
  - $import torch
  - $import deepssim
  - $import scripts
folder: .
items: $deepssim.find_images(@folder)
preprocessing: $deepssim.component(deepssim.bundle_file('configs/inference.yaml'), 'preprocessing')
move: {_target_: deepssim.RandMisalignd, keys: image, flip_prob: 0.5}
network_def: $deepssim.component(deepssim.bundle_file('configs/inference.yaml'), 'network_def')
embedder: $deepssim.load_weights(@network_def, deepssim.bundle_file('models/model.pt'))
images: $torch.stack([@preprocessing(dict(item))['image'] for item in @items])
metric: {_target_: deepssim.MemorizationMetric, reference: '@images', embedder: '@embedder'}
moved: "$torch.stack([@move({'image': image})['image'] for image in @images])"
run:
  - $@metric(@images)
  - "$print('own:', scripts.OWN, 'score:', @metric.summary().score.min(), 'moved:', tuple(@moved.shape))"
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with what `pip install` puts into site-packages."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("scripts", "configs", "models", "demo"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "requirements.txt", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    result = subprocess.run([*command, "--target", target, source], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return target


def run(cwd: Path, config: Path | str, site: Path, *more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--config_file", str(config), *more]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture
def other_bundle(tmp_path) -> Path:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "inference.yaml").write_text(CONFIG)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "__init__.py").write_text("OWN = 'its own package'\n")
    (tmp_path / "images").mkdir()
    for path in sorted((ROOT / "demo" / "train").iterdir())[:3]:
        shutil.copy(path, tmp_path / "images")
    return tmp_path


@pytest.mark.slow
def test_another_bundle_uses_the_metric_and_the_transforms(other_bundle, installed):
    result = run(other_bundle, "configs/inference.yaml", installed, "--folder", "images")
    assert result.returncode == 0, result.stderr
    words = result.stdout.split()
    assert "own: its own package score:" in result.stdout and result.stdout.strip().endswith("moved: (3, 1, 96, 112)")
    assert float(words[words.index("score:") + 1]) == pytest.approx(1, abs=1e-3)


def test_the_installed_code_is_that_of_the_bundle(installed):
    files = [path for path in (ROOT / "scripts").rglob("*.*") if path.suffix in (".py", ".j2", ".js", ".typed")]
    assert len({path.parent for path in files}) > 9, "rooms"
    for path in files:
        name = path.relative_to(ROOT / "scripts")
        assert (installed / "deepssim" / name).read_bytes() == path.read_bytes(), name
    for folder in ("configs", "models", "demo/train", "demo/generated"):
        for path in (path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"):
            assert (installed / "deepssim" / path.relative_to(ROOT)).is_file(), path
    version = json.loads((installed / "deepssim" / "configs" / "metadata.json").read_text())["version"]
    assert (installed / f"deepssim-{version}.dist-info").is_dir()


@pytest.mark.parametrize("door", ["-m deepssim", "-c"])
def test_the_installed_package_audits_from_any_folder(other_bundle, installed, door):
    """A folder with a package `scripts` of its own, which is not taken for the bundle's."""
    train = [f"sub-{number:02}" for number in range(7)]
    for number, name in enumerate(train):
        (other_bundle / "train" / name).mkdir(parents=True)
        shutil.copy(sorted((ROOT / "demo" / "train").iterdir())[2 * number], other_bundle / "train" / name / "t1.png")
    words = ["audit", "train", "images", "--output_dir", "out", "--control_images", "4", "--bends", "[]"]
    if door == "-c":
        lines = [
            "import deepssim",
            "result = deepssim.audit('train', 'images', control_images=4, bends=[], output_dir='out')",
        ]
        words = ["; ".join([*lines, "print(sorted(result.subject_names), result.verdict == deepssim.Verdict.COPIES)"])]
    command = [sys.executable, "-W", "ignore", *door.split(), *words]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    result = subprocess.run(command, cwd=other_bundle, env=environment, capture_output=True, text=True)
    assert result.returncode == 0 and "Copies: 2. Likenesses: 0. Of 3 generated images" in result.stdout, result.stderr
    assert (other_bundle / "out" / "report.html").is_file()
    if door == "-c":
        assert result.stdout.endswith(f"{train} True\n")


def test_the_bundle_refuses_to_run_with_anothers_package(other_bundle, installed):
    """MONAI puts the bundle's root behind the working folder on the path."""
    result = run(other_bundle, ROOT / "configs" / "detect.yaml", installed)
    assert result.returncode == 1 and result.stdout == ""
    assert f"error: <module 'scripts' from '{other_bundle}/scripts/__init__.py'> hides the bundle" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_container_gets_what_the_package_is_made_of_and_runs_what_is_documented():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    left_out = (ROOT / ".dockerignore").read_text().split("\n")
    for name in ("scripts", "configs", "models", "demo", "pyproject.toml", "setup.py", "README.md", "requirements.txt"):
        assert (ROOT / name).exists() and name not in left_out
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert all((ROOT / word).exists() for word in copied)
    assert "FROM python:3.11-slim" in lines[3]  # the version that constraints.txt was tested on
    run = next(line for line in lines if "docker run" in line).removeprefix("#").strip()
    assert run in (ROOT / "README.md").read_text()
    assert "USER 65534:65534" in lines  # never root
