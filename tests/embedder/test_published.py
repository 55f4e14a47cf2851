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

"""The published networks: what they compute, what is frozen, whose weights they take. Tiny ones, but for the counts."""

from __future__ import annotations

import hashlib
import sys

import numpy as np
import pytest
import torch
import torch.nn as nn
from helpers import ROOT
from monai.bundle import ConfigParser
from scipy.stats import pmean
from scripts import PublishedV1, PublishedV2, component, load_weights, save_weights
from scripts.embedder.published import GeM, z_scores

pytest.importorskip("transformers", reason="the published networks need the extra `published`")
TINY = {"depths": (1, 1, 2, 1), "widths": (4, 6, 8, 10), "embedding_dim": 5}
VERSIONS = [PublishedV1, PublishedV2]


def images(count: int = 3, size: tuple[int, int] = (32, 40)) -> torch.Tensor:
    return torch.rand(count, 1, *size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("version", VERSIONS)
def test_images_become_unit_vectors_whatever_their_gain_and_offset(version):
    network = version(**TINY).eval()
    vectors = network(images())
    assert vectors.shape == (3, 5) and vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(network(7 * images() - 2), vectors, atol=1e-5, rtol=0)
    assert network(torch.zeros(1, 1, 32, 32)).isfinite().all()
    assert network(images(size=(112, 136))).shape == (3, 5)


@pytest.mark.parametrize("version", VERSIONS)
def test_channels_and_sides_are_checked(version):
    for shape in ((2, 3, 32, 32), (2, 1, 32, 31), (1, 32, 32)):
        with pytest.raises(ValueError, match=r"images: expected \(N, 1, H, W\) of at least 32 pixels a side, found"):
            version(**TINY)(torch.zeros(shape))


def test_z_scores_are_numpys():
    x = images().numpy()
    expected = np.stack([(image - image.mean()) / image.std() for image in x])
    np.testing.assert_allclose(z_scores(torch.from_numpy(x)), expected, atol=1e-5)
    assert not z_scores(torch.ones(1, 1, 4, 4)).any()


@pytest.mark.parametrize("p", [1.0, 3.0, 7.5])
def test_gem_is_a_power_mean(p):
    x = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(1)) + 0.1
    np.testing.assert_allclose(GeM(p)(x).detach(), pmean(x.flatten(2).numpy(), p, axis=2), rtol=1e-5)


def test_gem_takes_negative_values_for_none_and_learns_its_power():
    pool = GeM(3.0, eps=1e-2)
    x = torch.tensor([[[[-5.0, 2.0]]]])
    loss = pool(x).sum()
    assert loss.item() == pytest.approx(((1e-2**3 + 2**3) / 2) ** (1 / 3))
    loss.backward()
    assert pool.p.grad.abs().item() > 0


class Permute(nn.Module):
    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = list(order)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(self.order)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm of the channels of maps (N, C, H, W)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Block(nn.Module):
    """A block with torchvision's names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer_scale = nn.Parameter(torch.rand(width, 1, 1))
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 7, padding=3, groups=width), Permute(0, 2, 3, 1), nn.LayerNorm(width, eps=1e-6),
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), Permute(0, 3, 1, 2),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layer_scale * self.block(x)


def torchvision_features() -> nn.Sequential:
    """ConvNeXt's `features` with torchvision's names, written down from Liu et al. 2022."""
    depths, widths = TINY["depths"], TINY["widths"]
    parts = [nn.Sequential(nn.Conv2d(3, widths[0], 4, 4), LayerNorm2d(widths[0], eps=1e-6))]
    for number, (depth, width) in enumerate(zip(depths, widths)):
        if number:
            parts.append(
                nn.Sequential(LayerNorm2d(widths[number - 1], eps=1e-6), nn.Conv2d(widths[number - 1], width, 2, 2))
            )
        parts.append(nn.Sequential(*(Block(width) for _ in range(depth))))
    return nn.Sequential(*parts)


class AuthorsV1(nn.Module):
    """Has the names of the authors' version 1."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_extractor = torchvision_features()
        self.fc = nn.Sequential(
            nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.BatchNorm1d(10), nn.Linear(10, 512), nn.GELU(),
            nn.Dropout(0.33), nn.Linear(512, 5),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.feature_extractor(x))


