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

"""What the images of an audit were judged against, and how many copies it would have called: figures for the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..decision.criteria import Method
from ..decision.decide import NullComparison

__all__ = ["Calibration", "Control", "ControlRecall"]


@dataclass(frozen=True)
class Calibration:
    """What the generated images were judged against; the report's table, row by row.

    `n` is the least number of null subjects that any image is judged against, `p_floor` the smallest rank p-value,
    `correction` as in :class:`~scripts.decision.null.Null`. `kinds` are the shares of the training subjects by kind,
    each with a null of its own; none where all are of one. `calls` counts what either kind of p-value calls,
    `rank_calls_needed` how many images must be copies before rank p-values can call any. `null_blur` (pixels) and
    `null_noise` (of the range) degraded the null. `match_auc` is the AUC of the generated images' similarity to all of
    train against the null's, `matched` whether they count as equal. `leave_one_out` says what that null would have
    called where a holdout was given.
    """

    null: Literal["holdout", "leave-one-subject-out", "none"]
    p_value: Method
    images: int
    n: int
    p_floor: float
    correction: int
    kinds: list[float]
    calls: dict[Method, int]
    rank_calls_needed: int
    null_transform: str
    null_blur: float
    null_noise: float
    matched: bool
    match_auc: float | None
    leave_one_out: NullComparison | None


@dataclass(frozen=True)
class ControlRecall:
    """The recall on `images` copies that are bent by `pixels` besides (standard deviation at the control points), or
    that are parts so many pixels wide."""

    pixels: float
    images: int
    recall: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Control:
    """The positive control: of `images` degraded copies of training images, the share that would have been called with
    the right subject (`recall`, with its 95 % interval) among the images that were, and the share whose subject is the
    best match. `bent` says how the recall falls where a generator bends its copies, `alone` what it is for a copy that
    is the only one: other calls make it easier. `nearest` is the share whose subject the embedding has as the nearest,
    with its 95 % interval, `among` that whose subject is a candidate. `image_found` is the share of the images of the
    right subject that are named with the very image which was copied, with its 95 % interval, that of independent ones.
    Where copies of a part are looked for, the copies are parts, and `parts` has the recall by their width, the widest
    last, which is the one above."""

    images: int
    recall: float
    ci95: tuple[float, float]
    source_found: float
    bent: list[ControlRecall] = field(default_factory=list)
    alone: float = 0.0
    parts: list[ControlRecall] = field(default_factory=list)
    nearest: float = 1.0
    nearest_ci95: tuple[float, float] = (0.0, 1.0)
    among: float = 1.0
    image_found: float = 1.0
    image_found_ci95: tuple[float, float] = (0.0, 1.0)

    def at(self, pixels: float) -> ControlRecall:
        """Return the recall as that of copies so bent, or of parts so wide."""
        return ControlRecall(pixels, self.images, self.recall, self.ci95)
