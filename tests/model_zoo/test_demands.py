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

"""The Model Zoo's demands that MONAI's own tools do not check: configs in JSON, requirements, large files, exports."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, run_monai
from markdown_it import MarkdownIt
from monai.bundle import ConfigParser, download_large_files
from scripts import component, load_weights

PAGE = MarkdownIt("commonmark").parse((ROOT / "docs" / "model_zoo.md").read_text())
LOAD = next(token.content for token in PAGE if token.info == "python")
EXPORTS = [line for token in PAGE if token.type == "fence" for line in token.content.splitlines() if "_export" in line]
CONFIGS = [str(ROOT / "configs" / f"{name}.yaml") for name in ("inference", "inference_3d")]
# what the network of a checkpoint takes, and which configs describe it
NETWORKS = {
    "model.pt": (CONFIGS[:1], (1, 96, 112)),
    "model_3d.pt": (CONFIGS, (1, 48, 56, 40)),
    "model_chest_xray.pt": (CONFIGS[:1], (1, 96, 112)),
}


def made() -> dict[str, str]:
    """Return the files that docs/make_model_zoo.py writes, as it would write them now."""
    spec = importlib.util.spec_from_file_location("make_model_zoo", ROOT / "docs" / "make_model_zoo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: text() for name, text in module.FILES.items()}


def test_the_written_files_are_up_to_date():
    for name, text in made().items():
        assert (ROOT / name).read_text() == text, f"{name}: run python docs/make_model_zoo.py"


@pytest.mark.parametrize("name", ["inference", "train"])
def test_json_says_what_yaml_says(name):
    of_json, of_yaml = (
        ConfigParser.load_config_file(str(ROOT / "configs" / f"{name}.{kind}")) for kind in ("json", "yaml")
    )
    assert of_json == of_yaml and list(of_json) == list(of_yaml)
    assert json.dumps(of_json) == json.dumps(of_yaml), "1 and 1.0 are equal, but not the same to a check of types"


@pytest.mark.parametrize("kind", ["inference", "train"])
def test_load_returns_the_network(tmp_path, kind):
    """The code of docs/model_zoo.md, in a process of its own, as it changes the search path."""
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "deepssim").symlink_to(ROOT, target_is_directory=True)
    code = (
        LOAD.replace("inference", kind)
        + "\nimport torch\ntorch.save(network.state_dict(), 'loaded.pt')\nprint(network)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0 and "DeepSSIM(" in result.stdout, result.stderr
    loaded = torch.load(tmp_path / "loaded.pt", map_location="cpu", weights_only=True)
    shipped = torch.load(ROOT / "models" / "model.pt", map_location="cpu", weights_only=True)
    torch.testing.assert_close(loaded, shipped)


def test_every_requirement_stands_in_the_metadata():
    """The zoo makes an environment of these alone."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    names = {re.split("[>=<]", line)[0] for line in lines if line[:1].isalpha()}
    metadata = json.loads((ROOT / "configs" / "metadata.json").read_text())
    assert set(metadata["required_packages_version"]) | {"monai", "torch", "numpy"} == names


def test_large_files_are_listed():
    listed = {entry["path"] for entry in ConfigParser.load_config_file(str(ROOT / "large_files.yml"))["large_files"]}
    folders = ("apps", "benchmarks", "configs", "demo", "docs", "models", "scripts", "tests")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    large = {
        path.relative_to(ROOT).as_posix() for path in files if path.is_file() and path.stat().st_size > 1024 * 1024
    }
    assert listed == large == {"models/autoencoder.pt", *(f"models/{name}" for name in NETWORKS)}


def test_large_files_that_are_there_are_checked_and_not_downloaded(tmp_path):
    """The zoo's checks and MONAI do so before anything else; nothing lies at the addresses."""
    (tmp_path / "models").mkdir()
    (tmp_path / "large_files.yml").write_bytes((ROOT / "large_files.yml").read_bytes())
    for path in (ROOT / "models").glob("*.pt"):
        shutil.copy(path, tmp_path / "models")  # a link that leads out of the bundle is refused
    download_large_files(str(tmp_path))
    (tmp_path / "models" / "model.pt").write_bytes(b"others")
    with pytest.raises(Exception, match="hash check of existing file failed"):
        download_large_files(str(tmp_path))


@pytest.mark.parametrize("command", EXPORTS, ids=lambda command: shlex.split(command)[5])
def test_the_exported_network_gives_what_the_network_gives(tmp_path, command):
    words = shlex.split(command)[3:]
    name, checkpoint = (words[words.index(flag) + 1] for flag in ("--filepath", "--ckpt_file"))
    if words[0] == "onnx_export":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason=f"needs {package}, of requirements-dev.txt")
    file = tmp_path / name
    words[words.index(name)] = str(file)
    result = run_monai(ROOT, *words)
    assert result.returncode == 0 and file.is_file(), result.stderr
    configs, shape = NETWORKS[Path(checkpoint).name]
    network = load_weights(component(configs, "network_def"), ROOT / checkpoint).eval()
    for batch in (1, 3):
        images = torch.rand(batch, *shape)
        with torch.no_grad():
            torch.testing.assert_close(outputs(file, images), network(images), atol=1e-4, rtol=0)


def outputs(file: Path, images: torch.Tensor) -> torch.Tensor:
    """Return what an exported network gives."""
    if file.suffix == ".ts":
        return torch.jit.load(file)(images)
    import onnxruntime

    return torch.from_numpy(onnxruntime.InferenceSession(file).run(["pred"], {"image": images.numpy()})[0])


def test_the_page_has_each_export():
    assert sorted(shlex.split(line)[3] for line in EXPORTS) == ["ckpt_export", "onnx_export", "onnx_export"]
