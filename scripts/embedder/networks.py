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

"""The DeepSSIM embedder: an image in, a unit vector out whose inner products are SSIM values."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.blocks import Convolution

from ..images.geometry import warp

__all__ = ["DeepSSIM", "Estimate", "Posed", "local_normalize"]


def local_normalize(image: torch.Tensor, stabiliser: torch.Tensor, window: int = 7) -> torch.Tensor:
    """Return (image - m) / sqrt(s^2 + stabiliser) with mean m and variance s^2 of the window around each pixel.

    The inner product of two such images is, up to the choice of the window's centre, the structure term of SSIM
    summed over all windows (Wang et al. 2004, eq. 10), and no smooth change of contrast or light moves it.

    Args:
        image: (N, 1, H, W) in [0, 1].
        stabiliser: scalar that keeps noise of flat regions small, SSIM's second constant.
        window: odd side of the window in pixels; the border counts as zero.
    """
    mean = _box(image, window)
    variance = (_box(image * image, window) - mean * mean).clamp(min=0.0)
    return (image - mean) * torch.rsqrt(variance + stabiliser)


def _box(image: torch.Tensor, window: int) -> torch.Tensor:
    # differences of running sums: five times as fast as pooling, which does not vectorise over one channel
    half = window // 2
    sums = F.pad(image, [half + 1, half, half + 1, half]).float().cumsum(3)
    sums = (sums[..., window:] - sums[..., :-window]).cumsum(2)
    return (sums[:, :, window:] - sums[:, :, :-window]) / window**2


class Estimate(NamedTuple):
    """Where :class:`DeepSSIM` believes an image to lie: all matrices map upright to given positions, as :func:`warp`.

    Attributes:
        scores: (N, 4) logits of the orientations: as given, rows reversed, columns reversed, both.
        coarse: (N, 4, 2, 3) similarity transforms, one for each orientation.
        chosen: (N, K) the orientations followed, likeliest first.
        refined: (N, K, 2, 3) their refined transforms.
    """

    scores: torch.Tensor
    coarse: torch.Tensor
    chosen: torch.Tensor
    refined: torch.Tensor


class _Regressor(nn.Module):
    """A small convolutional network that keeps positions to the end: (N, 1, H, W) -> (N, outputs)."""

    def __init__(self, spatial_size: Sequence[int], channels: Sequence[int], last: int, hidden: int, outputs: int):
        super().__init__()
        layers: list[nn.Module] = []
        size, before = list(spatial_size), 1
        for number, width in enumerate(channels):
            kernel = 5 if number == 0 else 3
            layers.append(
                Convolution(2, before, width, 2, kernel, adn_ordering="NA", act="relu", norm="batch", bias=False)
            )
            size, before = [(n + 1) // 2 for n in size], width
        layers.append(Convolution(2, before, last, 1, 1, adn_ordering="NA", act="relu", norm="batch", bias=False))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(last * math.prod(size), hidden), nn.ReLU(), nn.Linear(hidden, outputs)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x)).float()


class DeepSSIM(nn.Module):
    """Embed images (N, 1, H, W) in [0, 1] as unit vectors (N, embedding_dim), float32.

    SSIM compares images pixel by pixel, so a network whose embedding is to predict it under misalignment has to find
    out how the image lies and to keep where things are. This one estimates orientation, rotation, scale and shift
    of the image on its own (a spatial transformer, Jaderberg et al. 2015, in two steps), undoes them, normalises
    contrast locally as SSIM does, and projects. An orientation that is not clear, as left and right of a head, is
    followed with its weight, along with the next likeliest. All four orientations are looked at alike, so the
    embedding of a mirrored image is the same by construction.

    Args:
        spatial_size: rows and columns of the images, even numbers.
        embedding_dim: length of the vectors. The last number is a constant share of their length, which stands for the
            SSIM that unrelated images have; the others are the projection.
        channels: features of the pose networks' stages, each half the size of the one before.
        hidden: width of their last hidden layer.
        filters: features of the filter before the normalisation.
        orientations: orientations followed, 1 to 4.
        window: side of the normalisation's window in pixels.
    """

    def __init__(
        self,
        spatial_size: Sequence[int] = (96, 112),
        embedding_dim: int = 384,
        channels: Sequence[int] = (24, 48, 64),
        hidden: int = 256,
        filters: int = 24,
        orientations: int = 2,
        window: int = 7,
    ) -> None:
        super().__init__()
        if any(n % 2 for n in spatial_size) or len(spatial_size) != 2:
            raise ValueError(f"spatial_size: expected two even numbers, found {list(spatial_size)}; change it")
        self.height, self.width = int(spatial_size[0]), int(spatial_size[1])
        self.orientations, self.window = orientations, window
        half = [n // 2 for n in spatial_size]
        self.coarse = _Regressor(half, channels, channels[-1], hidden // 2, 5)
        self.refine = _Regressor(spatial_size, channels, channels[-1] // 2, hidden, 4)
        # at half size, four pixels as channels: as good as full size and a quarter of its time
        last = nn.Conv2d(filters, 4, 3, padding=1)
        for parameter in last.parameters():  # nothing is changed at first
            nn.init.zeros_(parameter)
        self.filter = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4, filters, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(filters, filters, 3, padding=1),
            nn.ReLU(),
            last,
            nn.PixelShuffle(2),
        )
        self.log_stabiliser = nn.Parameter(torch.tensor(2 * math.log(0.03)))  # SSIM's c2 for images in [0, 1]
        self.constant = nn.Parameter(torch.tensor(0.3))
        self.projection = nn.Linear(self.height * self.width, embedding_dim - 1, bias=False)
        # a random projection keeps inner products; `fit_projection` starts from a better one
        nn.init.normal_(self.projection.weight, std=(self.height * self.width) ** -0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.embed(x)[0]

    def embed(self, x: torch.Tensor) -> tuple[torch.Tensor, Estimate]:
        """Return the embedding and the estimate of where the images lie, for training."""
        if x.shape[1] != 1 or x.shape[-2] != self.height or x.shape[-1] != self.width:
            raise ValueError(
                f"images: expected (N, 1, {self.height}, {self.width}), found {list(x.shape)}; change spatial_size of "
                "the preprocessing or of the network"
            )
        x = x.float()
        views, estimate = self._pose(x)
        upright = warp(views, estimate.refined.flatten(0, 1))  # (N K, 1, H, W)
        features = self._features(upright).view(x.shape[0], self.orientations, -1)
        weight = estimate.scores.gather(1, estimate.chosen).softmax(dim=1)
        vector = self.projection((features * weight[:, :, None]).sum(1)).float()
        vector = torch.cat(
            [vector, self.constant * (torch.linalg.vector_norm(vector, dim=1, keepdim=True) + 1e-6)], dim=1
        )
        return F.normalize(vector, dim=1), estimate

    def _pose(self, x: torch.Tensor) -> tuple[torch.Tensor, Estimate]:
        """Return the followed orientations of the images, (N K, 1, H, W), and the estimate."""
        number = x.shape[0]
        views = torch.stack([x, x.flip(2), x.flip(3), x.flip(2).flip(3)], dim=1)  # (N, 4, 1, H, W)
        found = self.coarse(F.avg_pool2d(views.flatten(0, 1), 2)).view(number, 4, 5)
        scores = found[:, :, 4]
        coarse = _similarity(found[:, :, :4].flatten(0, 1)).view(number, 4, 2, 3)
        chosen = scores.topk(self.orientations, dim=1)[1]
        row = torch.arange(number, device=x.device)[:, None]
        followed = views[row, chosen].flatten(0, 1)
        # the second step learns from what the first left over, and does not teach it
        start = coarse[row, chosen].flatten(0, 1).detach()
        refined = _compose(start, _similarity(0.5 * self.refine(warp(followed, start))))
        return followed, Estimate(scores, coarse, chosen, refined.view(number, self.orientations, 2, 3))

    def _features(self, upright: torch.Tensor) -> torch.Tensor:
        filtered = upright + self.filter(upright).float()
        return local_normalize(filtered, self.log_stabiliser.exp(), self.window).flatten(1)

    @torch.no_grad()
    def fit_projection(self, images: torch.Tensor) -> None:
        """Set the projection to the principal components of the given images (N, 1, H, W), taken as upright.

        The directions in which training images differ; those beyond the number of images stay random.
        """
        features = self._features(images.to(self.projection.weight.device, torch.float32))
        rank = min(self.projection.out_features, *features.shape)
        wide = min(rank + 64, *features.shape)  # more than asked for: the last components of a sketch are poor
        self.projection.weight[:rank] = torch.svd_lowrank(features, wide, niter=4)[2][:, :rank].T


class Posed(nn.Module):
    """A network for training: embedding and :class:`Estimate` of :meth:`DeepSSIM.embed`, of which the network's own
    forward keeps the embedding alone.

    Raises:
        ValueError: for a network without that method.
    """

    def __init__(self, network: DeepSSIM) -> None:
        super().__init__()
        if not hasattr(network, "embed"):
            raise ValueError(
                f"network_def {type(network).__name__}: expected a network that estimates where images lie, found one "
                "without `embed`; train it with configs/train_plain.yaml"
            )
        self.network = network

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Estimate]:
        return self.network.embed(x)


def _similarity(parameters: torch.Tensor) -> torch.Tensor:
    """Return matrices (N, 2, 3) of rotation, log scale and shift in units of 0.3 rad, 0.1 and 6 pixels, (N, 4)."""
    angle, scale = 0.3 * parameters[:, 0], torch.exp(0.1 * parameters[:, 1])
    c, s, shift = scale * torch.cos(angle), scale * torch.sin(angle), 6.0 * parameters[:, 2:]
    return torch.stack([torch.stack([c, -s, shift[:, 0]], 1), torch.stack([s, c, shift[:, 1]], 1)], 1)


def _compose(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return first(second(x)) for maps (N, 2, 3), in float32 under autocast too."""
    linear = (first[:, :, :2, None] * second[:, None, :, :]).sum(2)  # (N, 2, 3)
    return torch.cat([linear[:, :, :2], linear[:, :, 2:] + first[:, :, 2:]], dim=2)
