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

"""Blur and noise that make real images as soft and as noisy as generated ones, so that the null is a fair one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from monai.networks.nets import AutoencoderKL
from monai.networks.utils import eval_mode
from numpy.typing import NDArray
from scipy import ndimage

from ..images.foreground import foreground

__all__ = ["Degradation", "RoundTrip", "band_energies", "match_degradation"]


BAND_SIGMAS = (0.0, 0.6, 1.2, 2.4, 4.8)  # pixels; the last band is the reference that the others are divided by
BLURS = (0.0, 0.3, 0.45, 0.6, 0.75, 0.9, 1.1, 1.3, 1.6, 2.0)  # pixels
NOISES = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1)  # of the intensity range
SAMPLE = {2: 48, 3: 8}  # images of each set, or volumes, whose band energies are looked at
Change = Callable[[NDArray, np.random.RandomState], NDArray]


@dataclass(frozen=True)
class Degradation:
    """Gaussian blur of `blur` pixels, then Gaussian noise of standard deviation `noise`; images stay in [0, 1].

    `before`, if given, changes the images (N, H, W) first, as :class:`RoundTrip` does.
    """

    blur: float = 0.0
    noise: float = 0.0
    before: Change | None = None

    def __post_init__(self) -> None:
        if self.blur < 0 or self.noise < 0:
            raise ValueError(f"blur and noise must not be negative, got {self.blur} and {self.noise}")

    @property
    def nothing(self) -> bool:
        """True if images pass unchanged."""
        return self.blur == 0 and self.noise == 0 and self.before is None

    def __call__(self, images: NDArray, rng: np.random.RandomState) -> NDArray[np.float32]:
        """Return degraded images (N, H, W), or volumes (N, X, Y, Z)."""
        images = np.asarray(images, np.float32)
        if images.ndim not in (3, 4):
            raise ValueError(f"images must be (N, H, W) or (N, X, Y, Z), got {images.shape}")
        if self.before is not None:
            images = np.asarray(self.before(images, rng), np.float32)
        if self.blur:
            images = ndimage.gaussian_filter(images, self.blur, axes=tuple(range(1, images.ndim)))
        if self.noise:
            images = images + self.noise * rng.normal(size=images.shape).astype(np.float32)
        return images.clip(0, 1)


class RoundTrip:
    """Encodes and decodes real images by the generator's own autoencoder, so that they bear its marks too.

    Args:
        autoencoder: has ``reconstruct``, as MONAI's ``AutoencoderKL``: images (B, 1, H, W) in [0, 1], as the audit sees
            them, to the same.
        device: of the autoencoder.
        batch_size: images at a time.
    """

    def __init__(self, autoencoder: AutoencoderKL, device: torch.device | str = "cpu", batch_size: int = 64) -> None:
        self.autoencoder = autoencoder.to(device)
        self.device, self.batch_size = device, batch_size

    def __call__(self, images: NDArray, rng: np.random.RandomState) -> NDArray[np.float32]:
        """Return what the autoencoder makes of images (N, H, W)."""
        parts = torch.from_numpy(np.asarray(images, np.float32))[:, None].split(self.batch_size)
        with eval_mode(self.autoencoder):
            made = [self.autoencoder.reconstruct(part.to(self.device)).float().cpu() for part in parts if len(part)]
        out = torch.cat(made)[:, 0].numpy() if made else np.asarray(images, np.float32)
        if out.shape != images.shape:
            raise ValueError(f"expected reconstructions of shape {images.shape}, got {out.shape}; crop or pad them")
        return out.clip(0, 1)


def band_energies(images: NDArray) -> NDArray[np.float64]:
    """Return the log energy of each band of scales inside the foreground relative to the coarsest, (N, bands - 1).

    Bands are differences of Gaussians; blur lowers the fine ones, noise raises them; contrast cancels.
    """
    images = np.ascontiguousarray(images, np.float32)
    inside = _inside(images)
    return _log_ratios(np.stack([_energy(band, band, inside) for band in _bands(images)], axis=1))


def _bands(images: NDArray) -> list[NDArray[np.float32]]:
    """Return the differences of Gaussians, fine to coarse, of the images' shape each."""
    smooth = [ndimage.gaussian_filter(images, s, axes=tuple(range(1, images.ndim))) for s in BAND_SIGMAS]
    return [fine - coarse for fine, coarse in zip(smooth, smooth[1:])]


def _inside(images: NDArray) -> NDArray[np.bool_]:
    """Return the foreground without its outline, which is no texture."""
    axes = images.ndim - 1
    return ndimage.binary_erosion(foreground(torch.from_numpy(images), dims=axes).numpy(), np.ones((1, *[5] * axes)))


def _energy(first: NDArray, second: NDArray, inside: NDArray) -> NDArray[np.float64]:
    """Return the mean product of two bands inside, (N,); of a band with itself, its energy."""
    first, second, inside = (a.reshape(len(a), math.prod(a.shape[1:])) for a in (first, second, inside))
    return np.einsum("ni,ni,ni->n", first, second, inside) / np.maximum(inside.sum(1), 1)


def _log_ratios(energy: NDArray) -> NDArray[np.float64]:
    """Return the logs (..., bands - 1) of energies (..., bands) relative to the coarsest's."""
    logs = np.log(np.maximum(energy, 0) + 1e-9)
    return logs[..., :-1] - logs[..., -1:]


def match_degradation(
    real: NDArray,
    generated: NDArray,
    rng: np.random.RandomState,
    sample: int | None = None,
    before: Change | None = None,
) -> Degradation:
    """Return the blur and noise after which real images have the generated ones' median band energies.

    Real images pass `before` first, if it is given; the result does the same.

    The best of a grid, on at most `sample` images of each set (N, H, W), by default 48, or volumes (N, X, Y, Z), 8; the
    cost does not grow with the sets. Bands are linear, so each blur is filtered once, the noise once, and the
    energies of all their sums follow.
    """
    if len(real) == 0 or len(generated) == 0:
        raise ValueError(f"real and generated must hold images, got {len(real)} and {len(generated)}")
    sample = SAMPLE[real.ndim - 1] if sample is None else sample
    target = np.median(band_energies(_draw(generated, sample, rng)), axis=0)
    base = _draw(real, sample, rng)
    base = base if before is None else before(base, rng)
    noise_bands = _bands(rng.normal(size=base.shape).astype(np.float32))
    best, lowest = Degradation(), np.inf
    for blur in BLURS:
        image = Degradation(blur)(base, rng)
        inside = _inside(image)
        pairs = list(zip(_bands(image), noise_bands))
        signal, cross, noise = (
            np.stack([_energy(pair[i], pair[j], inside) for pair in pairs], axis=1) for i, j in ((0, 0), (0, 1), (1, 1))
        )
        for level in NOISES:
            found = np.median(_log_ratios(signal + 2 * level * cross + level**2 * noise), axis=0)
            distance = float(((found - target) ** 2).sum())
            if distance < lowest:
                best, lowest = Degradation(blur, level), distance
    return replace(best, before=before)


def _draw(images: NDArray, count: int, rng: np.random.RandomState) -> NDArray:
    return images if len(images) <= count else images[np.sort(rng.choice(len(images), count, replace=False))]
