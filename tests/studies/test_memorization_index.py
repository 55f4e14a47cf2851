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
import sys
import types

import numpy as np
import pytest
import torch
from helpers import slices
from scripts.studies.memorization_index import (
    THIRDS,
    LayerFeatures,
    MemorizationIndex,
    Whitening,
    imagenet_index,
    scripted_index,
)
from sklearn.decomposition import PCA

RNG = np.random.default_rng(4)
MIX = RNG.normal(size=(2, 30, 8))


def two_layers(images):
    """Two layers of 8 features, of the first 30 pixels."""
    pixels = images.reshape(len(images), -1)[:, :30].astype(float)
    return [(pixels @ mix).astype(np.float32) for mix in MIX]


IMAGES = RNG.random((40, 6, 7)).astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    return MemorizationIndex(two_layers).fit(IMAGES)


def test_whitened_features_are_uncorrelated_and_stay_where_they_were():
    features = RNG.normal(size=(300, 5)) @ RNG.normal(size=(5, 5)) + 3
    whitening = Whitening.of(features)
    white = (features - whitening.mean) @ whitening.matrix
    np.testing.assert_allclose(np.cov(white, rowvar=False), np.eye(5), atol=1e-4)
    np.testing.assert_allclose(whitening.matrix, whitening.matrix.T, atol=1e-10)  # which makes it ZCA
    scores = PCA(whiten=True).fit(features).transform(features)  # the same up to a rotation
    np.testing.assert_allclose(white @ white.T, scores @ scores.T, atol=1e-3)
    assert np.isfinite(Whitening.of(np.ones((4, 6)))(np.ones((2, 6)))).all()


def test_it_is_the_formula(fitted):
    """Eqs. 2 to 6, for the nearest image of the training set, in loops."""
    scores, query = [], RNG.random((1, 6, 7)).astype(np.float32)
    for row in range(len(IMAGES)):
        product = 1.0
        for layer, mine in zip(two_layers(IMAGES), two_layers(query)):
            covariance = np.cov(layer.astype(float), rowvar=False) + 1e-6 * np.eye(8)
            values, vectors = np.linalg.eigh(covariance)
            matrix = vectors @ np.diag(values**-0.5) @ vectors.T
            a, b = ((x - layer.mean(0, dtype=float)) @ matrix for x in (mine[0], layer[row]))
            product *= max(0.0, a @ b / np.linalg.norm(a) / np.linalg.norm(b)) + 1e-6
        scores.append((product**0.5 - fitted.null[0]) / fitted.null[1])
    np.testing.assert_allclose(fitted.matrix(query, IMAGES)[0], scores, rtol=1e-3, atol=1e-4)


def test_an_image_is_most_like_itself_and_order_is_no_matter(fitted):
    matrix = fitted.matrix(IMAGES, IMAGES)
    assert matrix.argmax(1).tolist() == list(range(40))
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)
    np.testing.assert_allclose(matrix.diagonal(), (1 - fitted.null[0]) / fitted.null[1], rtol=1e-4)
    np.testing.assert_allclose(fitted.pairs(IMAGES[:5], IMAGES[5:10]), matrix[range(5, 10), range(5)], rtol=1e-4)


def test_new_images_are_where_the_null_is(fitted):
    new = RNG.random((60, 6, 7)).astype(np.float32)
    assert abs(fitted.matrix(new, IMAGES).max(1).mean()) < 1.5
    assert fitted.matrix(IMAGES[:5], IMAGES).max(1).min() > 2


def test_a_layer_that_disagrees_leaves_next_to_nothing():
    """A cosine of -1 has no logarithm."""
    still = Whitening(np.zeros(2), np.eye(2))
    method = MemorizationIndex(lambda images: [np.array([[1.0, 0.0]]), images[:, 0]], whitening=[still, still])
    a, b = np.array([[[0.0, 1.0]]]), np.array([[[0.0, -1.0]]])
    assert method.pairs(a, a)[0] == pytest.approx(1, abs=1e-5)
    assert method.pairs(a, b)[0] == pytest.approx(1e-3, rel=1e-5)
    assert method.matrix(a, b)[0, 0] == pytest.approx(1e-3, rel=1e-5)


def test_what_it_needs():
    with pytest.raises(ValueError, match="at least 4 training images, whose halves make the null, got 3"):
        MemorizationIndex(two_layers).fit(IMAGES[:3])
    with pytest.raises(ValueError, match="expected fit"):
        MemorizationIndex(two_layers).pairs(IMAGES[:1], IMAGES[:1])
    with pytest.raises(
        ValueError, match=r"layers: expected names of the network's modules, found \['7'\]; name others"
    ):
        LayerFeatures(torch.nn.Sequential(torch.nn.Identity()), ["0", "7"])


class Blocks(torch.nn.Module):
    """Stands for EfficientNet, whose package may not be installed."""

    def __init__(self):
        super().__init__()
        self._blocks = torch.nn.ModuleList([torch.nn.Conv2d(3, 3, 3, padding=1) for _ in range(16)])
        self._fc = torch.nn.Linear(3, 10)

    @classmethod
    def from_name(cls, name):
        assert name == "efficientnet-lite0"
        return cls()

    def forward(self, images):
        for block in self._blocks:
            images = block(images)
        return self._fc(images.mean((2, 3)))


def test_layers_are_outputs_of_the_networks_modules(tmp_path, monkeypatch):
    module = types.ModuleType("efficientnet_lite_pytorch")
    module.EfficientNet = Blocks
    monkeypatch.setitem(sys.modules, module.__name__, module)
    torch.save(Blocks().state_dict(), tmp_path / "weights.pth")
    images, method = slices().images[:6], imagenet_index(tmp_path / "weights.pth")
    layers = method.features(images)
    assert [layer.shape for layer in layers] == [(6, 3)] * 3 and method.features(images) is layers  # kept
    network = method.features.colour.network
    state = method.features.colour.coloured(torch.from_numpy(images)[:, None])
    with torch.no_grad():
        for number, block in enumerate(network._blocks):
            state = block(state)
            if (name := f"_blocks.{number}") in THIRDS:
                expected = state.mean((2, 3)).numpy()
                np.testing.assert_allclose(layers[THIRDS.index(name)], expected, atol=1e-5)
    assert not any(block._forward_hooks for block in network._blocks)
    assert imagenet_index(None) is None


class Two(torch.nn.Module):
    def forward(self, images):
        return images.mean((2, 3)), images[:, :, ::8, ::8]


def test_a_script_returns_its_layers_and_needs_its_hash(tmp_path):
    path = tmp_path / "layers.pt"
    torch.jit.script(Two()).save(str(path))
    with pytest.raises(ValueError, match="layers.pt: expected the SHA-256 None, found"):
        scripted_index(path, None, 32)
    method = scripted_index(path, hashlib.sha256(path.read_bytes()).hexdigest(), 32)
    assert [layer.shape for layer in method.features(slices().images[:6])] == [(6, 3)] * 2
    assert scripted_index(None, None, 32) is None
