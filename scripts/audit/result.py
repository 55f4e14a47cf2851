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

"""What an audit finds, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..decision.labels import Label
from ..decision.null import Null
from ..embedder.embedding_set import EmbeddingSet
from .search import Found, Units

__all__ = ["AuditResult"]


@dataclass
class AuditResult:
    """Everything the report needs; arrays are (U,), one entry a generated image or volume."""

    train: EmbeddingSet
    generated: EmbeddingSet
    holdout: EmbeddingSet | None
    subject_names: list[str]
    units: Units
    found: Found
    statistic: NDArray[np.float64]
    null: Null
    leave_one_out: Null
    p_value: NDArray[np.float64]
    q_value: NDArray[np.float64]
    label: list[Label]
    fdr: float
    calibration: dict[str, Any]
    control: dict[str, Any]
    set_level: dict[str, Any]
    thresholds: dict[str, Any]
    leaked: dict[str, Any]
    near_copies: list[tuple[int, int]]
    merged: list[list[str]] = field(default_factory=list)
    unmerged_count: int | None = None

    @property
    def memorized(self) -> NDArray[np.bool_]:
        """(U,) exactly q_value <= fdr."""
        return self.q_value <= self.fdr

    @property
    def candidate(self) -> NDArray[np.bool_]:
        """(U,) not called, yet as alike as the positive control's copies and more than the null: no error rate."""
        best = self.found.aligned_ssim.max(1)
        above_null = best >= self.thresholds["similar"] if np.isfinite(self.thresholds["similar"]) else True
        return ~self.memorized & (best >= self.thresholds["duplicate"]) & above_null
