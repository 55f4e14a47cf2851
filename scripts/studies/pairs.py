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
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..images.loading import SliceSet
from ..similarity.verification import Verifier

__all__ = ["Pairs", "degraded_copies", "draw_pairs", "duplicate_cap"]


DIFFERENT, SIMILAR, DUPLICATE = range(3)


@dataclass(frozen=True)
class Pairs:
    """Labelled pairs: a training image (`first`) and a generated one before it is moved (`second`), each (P, H, W).

    `label` (P,) is DIFFERENT, SIMILAR or DUPLICATE; `subject` (P, 2) the subjects on both sides.
    """

    first: NDArray[np.float32]
    second: NDArray[np.float32]
    label: NDArray[np.int64]
    subject: NDArray[np.int64]


def _partners(
    slices: SliceSet, row: int, label: int, near_mm: tuple[float, float], level_mm: float
) -> NDArray[np.int64]:
    """Rows that make a pair of this label with `row`."""
    same = slices.subject == slices.subject[row]
    distance = np.abs(slices.level - slices.level[row])
    if label == SIMILAR:
        # without levels (planar images), another image of the same subject
        near = (distance >= near_mm[0]) & (distance <= near_mm[1]) if np.isfinite(slices.level[row]) else True
        return np.flatnonzero(same & near & (np.arange(len(same)) != row))
    return np.flatnonzero(~same & ((distance <= level_mm) | ~np.isfinite(distance)))


def duplicate_cap(
    slices: SliceSet, verifier: Verifier, count: int, rng: np.random.RandomState, level_mm: float
) -> float:
    """Return the 99th percentile of aligned foreground SSIM between different subjects at one level.

    A degraded image that is no nearer to its source than this is no duplicate by any objective rule.
    """
    first, second = [], []
    for row in rng.choice(len(slices.subject), count):
        others = _partners(slices, row, DIFFERENT, (0, 0), level_mm)
        if len(others):
            first.append(row)
            second.append(rng.choice(others))
    return float(np.percentile(verifier.align(slices.images[first], slices.images[second]).aligned_ssim, 99))


def degraded_copies(images: NDArray, copy: Any, cap: float, verifier: Verifier) -> NDArray[np.float32]:
    """Return a copy (N, H, W) of each image by the random transform `copy`, drawn anew while its aligned foreground
    SSIM to the image is at most `cap`.

    Raises:
        ValueError: if some copy never stays above the cap.
    """
    copies = np.zeros(images.shape, np.float32)
    left = np.arange(len(images))
    for _ in range(50):
        for n in left:
            copies[n] = copy({"image": torch.from_numpy(images[n])[None]})["image"][0].numpy()
        left = left[verifier.align(copies[left], images[left]).aligned_ssim <= cap]
        if not len(left):
            return copies
    raise ValueError(f"expected copies with an aligned SSIM above {cap:.3f}, found none of {len(left)} in 50 draws")


def draw_pairs(
    slices: SliceSet,
    count: int,
    copy: Any,
    cap: float,
    verifier: Verifier,
    rng: np.random.RandomState,
    near_mm: tuple[float, float] = (2.0, 4.0),
    level_mm: float = 2.0,
) -> Pairs:
    """Return `count` pairs of each label, classes 1:1:1.

    A duplicate comes from :func:`degraded_copies`; similar is another slice of the subject `near_mm` away, different
    another subject at the level.

    Raises:
        ValueError: if no image has a partner, or no copy stays above the cap.
    """
    rows, other, labels = [], [], []
    for label in (SIMILAR, DIFFERENT):
        order = rng.permutation(len(slices.subject))
        chosen = [(row, p) for row in order if len(p := _partners(slices, row, label, near_mm, level_mm))]
        if not chosen:
            raise ValueError(f"expected images with a partner for label {label}, found none among {len(order)}")
        for number in range(count):
            row, partners = chosen[number % len(chosen)]
            rows.append(row)
            other.append(rng.choice(partners))
            labels.append(label)
    sources = rng.choice(len(slices.subject), count)
    copies = degraded_copies(slices.images[sources], copy, cap, verifier)
    first, second = slices.images[rows], slices.images[other]
    return Pairs(
        np.concatenate([first, slices.images[sources]]),
        np.concatenate([second, copies]),
        np.array(labels + [DUPLICATE] * count),
        np.stack(
            [
                np.r_[slices.subject[rows], slices.subject[sources]],
                np.r_[slices.subject[other], slices.subject[sources]],
            ],
            axis=1,
        ),
    )
