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

"""Fixtures of all tests: seeds, real data where there is any, and the working directory."""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, SHARED_DATA
from monai.transforms import Randomizable

try:
    from selenium import webdriver
except ImportError:
    webdriver = None

# pytest finds them itself; as doctests two of one name would clash where several folders are named
collect_ignore_glob = ["*/conftest.py"]


@pytest.fixture(autouse=True)
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test draws the same numbers on every run, those of a transform that it did not seed among them."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    monkeypatch.setattr(Randomizable, "R", np.random.RandomState(0))


@pytest.fixture(scope="session")
def ixi() -> Path:
    """The IXI volumes, which the repository does not carry."""
    folder = SHARED_DATA / "ixi_t1_2mm"
    if not folder.is_dir():
        pytest.skip(f"needs the IXI volumes, not found at {folder}; set DEEPSSIM_DATA to the folder above ixi_t1_2mm")
    return folder


@pytest.fixture
def in_root(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundle's root, which MONAI's bundle tools expect as working directory, and now is it."""
    monkeypatch.chdir(ROOT)
    return ROOT


@pytest.fixture
def as_command(monkeypatch):
    """Errors end the process, as where MONAI's command line started it."""
    monkeypatch.setattr(sys, "argv", ["monai/bundle/__main__.py"])


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window, which logs what it asks for; the tests that take it are skipped where it is not."""
    if webdriver is None:
        pytest.skip("selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed (Debian: apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    found = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield found
    found.quit()
