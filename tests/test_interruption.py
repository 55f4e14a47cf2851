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


"""Stopped, repeated and doubled runs: the result is that of one run that nothing disturbed."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, read
from scripts.bundle.inferers import AutocastInferer
from scripts.embedder.embedder import Embedder
from scripts.embedder.embedding_set import EmbeddingSet
from scripts.embedder.networks import DeepSSIM

FILES = ("candidates.csv", "matches.csv", "slices.csv", "report.json", "report.html")
BATCH = 4
FEW = ("--control_images", "4", "--null_subjects", "12")  # the decisions are not the point
ROUNDING = 1e-6


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


@pytest.fixture(scope="module")
def network() -> DeepSSIM:
    torch.manual_seed(0)
    return DeepSSIM(spatial_size=(20, 16), embedding_dim=6, channels=(4, 4, 6), hidden=8).eval()


@pytest.fixture
def items(tmp_path) -> list[dict]:
    """Files of 1, 2, 3, ... images each."""
    found = []
    for number in range(7):
        path = tmp_path / f"{number}.npy"
        np.save(path, np.random.default_rng(number).random((number % 3 + 1, 20, 16)).astype(np.float32))
        found.append({"image": str(path), "id": path.name, "subject_id": str(number)})
    return found


def embed(network, items, cache) -> tuple[EmbeddingSet | None, int]:
    """The result, None if killed, and the number of images that went through the network."""

    def preprocessing(item):
        return [{"image": torch.from_numpy(i)[None], "slice": z} for z, i in enumerate(np.load(item["image"]))]

    inferer = AutocastInferer(enabled=False)
    run = Embedder(network, preprocessing, inferer, torch.device("cpu"), cache, batch_size=BATCH)
    try:
        return run.embed_files(items), run.computed
    except Killed:
        return None, run.computed


def same(a: EmbeddingSet, b: EmbeddingSet) -> None:
    for name in ("file", "slice", "level", "images"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    # other batches may take other kernels, which add float32 in another order
    np.testing.assert_allclose(a.vectors, b.vectors, atol=ROUNDING)


def test_killed_at_any_write_a_rerun_loses_at_most_a_batch(network, items, tmp_path, monkeypatch):
    whole, total = embed(network, items, None)
    assert whole is not None
    write, replace = np.save, Path.replace
    kills = 0
    while True:
        cache = tmp_path / f"cache{kills}"
        left = itertools.count(kills, -1)

        def mortal(function, left=left):
            def wrapped(*arguments):
                if next(left) <= 0:
                    raise Killed
                return function(*arguments)

            return wrapped

        with monkeypatch.context() as patch:
            patch.setattr(np, "save", mortal(write))
            patch.setattr(Path, "replace", mortal(replace))
            result, before = embed(network, items, cache)
        if result is not None:
            break
        kills += 1
        again, after = embed(network, items, cache)
        assert again is not None
        assert total <= before + after <= total + BATCH + 2  # a flush takes the last file's images whole
        same(again, whole)
    assert kills >= 9  # three writes a shard


def test_a_damaged_shard_is_embedded_again(network, items, tmp_path, caplog):
    whole, total = embed(network, items, tmp_path / "cache")
    vectors = sorted((tmp_path / "cache").rglob("*.vectors.npy"))
    vectors[0].write_bytes(vectors[0].read_bytes()[:40])
    again, computed = embed(network, items, tmp_path / "cache")
    assert 0 < computed < total and "damaged" in caplog.text
    same(again, whole)


def start(folder: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(ROOT / "configs" / "detect.yaml")]
    command += ["--train_dir", "train", "--generated_dir", "generated", "--batch_size", str(BATCH), *FEW, *more]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, count in (("train", 40), ("generated", 10)):
        (tmp_path / name).mkdir()
        for path in sorted((ROOT / "demo" / name).iterdir())[:count]:
            shutil.copy(path, tmp_path / name)
    return tmp_path


def outcome(folder: Path) -> list[tuple[str, object]]:
    """All that an audit wrote, but for its times: names and values."""
    report = json.loads((folder / "report.json").read_text())
    del report["timing"]
    found = leaves(report, "report")
    for name in ("matches.csv", "slices.csv"):
        for number, row in enumerate(read(folder / name)):
            found += [(f"{name} {number} {key}", as_number(value)) for key, value in row.items()]
    return found


def leaves(value: object, name: str) -> list[tuple[str, object]]:
    if isinstance(value, dict):
        return [(name, len(value)), *(leaf for key in value for leaf in leaves(value[key], f"{name}.{key}"))]
    if isinstance(value, list):
        return [(name, len(value)), *(leaf for n, part in enumerate(value) for leaf in leaves(part, f"{name}.{n}"))]
    return [(name, value)]


def as_number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def assert_same_outcome(folder: Path, expected: list[tuple[str, object]]) -> None:
    """Up to what the rounding of a vector changes in a cosine."""
    found = outcome(folder)
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (name, value), (_, wanted) in zip(found, expected):
        assert value == (pytest.approx(wanted, rel=1e-5, abs=2e-6) if isinstance(wanted, float) else wanted), name


@pytest.mark.slow
def test_two_runs_in_one_folder(folder):
    alone, *pair = start(folder, "--output_dir", "alone"), *(start(folder, "--output_dir", "out") for _ in range(2))
    for process in (alone, *pair):
        _, error = process.communicate()
        assert process.returncode == 0, error
    assert_same_outcome(folder / "out", outcome(folder / "alone"))
    assert {path.name for path in (folder / "out").iterdir()} - {".lock"} == {*FILES, "embeddings"}


@pytest.mark.slow
def test_killed_twenty_times(folder):
    """kill -9 at random moments from the first file on, in one output folder: what is there is whole."""
    alone = start(folder, "--output_dir", "alone", "--verbose")
    began = None
    for line in alone.stderr:
        if "DEBUG train: 40 files" in line:
            began = time.monotonic()
    alone.communicate()
    assert alone.returncode == 0 and began is not None
    length = time.monotonic() - began
    expected, rng, finished = outcome(folder / "alone"), random.Random(20261124), 0
    for _ in range(20):
        process = start(folder, "--output_dir", "out", "--verbose")
        for line in process.stderr:
            if "DEBUG train: 40 files" in line:
                break
        time.sleep(rng.uniform(0, length))
        process.kill()
        process.communicate()
        finished += process.returncode == 0
        if (folder / "out" / "report.html").exists():
            assert_same_outcome(folder / "out", expected)
            shutil.rmtree(folder / "out")  # begin anew: nothing is left to interrupt
    assert finished < 20
    process = start(folder, "--output_dir", "out")
    _, error = process.communicate()
    assert process.returncode == 0, error
    assert_same_outcome(folder / "out", expected)
