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

"""The app of MONAI Label: its answers with MONAI Label's classes replaced, and a real server where there is one."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nibabel
import numpy as np
import pytest
from heads import copy, head, write_heads
from helpers import ROOT
from scripts import LookupAnswer, Tier
from scripts.lookup import KEYS

# of an environment of its own, as MONAI Label needs older packages: docs/monai_label.md
SERVER = shutil.which(os.environ.get("MONAILABEL", "monailabel"))
COPY = LookupAnswer(Tier.COPY, "sub-3", "a.nii", 0.98, False, 0.97, 1e-6, 0.01, 0.95, 60, [])


# with fastapi's name and arguments
class HTTPException(Exception):  # noqa: N818
    def __init__(self, status_code: int, detail: str) -> None:  # noqa: B042
        self.status_code, self.detail = status_code, detail


class InferTask:
    def __init__(self, kind: str, labels: list[str], dimension: int, description: str) -> None:
        self.type, self.labels = kind, labels


class MONAILabelApp:
    def __init__(self, app_dir: str, studies: str, conf: dict[str, str], name: str, description: str) -> None:
        self.conf = conf
        self.infers = self.init_infers()


@pytest.fixture
def app(monkeypatch) -> ModuleType:
    """The app's module, with what it imports replaced."""
    stubs = {
        "fastapi": {"HTTPException": HTTPException},
        "monailabel.interfaces.app": {"MONAILabelApp": MONAILabelApp},
        "monailabel.interfaces.tasks.infer_v2": {
            "InferTask": InferTask,
            "InferType": SimpleNamespace(SEGMENTATION="segmentation"),
        },
    }
    for name, content in stubs.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    spec = importlib.util.spec_from_file_location("deepssim_app", ROOT / "apps" / "deepssim" / "main.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Lookup:
    """A lookup of volumes whose answer is known."""

    volumes = True

    def __init__(self, answer: LookupAnswer) -> None:
        self.answer = answer

    def __call__(self, path: str) -> LookupAnswer:
        if not Path(path).is_file():
            raise ValueError(f"{path}: cannot be looked up (a reason)\nmore")
        return self.answer


def test_the_head_is_the_segment_of_the_verdict(app, tmp_path):
    write_heads(tmp_path, {"a": head(0)})
    task = app.LookupTask(Lookup(COPY))
    file, answer = task({"image": str(tmp_path / "a.nii.gz"), "device": "cpu"})
    assert task.type == "segmentation" and task.is_valid() and task.labels == answer["label_names"]
    value = np.unique(nibabel.load(file).dataobj)[1]
    Path(file).unlink()
    assert answer["label_names"][value - 1] == "copy of a training subject"
    assert answer["title"] == "Looks like a copy of sub-3 (aligned SSIM 0.980, p = 1e-06, one image)"
    assert (answer["verdict"], answer["aligned_ssim"]) == ("copy", 0.98)
    json.dumps(answer, allow_nan=False)
    task.lookup.volumes = False
    assert task({"image": str(tmp_path / "a.nii.gz")}) == (None, answer)  # of planar images there is no mask


def test_every_verdict_has_a_segment(app):
    none = replace(COPY, tier=Tier.NONE)
    answers = [COPY, replace(COPY, tier=Tier.LIKENESS), none, replace(none, doubts=["A doubt."])]
    assert [answer.verdict for answer in answers] == [*app.LABELS]


def test_an_image_that_cannot_be_read_is_one_sentence_and_a_fault_of_ours_is_not_hidden(app):
    with pytest.raises(HTTPException) as error:
        app.LookupTask(Lookup(COPY))({"image": "a.nii"})
    assert (error.value.status_code, error.value.detail) == (422, "a.nii: cannot be looked up (a reason)")
    with pytest.raises(KeyError):
        app.LookupTask(Lookup(COPY))({})


def test_the_keys_of_the_server_reach_the_lookup(app):
    with pytest.raises(FileNotFoundError, match="no_such_folder: expected an existing folder"):
        app.LookupApp("app", "studies", {"train_dir": "no_such_folder"})
    with pytest.raises(ValueError, match="train_dir: expected the folder of the training images, found none"):
        app.LookupApp("app", "studies", {})


def test_the_page_names_every_key_and_verdict(app):
    keys, verdicts = (ROOT / "docs" / "monai_label.md").read_text().split("\n## Ask")
    for part, names in ((keys, {"train_dir", *KEYS}), (verdicts, {*app.LABELS})):
        assert set(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)) == names


def ask(port: int, image: str) -> tuple[int, dict]:
    """Return the status and the JSON of the server's answer about an image."""
    query = urllib.parse.urlencode({"image": image, "output": "json"})
    request = urllib.request.Request(f"http://127.0.0.1:{port}/infer/deepssim?{query}", b"", method="POST")
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def wait_for(port: int, process: subprocess.Popen) -> None:
    while process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/info/").close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(1)


def start(folder: Path, port: int, *conf: str) -> subprocess.Popen:
    app = shutil.copytree(ROOT / "apps" / "deepssim", folder / "app", dirs_exist_ok=True)  # the server writes into it
    command = [SERVER, "start_server", "--app", app, "--studies", folder / "studies", "--host", "127.0.0.1"]
    # the command starts `python`, which must be that of its environment
    places = {"PYTHONPATH": str(ROOT), "PATH": str(Path(SERVER).parent)}
    paths = {key: os.pathsep.join([first, os.environ.get(key, "")]) for key, first in places.items()}
    with (folder / "log").open("w") as log:
        return subprocess.Popen(
            [*map(str, command), "--port", str(port), *conf], env=os.environ | paths, cwd=folder, stdout=log, stderr=log
        )


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


needs_server = pytest.mark.skipif(SERVER is None, reason="needs MONAI Label; name its command in MONAILABEL")


@pytest.mark.slow
@needs_server
def test_a_server_tells_a_copy_from_another_person(tmp_path):
    write_heads(tmp_path / "train", {f"sub-{seed:02d}": head(seed) for seed in range(8)})
    write_heads(tmp_path / "studies", {"copied": copy(head(3), 3), "new": copy(head(100), 5)})
    (tmp_path / "studies" / "broken.nii.gz").write_text("no image")
    port = free_port()
    server = start(tmp_path, port, "--conf", "train_dir", str(tmp_path / "train"))
    try:
        wait_for(port, server)
        assert server.poll() is None, (tmp_path / "log").read_text()
        status, answer = ask(port, "copied")
        assert (status, answer["verdict"], answer["subject"]) == (200, "copy", "sub-03")
        assert answer["title"].startswith("Looks like a copy of sub-03 (aligned SSIM 0.9")
        assert "One image has no set-level error rate" in answer["caution"]
        assert ask(port, "new")[1]["verdict"] == "none"
        status, answer = ask(port, "broken")
        assert status == 422 and "broken.nii.gz: cannot be looked up" in answer["detail"]
        assert ask(port, "no_such_image")[0] == 422
    finally:
        server.terminate()
        server.wait()


@pytest.mark.slow
@needs_server
def test_a_server_without_a_training_folder_ends_with_the_sentence(tmp_path):
    (tmp_path / "studies").mkdir()
    assert start(tmp_path, free_port()).wait() != 0
    assert (
        "ValueError: train_dir: expected the folder of the training images, found none"
        in (tmp_path / "log").read_text()
    )
