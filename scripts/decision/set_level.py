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

"""The set as a whole: is it nearer to the training images than real images are, though none need be a copy?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .rates import auc

__all__ = ["SetLevel", "set_level"]


@dataclass(frozen=True)
class SetLevel:
    """AUC of the generated images' statistics against the null's, its 95 % interval, and the one-sided p-value of an
    AUC above 0.5; all None where either has no finite statistic."""

    auc: float | None
    ci95: list[float] | None
    p_value: float | None


def set_level(
    statistic: NDArray, null: NDArray, null_subjects: NDArray, rng: np.random.RandomState, draws: int = 500
) -> SetLevel:
    """Return how the statistics (Q,) of generated images compare with those of the null (V,).

    The interval comes from resampling images and the null's subjects (V,): slices of one are not independent. How many
    of the resampled images lie between which null values is all that counts, so that a draw costs O(V) for any Q.
    """
    finite = np.isfinite(null)
    if not np.isfinite(statistic).any() or not finite.any():
        return SetLevel(None, None, None)
    null, null_subjects = null[finite], null_subjects[finite]
    cuts, cut = np.unique(null, return_inverse=True)
    # of each image: twice the null's values below it, one more where it equals the next
    place = np.searchsorted(cuts, statistic, side="left") + np.searchsorted(cuts, statistic, side="right")
    images = np.bincount(place, minlength=2 * len(cuts) + 1)
    subject = np.unique(null_subjects, return_inverse=True)[1]
    subjects = int(subject.max()) + 1
    values = []
    for _ in range(draws):
        times = rng.multinomial(subjects, np.full(subjects, 1 / subjects))
        weight = np.bincount(cut, times[subject])
        # of the null's resampled values, how many lie below each place, equal ones counting half
        below = np.cumsum(np.r_[0, np.repeat(weight / 2, 2)])
        drawn = rng.multinomial(len(statistic), images / len(statistic))
        values.append(float(drawn @ below) / (len(statistic) * weight.sum()))
    p = (1 + np.count_nonzero(np.array(values) <= 0.5)) / (draws + 1)
    return SetLevel(auc(statistic, null), np.percentile(values, [2.5, 97.5]).tolist(), p)
