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

"""Who the training subjects are: their names, and which ids turn out to be one person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..decision.criteria import Criteria
from ..decision.near_copies import joined, near_copies
from ..embedder.embedding_set import EmbeddingSet
from .controls import Controls, SearchedNull

__all__ = ["Subjects", "one_person"]


@dataclass(frozen=True)
class Subjects:
    """The training subjects: their names (S,), and the number of each training row's subject (R,)."""

    names: NDArray[np.str_]
    number: NDArray[np.int64]

    @classmethod
    def of(cls, train: EmbeddingSet) -> Subjects:
        """Return the subjects of a training set, in the order of their names."""
        return cls(*np.unique(train.subject_ids, return_inverse=True))

    def merged(self, groups: Sequence[Sequence[int]]) -> Subjects:
        """Return the subjects with those of each group as one, under all their names."""
        number = self.number
        for group in groups:
            number = np.where(np.isin(number, group[1:]), group[0], number)
        labels = {group[0]: "+".join(self.names[s] for s in group) for group in groups}
        kept, number = np.unique(number, return_inverse=True)
        return Subjects(np.array([labels.get(s, self.names[s]) for s in kept]), number)


def one_person(
    left_out: SearchedNull, controls: Controls, train: EmbeddingSet, subjects: NDArray[np.int64], criteria: Criteria
) -> list[list[int]]:
    """Return the groups of training subjects that are one person, or share an image to the last pixel.

    Args:
        left_out: the null of training subjects left out in turn.
        controls: that made it.
        train: the training set.
        subjects: (R,) the number of each row's subject.
        criteria: how sure the groups must be.
    """
    found, subject, untested = left_out.found, left_out.units.subject, 0
    statistic, nearest = found.statistic, found.nearest
    if controls.null_leaves_out(subjects):
        units, more, untested = controls.likely_pairs(train, subjects)
        subject = np.concatenate([subject, units.subject])
        statistic = np.concatenate([statistic, more.statistic])
        nearest = np.concatenate([nearest, more.nearest])
    second = found.second(controls.search.statistic)
    groups = near_copies(statistic, second, subject, nearest, criteria.near_copy_fdr, untested)
    owner = subjects[np.unique(train.file, return_index=True)[1]]  # of each file
    return joined([*groups, *(np.unique(owner[files]).tolist() for files in train.same_image())])
