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

"""FSIM: how alike images are in phase congruency and gradient.

Zhang et al., FSIM: a feature similarity index for image quality assessment, IEEE TIP 20(8), 2011, with the phase
congruency of Kovesi, Image features from phase congruency, Videre 1(3), 1999. Written from these formulas; where the
papers leave a choice, it is that of the authors' FeatureSIM.m. The tests hold values of another implementation.
"""

from __future__ import annotations

import functools
import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from ..similarity.kernels import in_parts, kernel
from .rivals import Images, SearchMethod

__all__ = ["FSIM", "Features", "features", "phase_congruency"]

T1, T2 = np.float32(0.85), np.float32(160)  # eqs. 4 and 5, for grey values 0 to 255
SCALES, ORIENTATIONS = 4, 4
SHORTEST, FACTOR = 6.0, 2.0  # wavelength of the first scale in pixels, and from one scale to the next
BANDWIDTH = 0.55  # of a log-Gabor filter: its deviation over its centre frequency
SPREAD = np.pi / ORIENTATIONS / 1.2  # radians; deviation of a filter over orientations
CUTOFF, ORDER = 0.45, 15  # of the low pass, which takes the corners of the spectrum out
NOISE_DEVIATIONS, NOISE_SCALE = 2.0, 1.7  # k of Kovesi's eq. 14, and what his code divides the threshold by
SIDE = 256  # pixels; larger images are averaged down to about it
BLOCK = 64  # images whose filter responses are in memory at a time
SCHARR = np.array([[3.0, 0.0, -3.0], [10.0, 0.0, -10.0], [3.0, 0.0, -3.0]]) / 16


class Features(NamedTuple):
    """What FSIM compares: phase congruency in [0, 1] and gradient magnitude of grey values 0 to 255, (N, P) each."""

    congruency: NDArray[np.float32]
    gradient: NDArray[np.float32]


@functools.cache
def _filters(height: int, width: int) -> NDArray[np.float32]:
    """Return the log-Gabor filters (orientations, scales, H, W), the frequency 0 first."""
    y, x = np.meshgrid(fft.fftfreq(height), fft.fftfreq(width), indexing="ij")
    radius = np.hypot(y, x)
    radius[0, 0] = 1  # whose logarithm is 0; the filters are set there
    centres = 1 / (SHORTEST * FACTOR ** np.arange(SCALES))
    radial = np.exp(-(np.log(radius / centres[:, None, None]) ** 2) / (2 * np.log(BANDWIDTH) ** 2))
    radial *= 1 / (1 + (radius / CUTOFF) ** (2 * ORDER))
    radial[:, 0, 0] = 0
    angles = np.arange(ORIENTATIONS)[:, None, None] * np.pi / ORIENTATIONS
    distance = np.abs(np.angle(np.exp(1j * (np.arctan2(-y, x) - angles))))
    return (radial[None] * np.exp(-(distance**2) / (2 * SPREAD**2))[:, None]).astype(np.float32)


def phase_congruency(images: NDArray) -> NDArray[np.float32]:
    """Return how far the phases of all scales agree, (N, H, W) in [0, 1], of grey values (N, H, W) of 0 to 255.

    0 of a constant image.

    Kovesi 1999, eq. 14 without its weighting of the frequency spread, as FSIM takes it.
    """
    filters = _filters(*images.shape[1:])
    # no filter passes a constant: without the first pixel's value a constant image is 0 to the last digit
    spectrum = fft.fft2(np.asarray(images - images[:, :1, :1], np.float32))
    energy, amplitude = np.zeros((2, *images.shape), np.float32)
    for bank in filters:  # an orientation
        response = fft.ifft2(spectrum[:, None] * bank)  # (N, scales, H, W), its parts the even and the odd filter's
        amplitudes = np.abs(response)
        amplitude += amplitudes.sum(1)
        total = response.sum(1)
        mean = total / (np.abs(total) + 1e-4)
        product = response * mean.conj()[:, None]
        agreeing = (product.real - np.abs(product.imag)).sum(1)
        # noise has a Rayleigh distributed energy; its scale comes from the median response of the finest filter
        power = np.median(amplitudes[:, 0] ** 2, axis=(1, 2)) / np.log(2) / (bank[0] ** 2).sum()
        expected = power * (fft.ifft2(bank).real.sum(0) ** 2).sum() * bank[0].size
        threshold = np.sqrt(expected) * (np.sqrt(np.pi / 2) + NOISE_DEVIATIONS * np.sqrt(2 - np.pi / 2)) / NOISE_SCALE
        energy += np.maximum(agreeing - threshold[:, None, None], 0)
    return energy / (amplitude + 1e-4)


