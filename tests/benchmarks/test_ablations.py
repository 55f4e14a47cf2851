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


"""The ablations override keys that training has."""

from __future__ import annotations

import inspect
import json
from pydoc import locate

import pytest
from ablations import VARIANTS, row
from helpers import ROOT
from monai.bundle import ConfigParser


@pytest.fixture
def training() -> ConfigParser:
    return ConfigParser(ConfigParser.load_config_file(str(ROOT / "configs" / "train.yaml")))


def known(key: str, config: ConfigParser) -> bool:
    """Return whether the config has the key, or its object takes an argument of that name."""
    parent, _, argument = key.rpartition("::")
    return key in config or argument in inspect.signature(locate(config[parent]["_target_"])).parameters


@pytest.mark.parametrize("name", VARIANTS)
def test_keys_are_those_of_the_training_config(name, training):
    # another key would be added silently, and nothing changed
    unknown = [key for key in VARIANTS[name] if not known(key, training)]
    assert unknown == []


def test_an_unknown_key_is_noticed(training):
    assert not known("embedding_loss::disjointed", training)


@pytest.mark.parametrize("name", [name for name, keys in VARIANTS.items() if "network_def" in keys])
def test_networks_differ_from_the_one_that_is_shipped(name, training):
    shipped = training.get_parsed_content("network_def")
    training.update(VARIANTS[name])
    changed = training.get_parsed_content("network_def")
    assert (str(changed), changed.orientations) != (str(shipped), shipped.orientations)


def test_row(tmp_path):
    summary = tmp_path / "held_out.json"
    summary.write_text(json.dumps({"ssim_error": 0.0123, "recall": {"1": 0.5, "6": 0.75}}))
    assert row("as shipped", summary) == "| as shipped | 0.012 | 0.500 | 0.750 |"
