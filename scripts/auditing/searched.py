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

"""What an audit's searches found, for the generated images and for the null that they are judged against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..decision.criteria import Criteria
from ..decision.decide import Decision, compare_nulls, decide
from ..decision.near_copies import shared_people
from ..decision.rates import auc_error, rank_calls_needed
from ..decision.statistic import Statistic
from .calibration import Calibration
from .controls import Controls, SearchedNull
from .found import Found, Units
from .kinds import kind_shares
from .search import Search, similarity_auc

__all__ = ["Searched"]


@dataclass(frozen=True)
class Searched:
    """What was found for the generated images and for the null that decides; `left_out` is the same as `chosen`
    without a holdout."""

    search: Search
    units: Units
    found: Found
    controls: Controls
    left_out: SearchedNull
    chosen: SearchedNull

    @property
    def kind(self) -> NDArray[np.int64] | None:
        """The kind of each generated unit (U,), that of its best training subject; None where there is but one."""
        return self.controls.kind_of(self.found)

    def decision(self, criteria: Criteria) -> Decision:
        """Return what the criteria call, by the null that decides."""
        found = self.found
        return decide(found.statistic, self.units.level, found.nearest, self.chosen.null, criteria, self.kind)

    def calibration(self, criteria: Criteria, decision: Decision, null_transform: str) -> Calibration:
        """Return what the generated images were judged against; `null_transform` is the name of the null's."""
        units, null, degradation = self.units, self.chosen.null, self.controls.degradation
        n, alone = null.subjects(units.level, self.kind), self.chosen is self.left_out
        between = similarity_auc(self.search, units, self.chosen.units, leave_out=alone)
        other = None
        if not alone:
            other = compare_nulls(null, self.left_out.null, self.found.statistic, units.level, criteria, self.kind)
        nothing = null.subjects(units.level) < 1 or np.isneginf(self.chosen.found.statistic).all()
        return Calibration(
            null="none" if nothing else "leave-one-subject-out" if alone else "holdout",
            p_value=criteria.p_value,
            images=len(units),
            n=n,
            p_floor=null.correction / (n + 1),
            correction=null.correction,
            kinds=kind_shares(self.controls.kinds),
            calls=decision.calls,
            rank_calls_needed=rank_calls_needed(len(units), n, null.correction, criteria.fdr),
            null_transform=null_transform,
            null_blur=degradation.blur,
            null_noise=degradation.noise,
            matched=between is not None and criteria.matched(between, auc_error(len(units), n)),
            match_auc=between,
            leave_one_out=other,
        )

    def shared_people(self, statistic: Statistic, fdr: float) -> list[tuple[int, int]]:
        """Return the pairs (holdout subject, training subject), by number, that are one person, as
        :func:`~scripts.decision.near_copies.shared_people` finds them among a share `fdr` of wrong ones."""
        found = self.chosen.found
        second = found.second(statistic)
        return shared_people(found.statistic, second, self.chosen.units.subject, found.nearest, fdr)
