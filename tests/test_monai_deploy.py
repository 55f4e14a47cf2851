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
"""MONAI Deploy: the ten lines of docs/monai_deploy.md, and what its bundle operator asks of the exported network."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pydicom
import pytest
import torch
from heads import copy, head, write_heads
from helpers import ROOT
from image_files import a_slice
from markdown_it import MarkdownIt
from monai.bundle import ckpt_export
from monai.data import MetaTensor
from scripts import component, load_weights

CONFIGS = [str(ROOT / "configs" / f"{name}.yaml") for name in ("inference", "inference_3d", "deploy")]
# of an environment that has the SDK: docs/monai_deploy.md
SDK_PYTHON = os.environ.get("MONAI_DEPLOY_PYTHON")
APP = next(
    token.content
    for token in MarkdownIt("commonmark").parse((ROOT / "docs" / "monai_deploy.md").read_text())
    if token.info == "python"
)


class Operator:
    name = ""

    def __init__(self, fragment: object, *args: object, name: str) -> None:
        self.name = name


class Application:
    argv = ["app.py"]

    def __init__(self) -> None:
        self.flows: list[tuple] = []

    @staticmethod
    def init_app_context(argv: list[str]) -> SimpleNamespace:
        return SimpleNamespace(input_path="dicom")

    def add_flow(self, *flow: object) -> None:
        self.flows.append(flow)


def lookup_of(keys: dict[str, object]) -> Callable[[str], SimpleNamespace]:
    return lambda source: SimpleNamespace(as_dict=lambda: {"text": f"{source} in {keys['train_dir']}"})


def test_the_operator_hands_on_what_the_lookup_answers(monkeypatch, capsys):
    core, conditions = ModuleType("monai.deploy.core"), ModuleType("monai.deploy.conditions")
    core.Application, core.Operator, conditions.CountCondition = Application, Operator, lambda *_: None
    for name, module in (("monai.deploy.core", core), ("monai.deploy.conditions", conditions)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("TRAIN_DIR", "train")
    names = {"__name__": "app"}
    exec(compile(APP, "docs/monai_deploy.md", "exec"), names)
    names["Lookup"] = SimpleNamespace(of=lookup_of)
    app = names["App"]()
    app.compose()
    ((find, show, ports),) = app.flows
    sent: dict[str, dict] = {}
    find.compute(None, SimpleNamespace(emit=lambda value, port: sent.update({port: value})), None)
    assert ports == {("answer", "answer")} and sent == {"answer": {"text": "dicom in train"}}
    show.compute(SimpleNamespace(receive=sent.get), None, None)
    assert capsys.readouterr().out == "dicom in train\n"


def test_the_exported_network_embeds_a_volume_in_memory_as_it_does_the_file(in_root, tmp_path):
    """As the operator does it: the configs come from the archive, and what is loaded goes into the chain."""
    file = tmp_path / "model.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(file),
        ckpt_file="models/model_3d.pt",
        meta_file="configs/metadata.json",
        config_file=CONFIGS,
    )
    with zipfile.ZipFile(file) as archive:
        archive.extractall(tmp_path)
    configs = [tmp_path / "model" / "extra" / f"{name}.json" for name in ("inference", "inference_3d", "deploy")]
    source = write_heads(tmp_path, {"a": head(0)}) / "a.nii.gz"
    chain = component(configs, "preprocessing")
    affine = torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0]))
    volume = MetaTensor(torch.from_numpy(head(0)), affine, {"original_channel_dim": "no_channel"})
    prepared = chain({"image": volume})["image"]
    assert isinstance(prepared, MetaTensor) and prepared.meta
    plain = component(CONFIGS[:2], "preprocessing")({"image": str(source)})["image"]
    assert not isinstance(plain, MetaTensor)
    torch.testing.assert_close(prepared.as_tensor(), plain)
    with torch.no_grad():
        expected = load_weights(component(CONFIGS[:2], "network_def"), "models/model_3d.pt")(plain[None])
        torch.testing.assert_close(torch.jit.load(file)(prepared.as_tensor()[None]), expected)


def write_dicom(folder: Path, volume: np.ndarray) -> None:
    """Write a RAS volume of 4 mm as a series of axial slices."""
    folder.mkdir()
    pixels = (volume * 900).astype(np.int16)[::-1, ::-1]  # DICOM's axes point left and back
    series = pydicom.uid.generate_uid()
    for z in range(pixels.shape[2]):
        tags = {"PixelSpacing": [4, 4], "StudyInstanceUID": "1.2.4", "SeriesInstanceUID": series, "InstanceNumber": z}
        data = a_slice(pixels[..., z].T, np.array([-96.0, -112.0, 4.0 * z]), **tags)
        data.save_as(folder / f"{z:03}.dcm", enforce_file_format=True)


@pytest.mark.slow
@pytest.mark.skipif(SDK_PYTHON is None, reason="needs the SDK of MONAI Deploy; name a Python in MONAI_DEPLOY_PYTHON")
def test_the_application_of_the_page_runs(tmp_path):
    write_heads(tmp_path / "train", {f"sub-{seed:02d}": head(seed) for seed in range(8)})
    write_dicom(tmp_path / "dicom", copy(head(3), 3))
    (tmp_path / "app.py").write_text(APP)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRAIN_DIR": "train"}
    command = [str(SDK_PYTHON), "-W", "ignore", "app.py", "-i", "dicom"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "Looks like a copy of sub-03 (aligned SSIM 0.9" in result.stdout
