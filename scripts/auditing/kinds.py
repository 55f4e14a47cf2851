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

"""Is the training set of one kind? Half T1 and half T2, or heads and brains, are two: each has a null of its own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .neighbors import subject_similarities

__all__ = ["Halves", "halves", "kind_shares", "kinds_of_subjects", "likeness_of_subjects"]

APART = 0.7  # halves of one kind are 0.78 to 0.91 times as alike, of two 0.35 to 0.63: benchmarks/kinds.py
LEAST_SHARE = 0.1  # of the subjects, to be a kind
MOST_SUBJECTS, MOST_IMAGES = 256, 4  # that are compared, and of each subject
AT_ONCE = 16  # compared subjects; bounds the memory where subjects are many
ROUNDS = 20


def kinds_of_subjects(vectors: NDArray[np.float32], subjects: NDArray[np.int64], least: int) -> NDArray[np.int64]:
    """Return the kind of each training subject, (S,): 0 for all, or 0, 1, ... where groups hardly resemble each other.

    Two subjects are as alike as their most similar images, by cosine. The subjects are halved as well as they can be.
    They are of two kinds if subjects of different halves are less than 0.7 times as alike as those of one half; then
    each half is asked again.

    Args:
        vectors: (R, D) of the training images, L2-normalised.
        subjects: (R,) whose image each is, 0 ... S - 1.
        least: subjects of a kind.

    Cost: at most 1,024 images against all.
    """
    count = int(subjects.max()) + 1 if len(subjects) else 0
    alike = likeness_of_subjects(vectors, subjects)  # (compared, S)
    chosen = _spread(np.arange(count), MOST_SUBJECTS)
    kind = np.zeros(len(chosen), np.int64)
    open_kinds = [0]
    while open_kinds:
        members = np.flatnonzero(kind == open_kinds[-1])
        among = alike[np.ix_(members, chosen[members])]
        second = _second_kind(among, max(least, int(np.ceil(LEAST_SHARE * len(chosen)))))
        if second is None:
            open_kinds.pop()
        else:
            kind[members[second]] = kind.max() + 1
            open_kinds.append(int(kind.max()))
    # subjects that were not compared: the kind that they resemble most
    means = np.stack([alike[kind == number].mean(0) for number in range(kind.max() + 1)]) if count else np.zeros((1, 0))
    found = means.argmax(0)
    found[chosen] = kind
    return found


def likeness_of_subjects(vectors: NDArray[np.float32], subjects: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how alike compared subjects are to all (C, S): the mean over some images of the best cosine."""
    count = int(subjects.max()) + 1 if len(subjects) else 0
    rows = [_spread(np.flatnonzero(subjects == s), MOST_IMAGES) for s in _spread(np.arange(count), MOST_SUBJECTS)]
    if not rows:
        return np.zeros((0, 0))
    alike = np.empty((len(rows), count))
    for first in range(0, len(rows), AT_ONCE):
        some = rows[first : first + AT_ONCE]
        similarity, _ = subject_similarities(vectors[np.concatenate(some)], vectors, subjects)  # (c, S)
        sizes = np.array([len(own) for own in some])
        starts = np.cumsum(sizes) - sizes
        alike[first : first + len(some)] = np.add.reduceat(similarity.astype(float), starts, axis=0) / sizes[:, None]
    return alike


def _spread(values: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return the values, or so many of them, evenly spread."""
    return values[np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int)]


def kind_shares(kinds: NDArray[np.int64]) -> list[float]:
    """Return the shares of the subjects' kinds (S,), the largest first; none of one kind."""
    return sorted((np.bincount(kinds) / len(kinds)).tolist(), reverse=True) if kinds.any() else []


class Halves(NamedTuple):
    """Subjects halved so that each is more like its own half: which are in the second (C,), and how alike subjects of
    different halves are, relative to those of one half."""

    second: NDArray[np.bool_]
    alike: float


def halves(alike: NDArray[np.float64]) -> Halves:
    """Return the halves of subjects, by their likeness to each other (C, C)."""
    count = len(alike)
    others = 1.0 - np.eye(count)
    alike = (alike + alike.T) / 2 * others  # a subject says nothing about itself
    mean = alike.sum(1) / (count - 1)
    centred = (alike - mean - mean[:, None] + mean.mean()) * others
    second = np.linalg.eigh(centred)[1][:, -1] > 0
    for _ in range(ROUNDS):  # each subject to the half that it resembles more
        own, other = (alike @ half / np.maximum(others @ half, 1) for half in (second * 1.0, ~second * 1.0))
        if ((own > other) == second).all():
            break
        second = own > other
    if min(second.sum(), (~second).sum()) < 2:
        return Halves(second, 1.0)
    within = min(alike[np.ix_(half, half)].sum() / (half.sum() * (half.sum() - 1)) for half in (second, ~second))
    return Halves(second, float(alike[np.ix_(second, ~second)].mean() / within) if within > 0 else 1.0)


def _second_kind(alike: NDArray[np.float64], least: int) -> NDArray[np.bool_] | None:
    """Return which subjects (C,) are of a second kind, by their likeness to each other (C, C); None for one kind."""
    if len(alike) < 2 * least:
        return None
    second, ratio = halves(alike)
    return second if min(second.sum(), (~second).sum()) >= least and ratio < APART else None