class AuthorsV2(nn.Module):
    """Has the names of the authors' version 2."""

    def __init__(self) -> None:
        super().__init__()
        features = torchvision_features()
        self.stage_a, self.stage_b, self.stage_c, self.stage_d = (
            nn.Sequential(*features[n : n + 2]) for n in (0, 2, 4, 6)
        )
        self.gem_a, self.gem_b, self.gem_c, self.gem_d = (GeM(p) for p in (3.0, 2.5, 2.0, 3.5))
        self.fc = nn.Sequential(nn.LayerNorm(28), nn.Linear(28, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.stage_a(x)
        b = self.stage_b(a)
        c = self.stage_c(b)
        pooled = [self.gem_a(a), self.gem_b(b), self.gem_c(c), self.gem_d(self.stage_d(c))]
        return self.fc(torch.cat(pooled, 1))


AUTHORS = [(PublishedV1, AuthorsV1), (PublishedV2, AuthorsV2)]


@pytest.mark.parametrize(("version", "authors"), AUTHORS)
def test_the_authors_weights_give_the_authors_vectors(version, authors, tmp_path):
    torch.manual_seed(0)
    reference = authors().eval()
    save_weights(reference, tmp_path / "authors.pt")
    network = load_weights(version(**TINY), tmp_path / "authors.pt")
    colour = z_scores(images()).repeat(1, 3, 1, 1)
    expected = nn.functional.normalize(reference(colour))
    torch.testing.assert_close(network(images()), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("version", "authors"), AUTHORS)
def test_the_authors_torchscript_needs_its_hash(version, authors, tmp_path):
    path = tmp_path / "best_model_jit.pt"
    reference = authors().eval()
    torch.jit.script(reference).save(str(path))
    with pytest.raises(
        ValueError, match="best_model_jit.pt: expected a state dict, found TorchScript, which could run"
    ):
        load_weights(version(**TINY), path)
    with pytest.raises(ValueError, match="best_model_jit.pt: expected the SHA-256 ab, found .*; give it if you trust"):
        load_weights(version(**TINY), path, "ab")
    network = load_weights(version(**TINY), path, hashlib.sha256(path.read_bytes()).hexdigest())
    torch.testing.assert_close(network.fc[-1].weight, reference.fc[-1].weight)


def torchvision_state() -> dict[str, torch.Tensor]:
    return {f"features.{name}": value for name, value in torchvision_features().state_dict().items()}


def transformers_state() -> dict[str, torch.Tensor]:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(depths=list(TINY["depths"]), hidden_sizes=list(TINY["widths"]))
    return ConvNextForImageClassification(config).state_dict()


def timm_state() -> dict[str, torch.Tensor]:
    """As timm 1.0 names them."""
    state = {}
    own = {n: v for n, v in PublishedV1(**TINY).state_dict().items() if not n.startswith("fc.")}
    for name, value in own.items():
        for part, theirs in {
            "stem.patch_embeddings": "stem.0", "stem.layernorm": "stem.1", ".downsampling_layer.": ".downsample.",
            ".layers.": ".blocks.", ".dwconv.": ".conv_dw.", ".layernorm.": ".norm.", ".pwconv1.": ".mlp.fc1.",
            ".pwconv2.": ".mlp.fc2.", ".layer_scale_parameter": ".gamma",
        }.items():  # fmt: skip
            name = name.replace(part, theirs)
        state[name] = torch.rand_like(value)
    assert {"stem.1.bias", "stages.1.downsample.0.weight", "stages.2.blocks.1.mlp.fc2.bias"} <= state.keys()
    return state | {"head.fc.weight": torch.zeros(7, 10)}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("make", [torchvision_state, transformers_state, timm_state])
def test_imagenet_weights_are_taken_by_name(version, make, tmp_path):
    state = make()
    torch.save(state, tmp_path / "convnext.pth")
    network = version(**TINY, imagenet_file=tmp_path / "convnext.pth")
    backbone = {n: v for n, v in network.state_dict().items() if n.startswith(("stem.", "stages."))}
    classifier = [n for n in state if n.startswith(("head.", "classifier.", "convnext.layernorm."))]
    assert len(backbone) == len(state) - len(classifier)
    total = sum(v.double().sum() for n, v in state.items() if n not in classifier)
    torch.testing.assert_close(sum(v.double().sum() for v in backbone.values()), total)


def test_imagenet_weights_of_another_network_are_refused(tmp_path):
    torch.save(torchvision_state(), tmp_path / "convnext.pth")
    larger = TINY | {"widths": (8, 6, 8, 10)}
    sentence = "convnext.pth: expected a ConvNeXt .* stem.patch_embeddings.weight of the shape .8, 3, 4, 4., found the"
    with pytest.raises(ValueError, match=sentence):
        PublishedV2(**larger, imagenet_file=tmp_path / "convnext.pth")
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other.pth: expected a ConvNeXt .*, found no such weight; give the file"):
        PublishedV2(**TINY, imagenet_file=tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError, match="none.pth: expected a file with weights"):
        PublishedV2(**TINY, imagenet_file=tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("version", "backbone", "head", "frozen"),
    [
        (PublishedV2, 27_818_592, 1_442_196, 242_784),  # torchvision's Tiny without its classifier
        (PublishedV1, 87_564_416, 658_176, 51_325_056),  # its Base; 58.6 %
    ],
)
def test_the_published_networks_have_their_size(version, backbone, head, frozen):
    with torch.device("meta"):
        network = version()
    sizes = {name: p.numel() for name, p in network.named_parameters()}
    assert sum(n for name, n in sizes.items() if name.startswith(("stem.", "stages."))) == backbone
    assert sum(sizes.values()) == backbone + head
    assert sum(p.numel() for p in network.parameters() if not p.requires_grad) == frozen
    hidden = {PublishedV1: (1024, 512, 256), PublishedV2: (1440, 848, 256)}[version]
    linear = [m for m in network.fc if isinstance(m, nn.Linear)]
    assert (linear[0].in_features, linear[0].out_features, linear[1].out_features) == hidden


@pytest.mark.parametrize("version", VERSIONS)
def test_frozen_weights_get_no_gradient(version):
    network = version(**TINY)
    network(images()).sum().backward()
    still = {name for name, p in network.named_parameters() if p.grad is None}
    if version is PublishedV2:
        assert still == {n for n, _ in network.named_parameters() if n.startswith(("stem.", "stages.0."))}
    else:  # a digit 0 or 1 anywhere in torchvision's name
        names = {f"feature_extractor.{n}": n for n, _ in torchvision_features().named_parameters()}
        shapes = sorted(
            tuple(p.squeeze().shape) for n, p in AuthorsV1().named_parameters() if {"0", "1"} & set(names.get(n, ""))
        )
        assert shapes == sorted(tuple(network.get_parameter(n).squeeze().shape) for n in still)
        assert not any(n.startswith("fc.") for n in still) and "stages.3.layers.0.pwconv1.weight" in still
    network = version(**TINY, frozen=False)
    network(images()).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_published_labels():
    labels = PublishedV2(**TINY).labels(torch.tensor([-1.0, 0.60, 0.61, 0.85, 0.86, 1.0]))
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_without_the_library_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"expected the package transformers .*; pip install 'transformers>=5"
    ):
        PublishedV2(**TINY)


def published(version: int) -> ConfigParser:
    """The training config of a version, with a tiny network."""
    parser = ConfigParser()
    files = ["train.yaml", *(f"published/train_v{n}.yaml" for n in range(1, version + 1))]
    parser.read_config([str(ROOT / "configs" / file) for file in files])
    tiny = {"_target_": f"scripts.PublishedV{version}", "frozen": False, **{k: TINY[k] for k in ("depths", "widths")}}
    parser.update({"network_def": tiny, "device": "cpu"})
    return parser


@pytest.mark.parametrize("decay", [0.3, None])
def test_version_2_learns_slower_from_stage_to_stage(decay):
    parser = published(2)
    parser.update({} if decay is None else {"lr_decay": decay})
    network, optimizer = (parser.get_parsed_content(key) for key in ("network", "optimizer"))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(network.parameters()))
    share = decay or 1.0  # of random weights none has less to learn
    for part, power in [("fc", 0), ("gem", 0), ("stages.3", 1), ("stages.2", 2), ("stages.1", 3), ("stages.0", 4)]:
        for name, parameter in network.named_parameters():
            if name.startswith(part + "."):
                assert rates[id(parameter)] == pytest.approx(1e-3 * share**power), name
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-3}


