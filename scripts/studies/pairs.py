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

"""Labelled pairs of real images: copies, other slices of the subject, other subjects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..decision.labels import Label
from ..images.items import DictTransform, RandomTransform
from ..images.loading import SliceSet
from ..similarity.verification import Verifier

__all__ = ["DegradedCopies", "Pairs", "draw_pairs", "duplicate_cap", "moved"]


@dataclass(frozen=True)
class Pairs:
    """Labelled pairs: a training image (`first`) and a generated one before it is moved (`second`), each (P, H, W).

    `label` (P,) is a :class:`~scripts.decision.labels.Label`; `subject` (P, 2) the subjects on both sides.
    """

    first: NDArray[np.float32]
    second: NDArray[np.float32]
    label: NDArray[np.int64]
    subject: NDArray[np.int64]


@dataclass(frozen=True)
class DegradedCopies:
    """Makes duplicates: degraded copies of images that stay nearer to their source than a stranger is.

    Attributes:
        transform: random dictionary transform that degrades an image (`image`, (1, H, W)).
        verifier: aligns a copy to its source.
        cap: a copy whose aligned foreground SSIM to its source is not above it is drawn anew.
    """

    transform: RandomTransform
    verifier: Verifier
    cap: float = -1.0

    def __call__(self, images: NDArray, rng: np.random.RandomState) -> NDArray[np.float32]:
        """Return a copy (N, H, W) of each image, degraded as `rng` draws.

        Raises:
            ValueError: if some copy never stays above the cap.
        """
        self.transform.set_random_state(state=rng)
        copies = np.zeros(images.shape, np.float32)
        left = np.arange(len(images))
        for _ in range(50):
            copies[left] = _transformed(images[left], self.transform)
            left = left[self.verifier.align(copies[left], images[left]).aligned_ssim <= self.cap]
            if not len(left):
                return copies
        raise ValueError(
            f"expected copies with an aligned SSIM above {self.cap:.3f}, found none of {len(left)} in 50 draws"
        )


def moved(images: NDArray, transform: RandomTransform | None, seed: int) -> NDArray[np.float32]:
    """Return images (N, H, W) as `transform` moves them, the same way for equal seeds; None moves nothing."""
    if transform is None:
        return images
    transform.set_random_state(seed)
    return _transformed(images, transform)


def _transformed(images: NDArray, transform: DictTransform) -> NDArray[np.float32]:
    return np.stack([transform({"image": torch.from_numpy(image)[None]})["image"][0].numpy() for image in images])


def duplicate_cap(
    slices: SliceSet, verifier: Verifier, rng: np.random.RandomState, count: int = 400, level_mm: float = 2.0
) -> float:
    """Return the 99th percentile of aligned foreground SSIM between different subjects at one level, of `count` pairs.

    A degraded image that is no nearer to its source than this is no duplicate by any objective rule.
    """
    first, second = [], []
    for row in rng.choice(len(slices.subject), count):
        others = _partners(slices, row, Label.DIFFERENT, (0, 0), level_mm)
        if len(others):
            first.append(row)
            second.append(rng.choice(others))
    return float(np.percentile(verifier.align(slices.images[first], slices.images[second]).aligned_ssim, 99))


def draw_pairs(
    slices: SliceSet,
    count: int,
    copies: DegradedCopies,
    rng: np.random.RandomState,
    near_mm: tuple[float, float] = (2.0, 4.0),
    level_mm: float = 2.0,
) -> Pairs:
    """Return `count` pairs of each label, classes 1:1:1.

    A duplicate is one of `copies`; similar is another slice of the subject `near_mm` away, different another subject
    at the level.

    Raises:
        ValueError: if no image has a partner, or no copy stays above the cap.
    """
    rows, other, labels = [], [], []
    for label in (Label.SIMILAR, Label.DIFFERENT):
        order = rng.permutation(len(slices.subject))
        chosen = [(row, p) for row in order if len(p := _partners(slices, row, label, near_mm, level_mm))]
        if not chosen:
            raise ValueError(
                f"expected images with a partner for pairs of label {label.name.lower()}, found none among {len(order)}"
            )
        for number in range(count):
            row, partners = chosen[number % len(chosen)]
            rows.append(row)
            other.append(rng.choice(partners))
            labels.append(label)
    sources = rng.choice(len(slices.subject), count)
    first, second = np.r_[rows, sources], np.r_[other, sources]
    return Pairs(
        slices.images[first],
        np.concatenate([slices.images[other], copies(slices.images[sources], rng)]),
        np.array(labels + [Label.DUPLICATE] * count),
        np.stack([slices.subject[first], slices.subject[second]], axis=1),
    )


def _partners(
    slices: SliceSet, row: int, label: Label, near_mm: tuple[float, float], level_mm: float
) -> NDArray[np.int64]:
    """Rows that make a pair of this label with `row`."""
    same = slices.subject == slices.subject[row]
    distance = np.abs(slices.level - slices.level[row])
    if label == Label.SIMILAR:
        # without levels (planar images), another image of the same subject
        near = (distance >= near_mm[0]) & (distance <= near_mm[1]) if np.isfinite(slices.level[row]) else True
        return np.flatnonzero(same & near & (np.arange(len(same)) != row))
    return np.flatnonzero(~same & ((distance <= level_mm) | ~np.isfinite(distance)))
