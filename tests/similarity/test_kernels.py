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
from types import ModuleType

import numba
import pytest
from scripts.similarity.kernels import kernel


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
