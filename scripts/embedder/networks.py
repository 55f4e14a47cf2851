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

"""The DeepSSIM embedder: an image or a volume in, a unit vector out whose inner products are SSIM values."""

import itertools
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
        image: (N, 1, H, W) or (N, 1, D, H, W) in [0, 1].
        stabiliser: scalar that keeps noise of flat regions small, SSIM's second constant.
        window: odd side of the window in pixels; the border counts as zero.
    """
    mean = _box(image, window)
    variance = (_box(image * image, window) - mean * mean).clamp(min=0.0)
    return (image - mean) * torch.rsqrt(variance + stabiliser)


def _box(image: torch.Tensor, window: int) -> torch.Tensor:
    # differences of running sums: five times as fast as pooling, which does not vectorise over one channel
    half, dims = window // 2, image.dim() - 2
    sums = F.pad(image, [half + 1, half] * dims).float()
    for axis in range(image.dim() - 1, 1, -1):
        sums = sums.cumsum(axis)
        length = sums.shape[axis] - window
        sums = sums.narrow(axis, window, length) - sums.narrow(axis, 0, length)
    return sums / window**dims


class Estimate(NamedTuple):
    """Where :class:`DeepSSIM` believes an image to lie: all matrices map upright to given positions, as :func:`warp`.

    There are O orientations: as given, and mirrored along some of the axes (of an image: rows, columns, both).

    Attributes:
        scores: (N, O) logits of the orientations.
        coarse: (N, O, 2, 3) similarity transforms, one for each orientation; of volumes (N, O, 3, 4).
        chosen: (N, K) the orientations followed, likeliest first.
        refined: (N, K, 2, 3) or (N, K, 3, 4), their refined transforms.
    """

    scores: torch.Tensor
    coarse: torch.Tensor
    chosen: torch.Tensor
    refined: torch.Tensor


class _Regressor(nn.Module):
    """A small convolutional network that keeps positions to the end: (N, 1, *spatial_size) -> (N, outputs)."""

    def __init__(self, spatial_size: Sequence[int], channels: Sequence[int], last: int, hidden: int, outputs: int):
        super().__init__()
        layers: list[nn.Module] = []
        size, before = list(spatial_size), 1
        relu = ("relu", {"inplace": True})  # a second tensor for each costs a tenth of the network's time
        for number, width in enumerate(channels):
            kernel = 5 if number == 0 else 3
            layers.append(
                Convolution(len(size), before, width, 2, kernel, adn_ordering="NA", act=relu, norm="batch", bias=False)
            )
            size, before = [(n + 1) // 2 for n in size], width
        layers.append(Convolution(len(size), before, last, 1, 1, adn_ordering="NA", act=relu, norm="batch", bias=False))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(last * math.prod(size), hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outputs)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x)).float()


class _Unshuffle3d(nn.Module):
    """Half the size, with the voxels of each 2 x 2 x 2 as channels: ``nn.PixelUnshuffle(2)`` of volumes of one channel.

    MONAI's ``pixelunshuffle`` cannot be exported to TorchScript.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, d, h, w = x.shape[0], x.shape[2] // 2, x.shape[3] // 2, x.shape[4] // 2
        return x.view(n, d, 2, h, 2, w, 2).permute(0, 2, 4, 6, 1, 3, 5).reshape(n, 8, d, h, w)


