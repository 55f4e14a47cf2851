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

"""Kernels compile wherever the package lies, and are kept where they can be."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from types import ModuleType

import numba
import numpy as np
import pytest
from helpers import ROOT
from scripts.similarity.kernels import Behind, in_parts, kernel
from scripts.similarity.verification import Verifier


@pytest.fixture
def module(tmp_path) -> ModuleType:
    """A module of one function, in a folder of its own."""
    path = tmp_path / "package" / "module.py"
    path.parent.mkdir()
    path.write_text("def twice(x):\n    return 2 * x\n")
    spec = importlib.util.spec_from_file_location("module", path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_machine_code_is_kept_beside_the_source(module, tmp_path):
    assert kernel()(module.twice)(3) == 6
    assert list((tmp_path / "package" / "__pycache__").glob("module.twice*.nbc"))


def test_where_no_folder_can_be_written_kernels_compile_all_the_same(module, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()  # no folder can be made below a file, not even by root
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "file"))
    cache = tmp_path / "package" / "__pycache__"
    for path in cache.glob("*"):
        path.unlink()
    if cache.exists():
        cache.rmdir()
    cache.touch()
    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(cache=True)(module.twice)
    assert kernel()(module.twice)(3) == 6
    assert "NUMBA_CACHE_DIR" in caplog.text


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_parts_cover_everything_once(monkeypatch, threads, count):
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", threads)
    seen = np.zeros(count, int)

    def add(start: int, stop: int, value: int) -> None:
        seen[start:stop] += value

    in_parts(add, count, 3)
    assert (seen == 3).all()


def test_an_error_in_a_part_is_an_error(monkeypatch):
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 2)

    def fails(start: int, stop: int) -> None:
        raise ValueError(f"part {start}")

    with pytest.raises(ValueError, match="part"):
        in_parts(fails, 10)


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch):
    images = np.random.default_rng(0).random((10, 24, 28), np.float32)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", threads)
        found.append(Verifier().align(images[:5], images[5:]))
    np.testing.assert_array_equal(found[0].matrix, found[1].matrix)
    np.testing.assert_array_equal(found[0].aligned_ssim, found[1].aligned_ssim)


@pytest.mark.parametrize("threads", [1, 8])
def test_calls_behind_keep_their_order(monkeypatch, threads):
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", threads)
    seen = np.zeros(10)

    def append(start: int, stop: int, digit: int) -> None:
        seen[start:stop] = 10 * seen[start:stop] + digit

    with Behind() as behind:
        for digit in (1, 2, 3):
            behind(append, 10, digit)
        behind(append, 0, 9)
    assert (seen == 123).all()


def test_an_error_behind_is_raised_by_what_waits_for_it():
    def fails(start: int, stop: int) -> None:
        raise ValueError("behind")

    with pytest.raises(ValueError, match="behind"), Behind() as behind:
        behind(fails, 3)


@pytest.mark.slow
def test_a_run_that_compiles_finds_what_later_ones_find(tmp_path):
    code = (
        "import numpy as np, hashlib; from scipy import ndimage; from scripts.similarity.registration import register;"
        "x = np.stack([ndimage.gaussian_filter(i, 2) for i in np.random.default_rng(0).random((8, 96, 112))]);"
        "x = ((x - x.min()) / np.ptp(x)).astype(np.float32);"
        "print(hashlib.sha256(register(x[:4], x[4:]).tobytes()).hexdigest())"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    said = [
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True).stdout
        for _ in range(2)
    ]
    assert said[0] == said[1] and len(said[0]) > 60
