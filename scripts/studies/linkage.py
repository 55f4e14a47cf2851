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

"""Linkage without training: register, harmonise the intensities, and compare by several similarities.

Sharma et al., Simple image processing and similarity measures can link data samples across databases through brain MRI,
arXiv 2602.10043: affine registration, harmonised intensities and skull-stripping, eleven similarities, and a cut from
densities estimated by kernels. What of it is ours stands at :class:`Linkage`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import entropy, norm

from ..images.foreground import foreground
from ..similarity.registration import register
from ..similarity.sampling import resample
from ..similarity.ssim import SSIMForm, ssim_pairs
from .rivals import Correlation, Images, Method

__all__ = ["Linkage", "log_tail", "match_histogram", "mutual_information", "similarities"]

BLOCK = 512  # pairs in memory at a time


def match_histogram(values: NDArray, wanted: NDArray) -> NDArray[np.float64]:
    """Return `values` (P,) moved, in their order, to the distribution of `wanted` (Q,), as scikit-image does."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    levels, wanted_counts = np.unique(wanted, return_counts=True)
    shares, wanted_shares = np.cumsum(counts) / len(values), np.cumsum(wanted_counts) / len(wanted)
    return np.interp(shares, wanted_shares, levels)[place]


def mutual_information(first: NDArray, second: NDArray, bins: int = 32) -> float:
    """Return the normalised mutual information (H(a) + H(b)) / H(a, b) - 1 of two images of one shape, in [0, 1].

    Studholme et al., Pattern Recognition 32, 1999, less 1; from a joint histogram. 0 where both are constant.
    """
    joint = np.histogram2d(first.ravel(), second.ravel(), bins)[0]
    both = entropy(joint.ravel())
    return float((entropy(joint.sum(0)) + entropy(joint.sum(1))) / both - 1) if both > 0 else 0.0


def similarities(first: Images, second: Images) -> NDArray[np.float64]:
    """Return correlation, normalised mutual information and SSIM (P, 3) of images `first` laid on `second`, (P, H, W).

    The intensities of `first` are brought to those of `second` where either shows the object.
    """
    parts = [slice(start, start + BLOCK) for start in range(0, len(first), BLOCK)]
    return np.concatenate([_similarities(first[part], second[part]) for part in parts])


def _similarities(first: Images, second: Images) -> NDArray[np.float64]:
    first, second = (np.ascontiguousarray(i, np.float32) for i in (first, second))
    laid = resample(first, register(second, first))
    shown = [np.asarray(foreground(torch.from_numpy(i))) for i in (laid, second)]
    union = shown[0] | shown[1]
    for image, other, mask in zip(laid, second, union):
        if mask.any():
            image[mask] = match_histogram(image[mask], other[mask])
    ssim = ssim_pairs(laid, second, form=SSIMForm.SYMMETRIC, data_range=1.0)
    mutual = [mutual_information(a[mask], b[mask]) if mask.any() else 0.0 for a, b, mask in zip(laid, second, union)]
    return np.stack([Correlation().pairs(laid, second), mutual, ssim], 1)


def log_tail(values: NDArray, null: NDArray) -> NDArray[np.float64]:
    """Return the logarithm of the share above each of `values` (P,) of the Gaussian kernel density of `null` (N,).

    Scott's bandwidth, as in scipy.stats.gaussian_kde. The logarithm keeps apart what lies far above all of the null.
    """
    width = max(float(np.std(null, ddof=1)), 1e-6) * len(null) ** -0.2
    return logsumexp(norm.logsf((values[:, None] - null) / width), axis=1) - np.log(len(null))


@dataclass(frozen=True)
class Linkage(Method):
    """How far several similarities of registered images lie above those of unrelated ones.

    Theirs: the order of steps, and densities by kernels. Ours: slices in place of volumes; this bundle's registration,
    which knows shift, rotation, scale and mirror, in place of theirs to a template; three of the similarities; and
    that they are joined, by the sum of the negative logarithms of their tails (Fisher) in the density of pairs of
    training images. Skull-stripping is the data's part: the variant *masked*. Far too slow to search with.

    Attributes:
        unrelated: pairs of training images for the density.
        seed: of their drawing.
        null: similarities (N, 3) of these pairs, of `fit`.
    """

    unrelated: int = 200
    seed: int = 0
    null: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if self.unrelated < 2:
            raise ValueError(f"unrelated must be at least 2 pairs, for a density, got {self.unrelated}")

    def fit(self, references: Images) -> Linkage:
        if len(references) < 2:
            raise ValueError(f"expected at least 2 training images to make unrelated pairs of, got {len(references)}")
        rng = np.random.default_rng(self.seed)
        rows = rng.integers(len(references), size=self.unrelated)
        others = (rows + rng.integers(1, len(references), self.unrelated)) % len(references)  # never the row itself
        return replace(self, null=similarities(references[rows], references[others]))

    def pairs(self, first: Images, second: Images) -> NDArray[np.float64]:
        if self.null is None:
            raise ValueError("expected fit(references) before scores, as similarities are judged by their density")
        found = similarities(first, second)
        return -np.sum([log_tail(values, null) for values, null in zip(found.T, self.null.T)], axis=0)
