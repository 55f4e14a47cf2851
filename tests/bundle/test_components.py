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
from scripts import AxialSlicesd, PerDimensionalityd
from scripts.bundle.components import component

CONFIG = """
width: 3
network:
  _target_: torch.nn.Linear
  in_features: '@width'
  out_features: $@width + 1
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "network.yaml"
    path.write_text(CONFIG)
    return path


def test_component_is_built_as_the_config_says(config):
    network = component(config, "network")
    assert isinstance(network, torch.nn.Linear)
    assert (network.in_features, network.out_features) == (3, 4)
    assert component(str(config), "width") == 3
    assert component(config, "network") is not network


def test_an_override_reaches_every_reference_and_lasts_one_call(config):
    network = component(config, "network", width=7)
    assert (network.in_features, network.out_features) == (7, 8)
    assert component(config, "network").in_features == 3
    assert component(config, "network", network="$@width * 2") == 6


def test_the_bundle_has_one_chain_with_another_slice_spacing(in_root):
    default = component("configs/inference.yaml", "slice_spacing")
    for overrides, spacing in (({}, default), ({"slice_spacing": default / 2}, default / 2)):
        chain = component("configs/inference.yaml", "preprocessing", **overrides)
        (either,) = (part for part in chain.transforms if isinstance(part, PerDimensionalityd))
        (cut,) = (part for part in either.volume.transforms if isinstance(part, AxialSlicesd))
        assert cut.spacing == spacing


@pytest.mark.parametrize(("name", "overrides"), [("netwrok", {}), ("network", {"netwrok": 1})])
def test_an_unknown_key_is_an_error_that_lists_the_known_ones(config, name, overrides):
    with pytest.raises(ValueError, match="network.yaml: expected a key 'netwrok', found [^_]*network, width$"):
        component(config, name, **overrides)


@pytest.mark.parametrize(
    ("name", "content", "error", "sentence"),
    [
        ("none.yaml", None, FileNotFoundError, "none.yaml: expected a config file, found none; check the path"),
        ("a.txt", "x", ValueError, "a.txt: expected a config in YAML or JSON, found another file"),
        ("a.yaml", "[", ValueError, "a.yaml: expected a config in YAML or JSON, found another file"),
        (
            "a.yaml",
            "text",
            ValueError,
            "a.yaml: expected a config in YAML or JSON, found no keys in it; check the path",
        ),
        ("a.json", "{", ValueError, "a.json: expected a config in YAML or JSON, found another file"),
    ],
)
def test_what_is_no_config_is_named(tmp_path, name, content, error, sentence):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(error, match=sentence):
        component(tmp_path / name, "network")
