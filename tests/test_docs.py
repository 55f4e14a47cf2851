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


"""The documentation against the product: commands, keys, files and the API page are those that exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from helpers import ROOT
from monai.bundle import ConfigParser

import scripts

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "configs").rglob("*.yaml"))]
# where each documented config is run whole, so that a command that names it is known to work
RUN_BY = {
    "detect.yaml": "test_configs.py",
    "inference.yaml": "test_configs.py",
    "train.yaml": "test_configs.py",
    "train_gpu.yaml": "test_configs.py",
    "train_plain.yaml": "embedder/test_another_network.py",
    "evaluate.yaml": "test_configs.py",
    "benchmark.yaml": "studies/test_benchmark.py",
    "compare.yaml": "report/test_compare.py",
    "planted_copies.yaml": "studies/test_planted.py",
    "planted_volumes.yaml": "studies/test_planted.py",
    "watch_training.yaml": "test_handlers.py",
    "case_study.yaml": "studies/test_case_study.py",
    "ldm/train_autoencoder.yaml": "test_configs.py",
    "ldm/train_diffusion.yaml": "studies/test_case_study.py",
    "ldm/autoencoder_cpu.yaml": "test_configs.py",
    "ldm/evaluate_autoencoder.yaml": "test_configs.py",
    "ldm/diffusion_cpu.yaml": "test_multi_gpu.py",
    "ldm/generate.yaml": "studies/test_case_study.py",
    "ldm/multi_gpu_autoencoder.yaml": "test_multi_gpu.py",
    "ldm/multi_gpu_diffusion.yaml": "test_multi_gpu.py",
    "ldm/multi_gpu_generate.yaml": "test_multi_gpu.py",
}
MONAI_OWN = {"config_file"}


def commands() -> list[tuple[str, str]]:
    """(page, command) of every `python -m monai.bundle run` and `make` that the documentation shows."""
    found = []
    for page in PAGES:
        text = re.sub(r"\n#?\s*(?=\S)", " ", page.read_text())  # commands may be broken over lines
        for command in re.findall(r"(?:python -m monai\.bundle run|make [a-z-]+)[^`]*", text):
            found.append((page.name, command.split(" python -m")[0].split(" $ ")[0]))
    return found


@pytest.mark.parametrize(("page", "command"), [c for c in commands() if "monai.bundle" in c[1]])
def test_bundle_commands_name_configs_and_keys_that_exist(page, command):
    files = re.findall(r"configs/((?:ldm/)?\w+\.yaml)", command.split("--config_file", 1)[1].split(" --", 1)[0])
    assert files, command
    keys: set[str] = set()
    for file in files:
        keys |= set(ConfigParser.load_config_file(str(ROOT / "configs" / file)))
        assert Path(file).name in (ROOT / "tests" / RUN_BY[file]).read_text(), file
    assert set(re.findall(r"--(\w+)", command)) <= keys | MONAI_OWN, command


def test_there_are_commands():
    assert len([c for c in commands() if "monai.bundle" in c[1]]) >= 10
    assert {"detect", "test"} <= {c[1].split()[1] for c in commands() if c[1].startswith("make ")}


@pytest.mark.parametrize(("page", "command"), [c for c in commands() if c[1].startswith("make ")])
def test_make_commands_name_targets_and_keys_that_exist(page, command):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert command.split()[1] in targets
    arguments = re.search(r'ARGS="([^"]*)"', command)
    keys = set(ConfigParser.load_config_file(str(ROOT / "configs" / "detect.yaml")))
    assert set(re.findall(r"--(\w+)", arguments[1] if arguments else "")) <= keys


def test_links_and_files_exist():
    for page in PAGES:
        if page.suffix == ".md":
            for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
                assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"
        for file in re.findall(r"`((?:configs|scripts|docs|demo|models)/[\w./-]+\.\w+)`", page.read_text()):
            assert (ROOT / file).is_file(), f"{page.name}: {file}"


def test_the_api_page_is_up_to_date_and_everything_has_a_docstring():
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "api.md").read_text() == module.page(), "run python docs/make_api.py"
    assert all(getattr(scripts, name).__doc__ for name in scripts.__all__)
