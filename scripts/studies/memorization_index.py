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

"""The calibrated memorization index: whitened features of several layers, their geometric mean, against a null.

Deo et al., A calibrated memorization index (MI) for detecting training data leakage in generative MRI models, arXiv
2602.13066; their code is github.com/YashDeo-York/Mem-index. They take blocks 3, 7 and 11 of MRI-CORE's encoder, a ViT-B
of SAM. Published AUC of copies: 1.000 as they are, 0.871 turned by up to 3 degrees, 0.758 by up to 5, 0.733 and 0.727
flipped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
from numpy.typing import NDArray

from .rival_networks import IMAGENET_MEAN, IMAGENET_STD, ColourFeatures, efficientnet, trusted
from .rivals import Images, SearchMethod

__all__ = ["LayerFeatures", "MemorizationIndex", "Whitening", "imagenet_index", "scripted_index"]

EPSILON = 1e-6  # of eqs. 2 and 4
FEW = 1e-8  # of eq. 5
# where the thirds of EfficientNet-Lite0 end, as blocks 3, 7, 11 of 12
THIRDS = ("_blocks.4", "_blocks.10", "_blocks.15")

Layers = Sequence[NDArray[np.float32]]  # features (N, D) of each layer


class LayerFeatures:
    """Features of images (N, H, W) from several layers of a network, averaged over space, (N, D) each.

    Args:
        network: colour images (B, 3, size, size) in; without `layers` it returns a tuple of features, (B, D) or
            (B, D, h, w). In evaluation mode.
        layers: names of modules of `network` whose outputs (B, D, h, w) are the features; none: what it returns.
        size, mean, std: as :class:`~scripts.studies.rival_networks.ColourFeatures` takes them.
        batch_size: images in a forward pass.
        device: where the network is.

    Raises:
        ValueError: if the network has no such layer.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[str] = (),
        size: int = 224,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        batch_size: int = 16,  # on a processor half of 64's time, as more stays in its cache
        device: torch.device | str = "cpu",
    ) -> None:
        names = {name for name, _ in network.named_modules()}
        if missing := [name for name in layers if name not in names]:
            raise ValueError(f"layers: expected names of the network's modules, found {missing}; name others")
        self.colour = ColourFeatures(network.eval(), size, mean, std).to(device)
        self.layers, self.batch_size, self.device = tuple(layers), batch_size, device
        self.known: dict[str, Layers] = {}  # every condition asks for the same training images

    def __call__(self, images: Images) -> Layers:
        key = hashlib.sha256(images.tobytes()).hexdigest()
        if key not in self.known:
            blocks = torch.from_numpy(np.ascontiguousarray(images)).split(self.batch_size)
            parts = [self._forward(block[:, None].to(self.device)) for block in blocks]
            self.known[key] = [torch.cat(layer).numpy() for layer in zip(*parts)]
        return self.known[key]

    @torch.no_grad()
    def _forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        network = self.colour.network
        hooks = [network.get_submodule(n).register_forward_hook(lambda *io: found.append(io[2])) for n in self.layers]
        output = network(self.colour.coloured(images))
        for hook in hooks:
            hook.remove()
        if not self.layers:
            found = list(output) if isinstance(output, tuple | list) else [output]
        return [(f.mean((2, 3)) if f.ndim == 4 else f).float().cpu() for f in found]


@dataclass(frozen=True)
class Whitening:
    """Zero-phase whitening (ZCA; Kessy et al., The American Statistician 72(4), 2018) of one layer's features.

    `mean` (D,) and `matrix` (D, D) are those of the training images.
    """

    mean: NDArray[np.float64]
    matrix: NDArray[np.float64]

    @classmethod
    def of(cls, features: NDArray) -> Whitening:
        """Return the whitening that features (N, D) have: eq. 2, (C + 1e-6 I)^(-1/2)."""
        values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(features.astype(float), rowvar=False)))
        scale = 1 / np.sqrt(np.maximum(values, 0) + EPSILON)  # rounding makes eigenvalues of 0 negative
        return cls(features.mean(0, dtype=float), (vectors * scale) @ vectors.T)

    def __call__(self, features: NDArray) -> NDArray[np.float64]:
        """Return features (N, D) whitened and of length 1."""
        white = (features - self.mean) @ self.matrix
        return white / np.maximum(np.linalg.norm(white, axis=1, keepdims=True), 1e-12)