def features(images: Images) -> Features:
    """Return what FSIM compares, of images (N, H, W) in [0, 1]."""
    parts = [_features(images[start : start + BLOCK]) for start in range(0, len(images), BLOCK)]
    return Features(*(np.concatenate(maps) for maps in zip(*parts)))


def _features(images: Images) -> Features:
    grey = 255 * images.astype(np.float32)
    step = max(1, round(min(grey.shape[1:]) / SIDE))
    if step > 1:
        height, width = (side // step * step for side in grey.shape[1:])
        grey = grey[:, :height, :width].reshape(len(grey), height // step, step, width // step, step).mean((2, 4))
    slopes = [ndimage.convolve(grey, each[None], mode="constant") for each in (SCHARR, SCHARR.T)]
    maps = phase_congruency(grey), np.hypot(*slopes)
    return Features(*(each.reshape(len(grey), -1).astype(np.float32) for each in maps))


@kernel(fastmath=True)
def _fsim(
    start: int,
    stop: int,
    congruency: NDArray,
    gradient: NDArray,
    other_congruency: NDArray,
    other_gradient: NDArray,
    first: NDArray,
    second: NDArray,
    out: NDArray,
) -> None:
    """Fill the FSIM of row first[p] of one set and second[p] of the other: Zhang et al., eqs. 4 to 8."""
    for p in range(start, stop):
        i, j = first[p], second[p]
        alike, weight = np.float32(0), np.float32(0)
        for k in range(congruency.shape[1]):
            a, b = congruency[i, k], other_congruency[j, k]
            g, h = gradient[i, k], other_gradient[j, k]
            larger = max(a, b)
            both = (np.float32(2) * a * b + T1) * (np.float32(2) * g * h + T2)
            alike += larger * both / ((a * a + b * b + T1) * (g * g + h * h + T2))
            weight += larger
        out[p] = alike / weight if weight > 0 else np.float32(0)


class FSIM(SearchMethod):
    """Feature similarity, in [0, 1] and 1 for equal images; 0 where neither image shows anything."""

    def __init__(self) -> None:
        empty = np.empty((0, 0), np.float32)
        self.last = "", Features(empty, empty)  # the references searched last: every condition asks for the same

    def pairs(self, first: Images, second: Images) -> NDArray[np.float64]:
        rows = np.arange(len(first))
        return self._of_rows(features(first), features(second), rows, rows).astype(float)

    def matrix(self, queries: Images, references: Images) -> NDArray[np.float32]:
        key = hashlib.sha256(references.tobytes()).hexdigest()
        if key != self.last[0]:  # of one set alone: they are twice as large as the images
            self.last = key, features(references)
        rows, columns = (i.ravel() for i in np.indices((len(queries), len(references))))
        return self._of_rows(features(queries), self.last[1], rows, columns).reshape(len(queries), -1)

    @staticmethod
    def _of_rows(one: Features, other: Features, first: NDArray, second: NDArray) -> NDArray[np.float32]:
        shapes = one.congruency.shape[1], other.congruency.shape[1]
        if shapes[0] != shapes[1]:
            raise ValueError(f"expected images of one size to compare, found {shapes[0]} and {shapes[1]} pixels")
        out = np.empty(len(first), np.float32)
        in_parts(_fsim, len(first), *one, *other, first, second, out)
        return out
