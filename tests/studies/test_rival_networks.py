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

import hashlib
import json
import sys
import types

import numpy as np
import pytest
import torch
from helpers import ROOT, slices
from scripts import AutocastInferer, component, save_weights
from scripts.embedder.published import z_scores
from scripts.studies.rival_networks import Embedding, OnField, imagenet, published, scripted
from skimage.metrics import structural_similarity


def test_torchscript_needs_its_hash(tmp_path):
    path = tmp_path / "features.pt"
    torch.jit.script(torch.nn.Sequential(torch.nn.Conv2d(3, 5, 4), torch.nn.ReLU())).save(str(path))
    with pytest.raises(ValueError, match="features.pt: expected the SHA-256 None, found"):
        scripted(path, None, 32)
    method = scripted(path, hashlib.sha256(path.read_bytes()).hexdigest(), 32)
    vectors = method.vectors(slices().images[:3])
    assert vectors.shape == (3, 5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert scripted(None, None, 32) is None and imagenet(None) is None


class FakeEfficientNet(torch.nn.Module):
    """Stands for the package's, which may not be installed: normalises by the batch and drops out while it trains."""

    def __init__(self):
        super().__init__()
        self.convolution, self._bn = torch.nn.Conv2d(3, 6, 8, 8), torch.nn.BatchNorm2d(6)
        self._fc = torch.nn.Linear(6, 1000)

    @classmethod
    def from_name(cls, name):
        assert name == "efficientnet-lite0"
        return cls()

    def extract_features(self, images):
        return torch.nn.functional.dropout(self._bn(self.convolution(images)), 0.5, self.training)

    def forward(self, images):
        return self._fc(self.extract_features(images).mean((2, 3)))


def test_imagenet_features_are_those_of_evaluation(tmp_path, monkeypatch):
    module = types.ModuleType("efficientnet_lite_pytorch")
    module.EfficientNet = FakeEfficientNet
    monkeypatch.setitem(sys.modules, module.__name__, module)
    torch.save(FakeEfficientNet().state_dict(), tmp_path / "weights.pth")
    images, method = slices().images[:6], imagenet(tmp_path / "weights.pth")
    alone = np.concatenate([method.vectors(image[None]) for image in images])
    assert alone.shape == (6, 6)
    np.testing.assert_allclose(alone, method.vectors(images), atol=0.01)  # bfloat16


def test_what_an_embedding_is_meant_to_equal():
    images = slices().images[:6]
    network = torch.nn.Flatten()
    first, second = images[:3], images[3:]
    assert Embedding(network, lambda x, n: n(x)).truth(first, second) is None
    published = Embedding(network, lambda x, n: n(x), form="published").truth(first, second)
    for a, b, value in zip(first, second, published):
        assert value == pytest.approx(structural_similarity(a, b, data_range=float(np.ptp(a))), abs=1e-5)


def test_the_published_form_may_be_of_z_scores():
    images = slices().images[:6]
    first, second = images[:3], images[3:]
    found = Embedding(torch.nn.Flatten(), lambda x, n: n(x), form="published", standardize=True).truth(first, second)
    for a, b, value in zip(*(z_scores(torch.from_numpy(i)).numpy() for i in (first, second)), found):
        assert value == pytest.approx(structural_similarity(a, b, data_range=float(np.ptp(a))), abs=1e-5)


def test_another_field_shows_the_same_in_its_middle():
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(112.0), indexing="ij")
    image = torch.exp(-((rows - 47.5) ** 2 + (columns - 55.5) ** 2) / 200)[None, None]
    moved = OnField(torch.nn.Identity(), 2.0 / 1.7, (112, 136))(image)
    assert moved.shape == (1, 1, 112, 136)
    assert moved.sum().item() == pytest.approx(image.sum().item() * (2 / 1.7) ** 2, rel=0.01)
    middle = [(moved[0, 0].sum(1 - axis) * torch.arange(n)).sum() / moved.sum() for axis, n in ((0, 112), (1, 136))]
    assert [m.item() for m in middle] == pytest.approx([55.5, 67.5], abs=0.51)
    assert moved[0, 0, :, 0].max() == 0  # padded


def test_the_published_system_is_a_method(tmp_path):
    pytest.importorskip("transformers", reason="the published networks need the extra `published`")
    files = [ROOT / "configs" / name for name in ("inference.yaml", "published/inference_v1.yaml")]
    tiny = {"_target_": "scripts.PublishedV1", "depths": [1, 1, 1, 1], "widths": [4, 6, 8, 10]}
    (tmp_path / "tiny.json").write_text(json.dumps({"network_def": tiny}))
    network = component([*files, tmp_path / "tiny.json"], "network_def")
    save_weights(network, tmp_path / "model.pt")
    method = published([*files, tmp_path / "tiny.json"], tmp_path / "model.pt", AutocastInferer(enabled=False))
    assert method.network.spatial_size == (112, 136) and method.network.scale == pytest.approx(2 / 1.7)
    images = np.random.default_rng(0).random((2, 96, 112), np.float32)
    assert method.vectors(images).shape == (2, 256)
    assert published(files, None, AutocastInferer()) is None