class _Shuffle3d(nn.Module):
    """The inverse of :class:`_Unshuffle3d`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, d, h, w = x.shape[0], x.shape[2], x.shape[3], x.shape[4]
        return x.reshape(n, 2, 2, 2, d, h, w).permute(0, 4, 1, 5, 2, 6, 3).reshape(n, 1, 2 * d, 2 * h, 2 * w)


class DeepSSIM(nn.Module):
    """Embed images (N, 1, H, W), or volumes (N, 1, D, H, W), in [0, 1] as unit vectors (N, embedding_dim), float32.

    SSIM compares images pixel by pixel, so a network whose embedding is to predict it under misalignment has to find
    out how the image lies and to keep where things are. This one estimates orientation, rotation, scale and shift
    of the image on its own (a spatial transformer, Jaderberg et al. 2015, in two steps), undoes them, normalises
    contrast locally as SSIM does, and projects. An orientation that is not clear, as left and right of a head, is
    followed with its weight, along with the next likeliest. All orientations are looked at alike, so the
    embedding of a mirrored image is the same by construction.

    Args:
        spatial_size: sides of the images, two even numbers, or of the volumes, three.
        embedding_dim: length of the vectors. The last number is a constant share of their length, which stands for the
            SSIM that unrelated images have; the others are the projection.
        channels: features of the pose networks' stages, each half the size of the one before.
        hidden: width of their last hidden layer.
        filters: features of the filter before the normalisation.
        orientations: orientations followed, at most 2 ** len(mirrored_axes).
        window: side of the normalisation's window in pixels.
        mirrored_axes: axes along which an image may be mirrored.
        patch: side of the patches that stand for their pixels in the projection, which would else be too large for
            volumes; divides `spatial_size`. 1: the pixels themselves.
        patch_features: numbers that a patch becomes.
    """

    spatial_size: list[int]  # for TorchScript
    mirrored_axes: list[int]
    flips: list[list[int]]

    def __init__(
        self,
        spatial_size: Sequence[int] = (96, 112),
        embedding_dim: int = 384,
        channels: Sequence[int] = (24, 48, 64),
        hidden: int = 256,
        filters: int = 24,
        orientations: int = 2,
        window: int = 7,
        mirrored_axes: Sequence[int] = (0, 1),
        patch: int = 1,
        patch_features: int = 8,
    ) -> None:
        super().__init__()
        dims = len(spatial_size)
        if dims not in (2, 3) or any(n % 2 or n % patch for n in spatial_size):
            raise ValueError(
                f"spatial_size: expected two or three even numbers, multiples of patch, found {list(spatial_size)}; "
                "change it"
            )
        self.spatial_size = [int(n) for n in spatial_size]
        self.mirrored_axes = [int(axis) for axis in mirrored_axes]
        self.orientations, self.window, self.patch = orientations, window, patch
        flips = itertools.product((0, 1), repeat=len(mirrored_axes))
        # as tensor axes; the first of `mirrored_axes` counts 1, the second 2
        self.flips = [[a + 2 for a, flip in zip(mirrored_axes, which[::-1]) if flip] for which in flips]
        freedom = 1 + dims + dims * (dims - 1) // 2
        half = [n // 2 for n in spatial_size]
        self.coarse = _Regressor(half, channels, channels[-1], hidden // 2, freedom + 1)
        self.refine = _Regressor(spatial_size, channels, channels[-1] // 2, hidden, freedom)
        # at half size, its pixels as channels: as good as full size and a fraction of its time
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        last = convolution(filters, 2**dims, 3, padding=1)
        for parameter in last.parameters():  # nothing is changed at first
            nn.init.zeros_(parameter)
        self.filter = nn.Sequential(
            nn.PixelUnshuffle(2) if dims == 2 else _Unshuffle3d(),
            convolution(2**dims, filters, 3, padding=1),
            nn.ReLU(inplace=True),
            convolution(filters, filters, 3, padding=1),
            nn.ReLU(inplace=True),
            last,
            nn.PixelShuffle(2) if dims == 2 else _Shuffle3d(),
        )
        self.log_stabiliser = nn.Parameter(torch.tensor(2 * math.log(0.03)))  # SSIM's c2 for images in [0, 1]
        self.constant = nn.Parameter(torch.tensor(0.3))
        pixels = math.prod(spatial_size)
        self.patches = nn.Identity() if patch == 1 else convolution(1, patch_features, patch, stride=patch, bias=False)
        width = pixels if patch == 1 else pixels // patch**dims * patch_features
        self.projection = nn.Linear(width, embedding_dim - 1, bias=False)
        # a random projection keeps inner products; `fit_projection` starts from a better one
        nn.init.normal_(self.projection.weight, std=width**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.embed(x)[0]

    def embed(self, x: torch.Tensor) -> tuple[torch.Tensor, Estimate]:
        """Return the embedding and the estimate of where the images lie, for training."""
        if list(x.shape[1:]) != [1] + self.spatial_size:
            raise ValueError(
                f"images: expected (N, 1) times {self.spatial_size}, found {list(x.shape)}; change spatial_size of the "
                "preprocessing or of the network"
            )
        features, estimate = self.upright(x.float())
        blended = features.sum(1, keepdim=True)
        vector = self.projection(self.patches(blended).flatten(1)).float()
        vector = torch.cat(
            [vector, self.constant * (torch.linalg.vector_norm(vector, dim=1, keepdim=True) + 1e-6)], dim=1
        )
        return F.normalize(vector, dim=1), estimate

    def upright(self, x: torch.Tensor) -> tuple[torch.Tensor, Estimate]:
        """Return the features of the followed orientations, upright and weighted, and the estimate.

        The features, (N, K, *spatial_size), add up to what the projection takes.
        """
        views, estimate = self._pose(x)
        upright = warp(views, estimate.refined.flatten(0, 1))  # (N K, 1, *spatial_size)
        features = self._features(upright).view([x.shape[0], self.orientations] + self.spatial_size)
        weight = estimate.scores.gather(1, estimate.chosen).softmax(dim=1)
        return features * weight.view([x.shape[0], self.orientations] + [1] * len(self.spatial_size)), estimate

    def _pose(self, x: torch.Tensor) -> tuple[torch.Tensor, Estimate]:
        """Return the followed orientations of the images, (N K, 1, *spatial_size), and the estimate."""
        number, dims = x.shape[0], len(self.spatial_size)
        small = F.avg_pool2d(x, 2) if dims == 2 else F.avg_pool3d(x, 2)
        every = torch.stack([small.flip(axes) for axes in self.flips], dim=1).flatten(0, 1)
        found = self.coarse(every).view(number, len(self.flips), -1)
        scores = found[:, :, -1]
        coarse = _similarity(found[:, :, :-1].flatten(0, 1)).view(number, len(self.flips), dims, dims + 1)
        chosen = scores.topk(self.orientations, dim=1)[1]
        row = torch.arange(number, device=x.device)[:, None]
        views = torch.stack([x.flip(axes) for axes in self.flips], dim=1)  # (N, O, 1, *spatial_size)
        followed = views[row, chosen].flatten(0, 1)
        # the second step learns from what the first left over, and does not teach it
        start = coarse[row, chosen].flatten(0, 1).detach()
        refined = _compose(start, _similarity(0.5 * self.refine(warp(followed, start))))
        return followed, Estimate(scores, coarse, chosen, refined.view(number, self.orientations, dims, dims + 1))

    def _features(self, upright: torch.Tensor) -> torch.Tensor:
        filtered = upright + self.filter(upright).float()
        return local_normalize(filtered, self.log_stabiliser.exp(), self.window)

    @torch.no_grad()
    def fit_projection(self, images: torch.Tensor) -> None:
        """Set the projection to the principal components of the given images (N, 1, H, W), taken as upright.

        The directions in which training images differ; those beyond the number of images stay random. Patches, where
        there are any, become their own principal components first.
        """
        device = self.projection.weight.device
        features = torch.cat([self._features(block.to(device, torch.float32)) for block in images.split(64)])
        if self.patch > 1:
            cut = features
            for axis in range(2, features.ndim):  # (N, 1, D / p, H / p, W / p, p, p, p)
                cut = cut.unfold(axis, self.patch, self.patch)
            pixels = self.patch ** len(self.spatial_size)
            patches = cut.reshape(-1, pixels)
            strongest = torch.linalg.eigh(patches.T @ patches)[1].flip(1)  # (pixels, pixels), a column each
            for weight in self.patches.parameters():
                weight.copy_(strongest[:, : len(weight)].T.reshape(weight.shape))
            features = self.patches(features)
        features = features.flatten(1)
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
    """Return matrices (N, 2, 3) of rotation, log scale and shift in units of 0.3 rad, 0.1 and 6 pixels, (N, 4).

    Or (N, 3, 4) of a rotation about a vector, the same scale and shift, (N, 7).
    """
    if parameters.shape[1] == 4:
        angle, scale = 0.3 * parameters[:, 0], torch.exp(0.1 * parameters[:, 1])
        c, s, shift = scale * torch.cos(angle), scale * torch.sin(angle), 6.0 * parameters[:, 2:]
        return torch.stack([torch.stack([c, -s, shift[:, 0]], 1), torch.stack([s, c, shift[:, 1]], 1)], 1)
    turn, scale, shift = 0.3 * parameters[:, :3], torch.exp(0.1 * parameters[:, 3]), 6.0 * parameters[:, 4:]
    x, y, z = turn[:, 0], turn[:, 1], turn[:, 2]
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).view(-1, 3, 3)
    square = (turn * turn).sum(1)
    angle = (square + 1e-12).sqrt()
    one = torch.eye(3, device=turn.device)
    twice = turn[:, :, None] * turn[:, None] - square[:, None, None] * one  # the cross product's square
    # Rodrigues: sin(a) / a and (1 - cos(a)) / a^2, whole at 0
    rotation = (
        one
        + torch.sinc(angle / math.pi)[:, None, None] * cross
        + 0.5 * torch.sinc(angle / (2 * math.pi))[:, None, None] ** 2 * twice
    )
    return torch.cat([scale[:, None, None] * rotation, shift[:, :, None]], 2)


def _compose(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return first(second(x)) for maps (N, 2, 3) or (N, 3, 4), in float32 under autocast too."""
    dims = first.shape[1]
    linear = (first[:, :, :dims, None] * second[:, None, :, :]).sum(2)
    return torch.cat([linear[:, :, :dims], linear[:, :, dims:] + first[:, :, dims:]], dim=2)
