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

"""Retrieve and verify: the candidate training subjects of images or volumes, each aligned and scored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..decision.statistic import local_statistic
from ..similarity.verification import Verifier
from .neighbors import nearest_subjects

__all__ = ["Found", "Search", "Units"]


@dataclass(frozen=True)
class Units:
    """What one decision is about: an image, or a volume as the run of its slices.

    `vectors` (Q, D) and `images` (Q, H, W) hold the rows of all units, `unit` (Q,) each row's unit, ascending from 0.
    `level` (U,) is a planar unit's slice level or NaN; `subject` (U,) the training subject it belongs to, -1 for none.
    """

    vectors: NDArray[np.float32]
    images: NDArray[np.float16]
    unit: NDArray[np.int64]
    level: NDArray[np.float64]
    subject: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.level)

    def rows(self, unit: int) -> NDArray[np.int64]:
        """Return the rows of one unit."""
        return np.flatnonzero(self.unit == unit)


@dataclass(frozen=True)
class Found:
    """The verified candidates of each unit: U units, Q rows, k candidate subjects.

    `subject` (U, k) are subject numbers, -1 where fewer exist; `aligned_ssim` (U, k) is the mean over a unit's slices;
    `image`, `similarity`, `slice_ssim` (Q, k) and `matrix` (Q, k, 2, 3), `mirrored` (Q, k) describe single slices.
    """

    subject: NDArray[np.int64]
    aligned_ssim: NDArray[np.float64]
    image: NDArray[np.int64]
    similarity: NDArray[np.float64]
    slice_ssim: NDArray[np.float32]
    matrix: NDArray[np.float64]
    mirrored: NDArray[np.bool_]

    @property
    def statistic(self) -> NDArray[np.float64]:
        """(U,) the local statistic T."""
        return local_statistic(self.aligned_ssim)

    @property
    def best(self) -> NDArray[np.int64]:
        """(U,) the column of the candidate with the highest aligned SSIM."""
        return self.aligned_ssim.argmax(1)

    def at_best(self, values: NDArray) -> NDArray:
        """Return values (U, k, ...) at each unit's best candidate, (U, ...)."""
        return values[np.arange(len(values)), self.best]


@dataclass(frozen=True)
class Search:
    """Finds and verifies the k nearest training subjects of units.

    `images` (R, H, W), `vectors` (R, D) and `subjects` (R,) are the training rows; `verifier` aligns.
    """

    vectors: NDArray[np.float32]
    images: NDArray[np.float16]
    subjects: NDArray[np.int64]
    verifier: Verifier
    k: int
    block: int = 2048

    def __call__(self, units: Units, leave_out: bool = False, name: str = "") -> Found:
        """Return the verified candidates; `leave_out` bars each unit's own subject from its search."""
        exclude = units.subject if leave_out else None
        candidates = nearest_subjects(units.vectors, self.vectors, self.subjects, self.k, units.unit, exclude)
        shape = candidates.image.shape
        ssim = np.full(shape, -np.inf, np.float32)
        matrix, mirrored = np.zeros((*shape, 2, 3)), np.zeros(shape, bool)
        rows, columns = np.nonzero(candidates.image >= 0)
        steps = range(0, len(rows), self.block)
        for start in tqdm(steps, desc=f"aligning {name}", unit="block", disable=None if len(rows) > 200 else True):
            q, c = rows[start : start + self.block], columns[start : start + self.block]
            found = self.verifier.align(units.images[q], self.images[candidates.image[q, c]])
            ssim[q, c], matrix[q, c], mirrored[q, c] = found.aligned_ssim, found.matrix, found.mirrored
        starts = np.flatnonzero(np.r_[True, np.diff(units.unit) > 0])
        sizes = np.diff(np.r_[starts, len(units.unit)])
        mean = np.add.reduceat(ssim.astype(float), starts, axis=0) / sizes[:, None]  # (Q, k) -> (U, k)
        return Found(candidates.subject, mean, candidates.image, candidates.similarity, ssim, matrix, mirrored)