MOVES = {
    1: [
        ("NormalizeIntensityd", {}),
        ("RandFlipd", {"spatial_axis": 0, "prob": 0.33}),
        ("RandFlipd", {"spatial_axis": 1, "prob": 0.33}),
        ("RandRotated", {"range_x": 0.17, "prob": 0.33}),
        ("RandAdjustContrastd", {"gamma": [0.5, 1.5], "prob": 0.33}),
    ],
    2: [
        ("NormalizeIntensityd", {}),
        ("RandFlipd", {"spatial_axis": 0, "prob": 0.25}),
        ("RandFlipd", {"spatial_axis": 1, "prob": 0.25}),
        ("RandAffined", {"rotate_range": 0.09, "translate_range": [4.0, 4.0], "padding_mode": "zeros", "prob": 0.75}),
        ("RandZoomd", {"min_zoom": 0.9, "max_zoom": 1.05, "prob": 0.75}),
        ("RandBiasFieldd", {"degree": 3, "coeff_range": [0.0, 0.1], "prob": 0.5}),
        ("RandAdjustContrastd", {"gamma": [0.5, 1.5], "prob": 0.25}),
        ("RandGaussianSmoothd", {"sigma_x": [0.25, 0.5], "sigma_y": [0.25, 0.5], "prob": 0.25}),
    ],
}


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        (1, {"pairs": 32, "epochs": 40, "lr": 1e-3, "weight_decay": 1e-3, "clip": 1.0, "amp": False}),
        (2, {"pairs": 128, "epochs": 65, "lr": 1e-3, "weight_decay": 1e-3, "clip": 1.0, "amp": True}),
    ],
)
def test_training_is_as_published(version, numbers):
    parser = published(version)
    assert {key: parser.get_parsed_content(key) for key in numbers} == numbers
    steps = parser["misalign"]["transforms"]
    found = [(step["_target_"], {k: v for k, v in step.items() if k not in ("_target_", "keys")}) for step in steps]
    assert found == [*MOVES[version], ("EnsureTyped", {"track_meta": False})]
    loss = parser.get_parsed_content("loss")
    assert (loss.form, loss.bins, loss.disjoint, loss.data_range, loss.power) == ("published", 1, True, None, 2)
    assert loss.standardize
    assert parser.get_parsed_content("train#dataloader#batch_size") == 2 * numbers["pairs"]
    groups = parser.get_parsed_content("train#dataset")
    entry = groups[0][0]
    assert entry["image"].shape == entry["label"].shape == (1, 112, 136) and type(entry["image"]) is torch.Tensor
    assert 0 <= entry["label"].min() <= entry["label"].max() == 1 and entry["image"].min() < 0
    scheduler = parser.get_parsed_content("lr_scheduler")
    scheduler.optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr()[-1] == pytest.approx(1e-3)


def test_inference_names_the_published_networks():
    files = [ROOT / "configs" / name for name in ("inference.yaml", "published/inference_v1.yaml")]
    assert component(files, "spatial_size") == [112, 136]
    with torch.device("meta"):
        assert type(component(files, "network_def")) is PublishedV1
        assert type(component([*files, ROOT / "configs/published/inference_v2.yaml"], "network_def")) is PublishedV2
