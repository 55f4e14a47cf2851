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

"""How alike two images are, in words: for an audit's matches and a benchmark's pairs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from .criteria import Criteria

__all__ = ["Label", "Thresholds"]


class Label(IntEnum):
    """How alike a generated image and its best training image are, in ascending order."""

    DIFFERENT = 0
    SIMILAR = 1
    DUPLICATE = 2


@dataclass(frozen=True)
class Thresholds:
    """Cuts of the aligned SSIM: from `similar` on a match is no stranger's, from `duplicate` on it is as alike as
    degraded copies are. `separable` says that the second lies above the first; if not, nothing is a duplicate."""

    similar: float
    duplicate: float
    separable: bool

    @classmethod
    def fit(cls, null: NDArray, control: NDArray, criteria: Criteria) -> Thresholds:
        """Return the cuts at the criteria's percentiles of the best aligned SSIM of the null's images (V,) and of the
        positive control's (M,); `similar` is infinite without a null."""
        null = null[np.isfinite(null)]
        similar = float(np.percentile(null, criteria.similar_percentile)) if len(null) else float("inf")
        duplicate = float(np.percentile(control, criteria.duplicate_percentile))
        return cls(similar, duplicate, bool(similar < duplicate))

    def label(self, aligned_ssim: float) -> Label:
        """Return what a best match of this aligned SSIM is called."""
        if self.separable and aligned_ssim >= self.duplicate:
            return Label.DUPLICATE
        return Label.SIMILAR if aligned_ssim >= self.similar else Label.DIFFERENT
