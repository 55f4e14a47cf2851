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

import ctypes
import os
import platform
import subprocess
import sys

import pytest
from helpers import ROOT
from scripts.bundle import memory

# page faults of ten blocks of 64 MiB, one after another; of the package the module alone, which is quick to import
FAULTS = """
import importlib.util, resource, sys
import numpy as np
spec = importlib.util.spec_from_file_location("memory", "scripts/bundle/memory.py")
memory = importlib.util.module_from_spec(spec)
spec.loader.exec_module(memory)
if sys.argv[1] == "kept":
    print(memory.keep_freed_memory())
np.ones(2**23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(word: str, **environment: str) -> list[str]:
    known = {name: value for name, value in os.environ.items() if name not in memory.CHOSEN}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, word],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=known | environment,
    )
    return done.stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these limits")
def test_freed_blocks_are_used_again():
    kept, again = run("kept")
    (given_back,) = run("as it is")
    assert kept == "True"
    assert int(again) < int(given_back) / 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these limits")
def test_limits_of_the_environment_stand():
    assert run("kept", MALLOC_TRIM_THRESHOLD_="0")[0] == "False"


def test_another_library_is_left_alone(monkeypatch):
    for name in memory.CHOSEN:
        monkeypatch.delenv(name, raising=False)

    def missing(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: not found")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert not memory.keep_freed_memory()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # without mallopt
    assert not memory.keep_freed_memory()
