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

import numpy as np
import pytest
import torch
import torch.nn as nn
from helpers import DEMO, ROOT
from monai.bundle import ConfigParser
from scripts import PublishedV2, component, find_images, load_weights, prepared_images
from scripts.embedder.attribution import Explainer, cosine_map, layer_cam
from scripts.embedder.networks import DeepSSIM
from torch.nn.functional import normalize


@pytest.fixture(scope="module")
def shipped() -> DeepSSIM:
    network = component(ROOT / "configs" / "inference.yaml", "network_def")
    return load_weights(network, ROOT / "models" / "model.pt").eval()


@pytest.fixture(scope="module")
def demo() -> torch.Tensor:
    """Images of six people, (6, 1, 96, 112)."""
    items = find_images(DEMO["train_dir"])[:12:2]
    chain = component(ROOT / "configs" / "inference.yaml", "preprocessing")
    return torch.stack([torch.as_tensor(made["image"]) for made in prepared_images(items, chain)])


def cosines(network: nn.Module, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return (network(first) * network(second)).sum(1)


def test_the_map_sums_to_the_cosine(shipped, demo):
    first, second = demo, demo.roll(1, 0).flip(3)  # another person, mirrored
    found = cosine_map(shipped, first, second)
    assert found.shape == (6, 96, 112)
    assert found.sum((1, 2)) == pytest.approx(cosines(shipped, first, second), abs=1e-5)
    assert cosine_map(shipped, first, first).sum((1, 2)) == pytest.approx(torch.ones(6), abs=1e-5)


@pytest.mark.parametrize(
    ("size", "axes", "more"),
    [
        ((16, 20), (0, 1), {}),
        ((8, 12, 16), (0,), {"patch": 4, "patch_features": 3}),
        ((16, 20), (1,), {"orientations": 1}),
    ],
)
def test_the_map_sums_to_the_cosine_whatever_the_network(size, axes, more):
    network = DeepSSIM(size, 12, channels=(4, 8), hidden=8, filters=4, mirrored_axes=axes, **more).eval()
    nn.init.normal_(network.refine.head[-1].bias, std=2.0)  # far from upright, over the border
    first, second = torch.rand(2, 3, 1, *size)
    found = cosine_map(network, first, second)
    assert found.shape == (3, *size)
    assert found.flatten(1).sum(1) == pytest.approx(cosines(network, first, second), abs=1e-5)


@pytest.mark.parametrize("half", ["left", "right", "front", "back"])
def test_what_is_identical_has_the_large_values_in_the_images_own_frame(shipped, demo, half):
    inside = torch.zeros(96, 112, dtype=torch.bool)
    places = {"left": np.s_[:48], "right": np.s_[48:], "front": np.s_[:, :56], "back": np.s_[:, 56:]}
    inside[places[half]] = True
    first, other = demo, demo.roll(1, 0)
    second = torch.where(inside, first, other)
    found = cosine_map(shipped, first, second)
    assert found[:, inside].sum(1).mean() > found[:, ~inside].sum(1).mean()
    without = cosine_map(shipped, first, other)  # heads at one level are alike everywhere, to some extent
    gain = found[:, inside].sum(1) / without[:, inside].sum(1)
    assert gain.min() > 1 and gain.mean() > 1.4
    # the other image lies elsewhere: the map stays where it was
    turned = cosine_map(shipped, first, second.flip(2))
    assert torch.corrcoef(torch.stack([found.flatten(), turned.flatten()]))[0, 1] > 0.9


def test_where_there_is_nothing_there_is_next_to_nothing(shipped, demo):
    first = demo.clone()
    first[:, :, :30] = 0
    found = cosine_map(shipped, first, demo).abs()
    assert found[:, :20].mean() < 0.25 * found[:, 40:].mean(), (
        "the constants' share, and what is left of normalised zeros"
    )


class Cut(nn.Module):
    """A tiny convolutional network that sees the first `width` columns only."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = torch.zeros_like(x)
        seen[..., : self.width] = x[..., : self.width]
        first = self.one(seen).relu()
        # what the bias makes beyond the cut does not matter, either
        kept = first * (torch.arange(x.shape[-1]) < self.width)
        return normalize(self.two(kept).relu().flatten(1) + 1e-3, dim=1)


def test_layer_cam_is_zero_where_the_input_does_not_matter():
    network, (first, second) = Cut().eval(), torch.rand(2, 3, 1, 16, 24)
    found = layer_cam(network, first, second, ["one"])
    assert found.shape == (3, 16, 24) and found.min() >= 0 and found.amax((1, 2)) == pytest.approx(torch.ones(3))
    assert (found[..., 8:] == 0).all() and (found[..., :8] > 0).any()
    several = layer_cam(network, first, second, ["one", "two"])
    assert several.shape == (3, 16, 24) and 0 < several.max() <= 1
    assert (several[..., 12:] == 0).all(), "half the size: a pixel more on either side"
    assert not network.one._forward_hooks and not network.two._forward_hooks and network.one.weight.grad is None


def test_layer_cam_by_hand():
    """One channel a layer: the map is the activation where the gradient is positive."""
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Flatten())
    nn.init.constant_(network[0].weight, 2.0)
    first, second = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([[[[1.0, -1.0], [0.5, 0.0]]]])
    found = layer_cam(network, first, second, ["0"])
    # gradient 2 (1, -1, 0.5, 0): its positive part times 2 (1, 2, 3, 4) is 4 (1, 0, 1.5, 0)
    assert found == pytest.approx(torch.tensor([[[1 / 1.5, 0], [1, 0]]]))


def test_the_published_networks_are_explained_by_their_four_stages(demo):
    pytest.importorskip("transformers", reason="the published networks need the extra `published`")
    layers = ConfigParser.load_config_file(str(ROOT / "configs" / "detect.yaml"))["explain_layers"]
    network = PublishedV2(16, depths=(1, 1, 1, 1), widths=(8, 16, 24, 32)).eval()
    found = layer_cam(network, demo[:2], demo[2:4], layers["published_v2"])
    assert len(layers["published_v2"]) == 4 and layers["published_v1"] == layers["published_v2"]
    assert found.shape == (2, 96, 112) and 0 <= found.min() and 0 < found.max() <= 1
    assert all(parameter.grad is None for parameter in network.parameters())


def test_what_cannot_be_explained_is_an_error():
    image = torch.rand(1, 1, 16, 24)
    with pytest.raises(ValueError, match="network_def Cut: expected DeepSSIM, whose cosine is a sum over pixels"):
        cosine_map(Cut(), image, image)
    with pytest.raises(ValueError, match="layers: expected names of modules of Cut, found three; correct"):
        layer_cam(Cut(), image, image, ["one", "three"])
    with pytest.raises(ValueError, match="layers: expected names of modules of Cut, found none; correct"):
        layer_cam(Cut(), image, image, [])
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten())
    with pytest.raises(ValueError, match=r"expected modules that give maps \(N, C, h, w\), found 1; name others"):
        layer_cam(network, image, image, ["1"])
    with pytest.raises(ValueError, match="found Cut without layers; name them in explain_layers"):
        Explainer(Cut())


def test_the_explainer_takes_the_exact_map_where_there_is_one(shipped, demo):
    first, second = demo[0, 0].numpy(), demo[1, 0].numpy()
    exact = Explainer(shipped)
    assert exact.exact and exact(first, second) == pytest.approx(cosine_map(shipped, demo[:1], demo[1:2])[0], abs=1e-6)
    cam = Explainer(Cut(), ["one"])
    assert not cam.exact and cam(first, second).shape == first.shape
