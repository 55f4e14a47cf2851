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

"""The metrics that a benchmark compares: each scores pairs of images, and queries against a set of references.

A further one is a class here or in its own module, as :mod:`.fsim`, or a function in :mod:`.rival_networks`, and a line
of configs/benchmark.yaml.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from ..images.foreground import foreground
from ..similarity.ssim import SSIMForm, ssim_cross, ssim_pairs
from ..similarity.verification import Verifier

__all__ = ["AlignedSSIM", "CalibratedL2", "Correlation", "Cosine", "Method", "SSIM", "SearchMethod", "ssim_truth"]

Images = NDArray[np.float32]  # (N, H, W) in [0, 1]


class Method(ABC):
    """A similarity of images (N, H, W) in [0, 1]; higher is more alike."""

    def fit(self, references: Images) -> Self:
        """Return the method with what it takes of the training images (R, H, W), as a scale; most take nothing."""
        return self

    @abstractmethod
    def pairs(self, first: Images, second: Images) -> NDArray[np.float64]:
        """Return the scores (P,) of training images `first` with generated images `second`, both (P, H, W)."""

    def truth(self, first: Images, second: Images) -> NDArray[np.float32] | None:
        """Return the SSIM (P,) that the score is meant to equal, from images (P, H, W) before they are moved.

        None for none.
        """
        return None


class SearchMethod(Method):
    """A similarity that is fast enough to search a whole set with."""

    @abstractmethod
    def matrix(self, queries: Images, references: Images) -> NDArray[np.float32]:
        """Return the scores (Q, R) of generated images (Q, H, W) with training images (R, H, W)."""


def ssim_truth(first: Images, second: Images, form: SSIMForm) -> NDArray[np.float32]:
    """Return the SSIM (P,) of images in [0, 1]; the published form takes its range from the first image."""
    return _ssim(ssim_pairs, first, second, form)


def _ssim(
    function: Callable[..., NDArray[np.float32]], first: Images, second: Images, form: SSIMForm
) -> NDArray[np.float32]:
    """`ssim_pairs` or `ssim_cross` of images in [0, 1]."""
    images = [np.ascontiguousarray(i, np.float32) for i in (first, second)]
    masks = {}
    if form is SSIMForm.FOREGROUND:
        keys = ("foreground_x", "foreground_y")
        masks = {key: np.asarray(foreground(torch.from_numpy(i))) for key, i in zip(keys, images)}
    return np.asarray(function(*images, form=form, data_range=None if form is SSIMForm.PUBLISHED else 1.0, **masks))


class SSIM(SearchMethod):
    """Structural similarity itself, whole image or foreground, R = 1."""

    def __init__(self, form: str = "symmetric") -> None:
        self.form = SSIMForm(form)

    def pairs(self, first: Images, second: Images) -> NDArray[np.float64]:
        return _ssim(ssim_pairs, first, second, self.form).astype(float)

    def truth(self, first: Images, second: Images) -> NDArray[np.float32]:
        return ssim_truth(first, second, self.form)

    def matrix(self, queries: Images, references: Images) -> NDArray[np.float32]:
        return _ssim(ssim_cross, queries, references, self.form)


class AlignedSSIM(Method):
    """Foreground SSIM after an alignment search: the upper reference, far too slow to search with."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier

    def pairs(self, first: Images, second: Images) -> NDArray[np.float64]:
        return self.verifier.align(second, first).aligned_ssim.astype(float)

    def truth(self, first: Images, second: Images) -> NDArray[np.float32]:
        return ssim_truth(first, second, SSIMForm.FOREGROUND)


class Cosine(SearchMethod):
    """Cosine of vectors."""

    @abstractmethod
    def vectors(self, images: Images) -> NDArray[np.float32]:
        """Return one unit vector (N, D) for each image (N, H, W)."""

    def pairs(self, first: Images, second: Images) -> NDArray[np.float64]:
        return (self.vectors(first) * self.vectors(second)).sum(1).astype(float)

    def matrix(self, queries: Images, references: Images) -> NDArray[np.float32]:
        return self.vectors(queries) @ self.vectors(references).T


class Correlation(Cosine):
    """Normalised cross-correlation of the pixels."""

    def vectors(self, images: Images) -> NDArray[np.float32]:
        flat = images.reshape(len(images), -1)
        flat = flat - flat.mean(1, keepdims=True)
        return (flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-8)).astype(np.float32)


@dataclass(frozen=True)
class CalibratedL2(SearchMethod):
    """Distance to a training image over `alpha` times the mean distance to the `nearest` nearest ones of `references`.

    Carlini et al., Extracting training data from diffusion models, USENIX Security 2023, section 4.2: their n is 50,
    their alpha 0.5. The score is the negative ratio.
    """

    nearest: int = 50
    alpha: float = 0.5
    references: Images | None = None  # of `fit`

    def fit(self, references: Images) -> CalibratedL2:
        return replace(self, references=references)

    @staticmethod
    def _distances(queries: Images, references: Images) -> NDArray[np.float64]:
        # float64: the difference of nearly equal squares loses half of the digits
        a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (queries, references))
        square = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * (a @ b.T)
        return np.sqrt(np.maximum(square, 0))

    def _scale(self, queries: Images) -> NDArray[np.float64]:
        if self.references is None:
            raise ValueError("expected fit(references) before scores, as the distances are calibrated on them")
        near = np.sort(self._distances(queries, self.references), axis=1)[:, : self.nearest]
        return self.alpha * near.mean(1)

    def pairs(self, first: Images, second: Images) -> NDArray[np.float64]:
        difference = first.astype(np.float64) - second
        distance = np.linalg.norm(difference.reshape(len(first), -1), axis=1)
        return -distance / self._scale(second)

    def matrix(self, queries: Images, references: Images) -> NDArray[np.float32]:
        return (-self._distances(queries, references) / self._scale(queries)[:, None]).astype(np.float32)
