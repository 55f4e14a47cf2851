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

"""The numbers that a decision depends on; configs/detect.yaml fills them and the report prints them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

__all__ = ["Criteria", "Method", "check_fields"]

Method = Literal["tail", "rank"]  # how p-values are computed


def check_fields(owner: object, *rules: tuple[str, bool, str]) -> None:
    """Raise ValueError at the first rule (field, whether it holds, what is wanted) that does not hold."""
    for key, holds, wanted in rules:
        if not holds:
            raise ValueError(f"{key} must be {wanted}, got {getattr(owner, key)!r}")


@dataclass(frozen=True)
class Criteria:
    """What is called a copy, and when the report warns.

    Args:
        fdr: level of the false-discovery rate, over images and over subjects.
        p_value: `tail` continues beyond the null's largest values, `rank` does not.
        adaptive: estimate how many images are no copies, and allow for fewer false calls than if all were such.
        tail_least, tail_share, tail_most: so many null subjects make the tail: a share, but at least and at most so
            many, and never more than half of them.
        matched_auc: AUC of two sets' similarities, or of two nulls, that counts as equal.
        agreement: share of the images that either null calls which both must call, to agree.
        similar_percentile: of the null's aligned SSIM, above which a match is `similar`.
        duplicate_percentile: of the positive control's, above which it is `duplicate`.
        copy_detail: agreement of the detail from which a call is a copy; below it is a likeness.
        near_copy_fdr: share of the pairs of training ids that are called one person which may be two.
        least_recall: of the positive control, that the lower end of its interval must exceed for "no copying found".
        least_nearest: share of the positive control whose subject the embedding must have as the nearest, for its
            weights to suit the images.
        least_among: share of it whose subject must be among the candidates that are aligned, for these to be enough.
        most_skipped: share of a set's files that may be unreadable for it.

    Raises:
        ValueError: if a number is out of range.
    """

    fdr: float = 0.05
    p_value: Method = "tail"
    adaptive: bool = False
    tail_least: int = 20
    tail_share: float = 0.2
    tail_most: int = 60
    matched_auc: Sequence[float] = (0.4, 0.6)
    agreement: float = 0.8
    similar_percentile: float = 99.0
    duplicate_percentile: float = 5.0
    copy_detail: float = 0.95
    near_copy_fdr: float = 0.05
    least_recall: float = 0.5
    least_nearest: float = 0.9
    least_among: float = 0.95
    most_skipped: float = 0.1

    def __post_init__(self) -> None:
        low, high = self.matched_auc
        check_fields(
            self,
            ("fdr", 0 < self.fdr < 1, "in (0, 1)"),
            ("p_value", self.p_value in get_args(Method), "tail or rank"),
            ("tail_least", self.tail_least >= 2, "at least 2"),
            ("tail_share", 0 < self.tail_share <= 1, "in (0, 1]"),
            ("tail_most", self.tail_most >= self.tail_least, "at least tail_least"),
            ("matched_auc", 0 <= low < high <= 1, "two ascending shares"),
            ("agreement", 0 <= self.agreement <= 1, "a share"),
            ("similar_percentile", 0 <= self.similar_percentile <= 100, "in [0, 100]"),
            ("duplicate_percentile", 0 <= self.duplicate_percentile <= 100, "in [0, 100]"),
            ("copy_detail", -1 <= self.copy_detail <= 1, "in [-1, 1]"),
            ("near_copy_fdr", 0 < self.near_copy_fdr < 1, "in (0, 1)"),
            ("least_recall", 0 <= self.least_recall < 1, "a share below 1"),
            ("least_nearest", 0 <= self.least_nearest <= 1, "a share"),
            ("least_among", 0 <= self.least_among <= 1, "a share"),
            ("most_skipped", 0 <= self.most_skipped <= 1, "a share"),
        )

    def matched(self, auc: float, error: float = 0.0) -> bool:
        """Return whether an AUC counts as equal, in the range or within two standard errors of one half."""
        low, high = self.matched_auc
        return min(low, 0.5 - 2 * error) <= auc <= max(high, 0.5 + 2 * error)

    def tail_subjects(self, subjects: int) -> int:
        """Return K, how many of the null's subjects make its tail."""
        wanted = max(self.tail_least, int(np.ceil(self.tail_share * subjects)))
        return min(subjects - 1, max(2, subjects // 2), self.tail_most, wanted)
