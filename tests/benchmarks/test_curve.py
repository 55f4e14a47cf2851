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

"""The points of the speed-quality curve are networks that can be trained and asked."""

from __future__ import annotations

import inspect

import curve
import numpy as np
import pytest
import torch
from curve import POINTS, SHIPPED, milliseconds
from helpers import ROOT
from monai.bundle import ConfigParser
from scripts import DeepSSIM


@pytest.mark.parametrize("name", POINTS)
def test_images_of_the_bundles_field_become_unit_vectors(name, tmp_path):
    point = POINTS[name]
    torch.save(point.definition().state_dict(), tmp_path / "weights.pt")
    images = np.random.default_rng(0).random((2, 96, 112), np.float32)
    vectors = point.method(tmp_path / "weights.pt").vectors(images)
    assert vectors.shape == (2, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-2)


@pytest.mark.parametrize("name", [name for name in POINTS if name != SHIPPED])
def test_keys_are_the_networks(name):
    point = POINTS[name]
    assert set(point.keys) <= set(inspect.signature(DeepSSIM).parameters)
    shipped, own = POINTS[SHIPPED].definition(), point.definition()
    assert (str(own), own.orientations, own.spatial_size) != (str(shipped), shipped.orientations, shipped.spatial_size)


@pytest.mark.parametrize("name", [name for name, point in POINTS.items() if point.trainings])
def test_training_gives_the_network_what_it_takes(name):
    config = ConfigParser(ConfigParser.load_config_file(str(ROOT / "configs" / "train.yaml")))
    assert set(POINTS[name].training()) <= set(config.get())
    config.update(POINTS[name].training())
    config.update({"dataset_dir": str(ROOT / "demo" / "train")})
    prepared = config.get_parsed_content("preprocessing")(config.get_parsed_content("items")[0].copy())
    assert list(prepared["image"].shape[1:]) == config.get_parsed_content("network_def").spatial_size


def test_a_time_is_of_one_image_in_evaluation_mode(monkeypatch):
    monkeypatch.setattr(curve, "seconds", lambda call, repeats: call().shape[0])  # a second an image of the batch
    network = POINTS[SHIPPED].definition()
    assert milliseconds(network, (1, 96, 112)) == 1000
    assert not network.training
