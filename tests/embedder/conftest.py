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

from __future__ import annotations

import pytest
import torch
from helpers import ROOT
from scripts.bundle.components import component
from scripts.embedder.networks import DeepSSIM


@pytest.fixture(scope="session")
def preprocessing():
    """The chain that audits use."""
    return component(ROOT / "configs" / "inference.yaml", "preprocessing")


@pytest.fixture
def network() -> DeepSSIM:
    """A small one for the field of the chain, with random weights."""
    torch.manual_seed(0)
    return DeepSSIM(embedding_dim=6, channels=(4, 4, 6), hidden=8).eval()
