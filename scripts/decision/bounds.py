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

"""How many of the strongest images are true ones: bounds that hold for every number of them at once.

The false-discovery rate is a mean over audits that might have been. These bounds are about this audit: with probability
1 - alpha all of them hold together, whichever is looked at.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["true_discoveries"]


def true_discoveries(p: NDArray, counts: NDArray, alpha: float = 0.05) -> NDArray[np.int64]:
    """Return, for each of `counts`, how many at least of so many smallest p-values belong to no null hypothesis.

    Closed testing with Simes' tests (Goeman, Meijer, Krebs and Solari 2019), valid where Simes' inequality holds: for
    independent and positively dependent p-values, as Benjamini and Hochberg's procedure. O(m log m) for m p-values.

    Args:
        p: (m,) of all images.
        counts: (C,) how many of the strongest, each in [0, m].
        alpha: the probability that any of the bounds fails.

    Raises:
        ValueError: if a count is out of range or alpha is not in (0, 1).
    """
    ordered, counts = np.sort(np.asarray(p, float)), np.asarray(counts, int)
    if not 0 < alpha < 1 or (counts < 0).any() or (counts > len(ordered)).any():
        raise ValueError(f"counts must lie within {len(ordered)} images and alpha in (0, 1), got {counts}, {alpha}")
    largest_null = _largest_null(ordered, alpha)
    return np.array([_bound(ordered[:count], largest_null, alpha) for count in counts], np.int64)


def _largest_null(ordered: NDArray, alpha: float) -> int:
    """Return h, the most hypotheses that may all be null by Simes' test: that of the h largest p-values."""
    low, high = 0, len(ordered)
    while low < high:  # a set of the largest that is not rejected leaves no smaller one of them rejected
        size = (low + high + 1) // 2
        largest = ordered[len(ordered) - size :]
        if (largest > alpha * np.arange(1, size + 1) / size).all():
            low = size
        else:
            high = size - 1
    return low


def _bound(smallest: NDArray, largest_null: int, alpha: float) -> int:
    """Return max over u of 1 - u + #{p: h p <= u alpha}, at least 0."""
    if not len(smallest):
        return 0
    if not largest_null:
        return len(smallest)
    # the maximum lies where a p-value is counted for the first time
    u = np.maximum(1, np.ceil(smallest * largest_null / alpha - 1e-12))
    counted = np.searchsorted(smallest * largest_null, u * alpha * (1 + 1e-12), side="right")
    return max(0, int((1 - u + counted).max()))