def _geometric_mean(similarities: Sequence[NDArray]) -> NDArray[np.float64]:
    """Return eq. 4 of one similarity a layer; one below 0 counts as 0, where their code has no number."""
    return np.exp(np.mean([np.log(np.maximum(s, 0) + EPSILON) for s in similarities], axis=0))


@dataclass(frozen=True)
class MemorizationIndex(SearchMethod):
    """MI: standard deviations that a similarity lies above that of halves of the training images to each other.

    Theirs is of an image with its nearest training image in each layer, eqs. 3 and 4. Ours is of a pair, so all layers
    have to mean one training image; the null (eq. 5) is theirs, nearest neighbours. Their ONI, -tanh(MI), orders
    images the same way and is left out; thresholds are fitted as all others are.

    Attributes:
        features: of images (N, H, W), a list of (N, D), one a layer.
        halvings: draws of two halves for the null, 10 as published.
        seed: of these draws.
        whitening: of each layer, of `fit`.
        null: mean and standard deviation, of `fit`.
    """

    features: Callable[[Images], Layers]
    halvings: int = 10
    seed: int = 0
    whitening: Sequence[Whitening] = ()
    null: tuple[float, float] = (0.0, 1.0)

    def fit(self, references: Images) -> MemorizationIndex:
        if len(references) < 4:
            raise ValueError(f"expected at least 4 training images, whose halves make the null, got {len(references)}")
        layers = self.features(references)
        whitening = [Whitening.of(layer) for layer in layers]
        white = [w(layer) for w, layer in zip(whitening, layers)]
        rng, half, found = np.random.default_rng(self.seed), len(references) // 2, []
        for _ in range(self.halvings):
            order = rng.permutation(len(references))
            a, b = order[:half], order[half : 2 * half]
            found.append(_geometric_mean([(layer[a] @ layer[b].T).max(1) for layer in white]))
        null = float(np.mean(found)), float(np.sqrt(np.var(found) + FEW))
        return replace(self, whitening=whitening, null=null)

    def pairs(self, first: Images, second: Images) -> NDArray[np.float64]:
        return self._standard([(a * b).sum(1) for a, b in zip(self._white(first), self._white(second))])

    def matrix(self, queries: Images, references: Images) -> NDArray[np.float32]:
        layers = zip(self._white(queries), self._white(references))
        return self._standard([a @ b.T for a, b in layers]).astype(np.float32)

    def _white(self, images: Images) -> list[NDArray[np.float64]]:
        if not self.whitening:
            raise ValueError("expected fit(references) before scores, as features are whitened by theirs")
        return [w(layer) for w, layer in zip(self.whitening, self.features(images))]

    def _standard(self, similarities: Sequence[NDArray]) -> NDArray[np.float64]:
        return (_geometric_mean(similarities) - self.null[0]) / self.null[1]


def imagenet_index(
    path: str | Path | None, layers: Sequence[str] = THIRDS, device: torch.device | str = "cpu"
) -> MemorizationIndex | None:
    """Return the index of layers of EfficientNet-Lite0's ImageNet weights, which are not theirs; None for no weights.

    Needs the package efficientnet-lite-pytorch.
    """
    if path is None:
        return None
    network = efficientnet(path).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return MemorizationIndex(LayerFeatures(network, layers, device=device))


def scripted_index(
    path: str | Path | None,
    sha256: str | None,
    size: int,
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
    std: tuple[float, float, float] = (1.0, 1.0, 1.0),
    device: torch.device | str = "cpu",
) -> MemorizationIndex | None:
    """Return the index of a TorchScript network that returns a tuple of layers' features; None where none is given.

    With blocks 3, 7 and 11 of MRI-CORE it has the published features. SHA-256 as for
    :func:`~scripts.studies.rival_networks.scripted`.
    """
    if path is None:
        return None
    return MemorizationIndex(LayerFeatures(trusted(path, sha256, device), (), size, mean, std, device=device))
