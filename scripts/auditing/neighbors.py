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

"""Exact search for the training subjects most similar to each query."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..images.subjects import starts_of_runs

__all__ = ["Candidates", "nearest_images", "nearest_subjects", "pair_cosines", "subject_similarities"]


class Candidates(NamedTuple):
    """The k best subjects of each unit, and the best image of each of them for every query of that unit.

    `subject` (U, k) holds subject numbers, best first; `image` and `similarity` (Q, k) are the reference row and the
    cosine that each query has in its unit's k subjects.
    """

    subject: NDArray[np.int64]
    image: NDArray[np.int64]
    similarity: NDArray[np.float64]


def nearest_subjects(
    queries: NDArray[np.float32],
    references: NDArray[np.float32],
    subjects: NDArray[np.int64],
    k: int,
    units: NDArray[np.int64] | None = None,
    exclude: NDArray[np.int64] | None = None,
    block: int = 65536,
) -> Candidates:
    """Return the k most similar distinct subjects of each unit of queries, exactly.

    A subject's similarity to a query is that of its best image; a unit's is the mean over its queries. A plain search
    for the k nearest images is not this: with 100 images a subject, the first 50 are often one subject.

    The cosines that are returned are computed in float64, one pair at a time, so that neither `block` nor the number
    of queries nor the processor moves them; only among subjects within about 1e-7 of each other, float32's rounding in
    the search, may the choice depend on these.

    Args:
        queries: (Q, D), L2-normalised.
        references: (R, D), L2-normalised.
        subjects: (R,), each reference's subject number, 0 ... S - 1.
        k: subjects wanted; fewer exist: the rest is -1 with similarity -inf.
        units: (Q,), each query's unit number 0 ... U - 1 in ascending order (the slices of one volume); None: one each.
        exclude: (U,), a subject that each unit must not find, -1 for none: the leave-one-subject-out null.
        block: references compared at a time; memory is Q x (block + S) floats.

    Raises:
        ValueError: if shapes disagree, k or block is below 1, units are not ascending, or an embedding is not finite.

    Cost: Q x R x D multiplications, streamed over the references.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    queries, references = np.asarray(queries, np.float32), np.asarray(references, np.float32)
    best, where = subject_similarities(queries, references, subjects, block)
    count, number = best.shape
    units = np.arange(count) if units is None else np.asarray(units)
    if len(units) != count or (np.diff(units) < 0).any():
        raise ValueError(f"units must be one ascending number a query, {count}, got {len(units)}")
    starts = starts_of_runs(units)
    sizes = np.diff(np.r_[starts, count])
    score = np.add.reduceat(best, starts, axis=0) / sizes[:, None] if count else best  # (Q, S) -> (U, S)
    if exclude is not None:
        barred = (exclude >= 0) & (exclude < number)  # a subject without images cannot be found anyway
        score[np.flatnonzero(barred), exclude[barred]] = -np.inf
    wanted = min(k, number)
    chosen = np.full((len(score), k), -1, np.int64)
    chosen[:, :wanted] = np.argsort(-score, axis=1, kind="stable")[:, :wanted]
    chosen[:, :wanted][np.isneginf(np.take_along_axis(score, chosen[:, :wanted], 1))] = -1
    each = np.repeat(chosen, sizes, axis=0)  # (U, k) -> (Q, k)
    image = np.where(each < 0, -1, where[np.arange(count)[:, None], each] if number else -1)
    return Candidates(chosen, image, pair_cosines(queries, references, image))


def pair_cosines(
    queries: NDArray[np.float32], references: NDArray[np.float32], image: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the cosine (Q, k) of each query (Q, D) with the references (R, D) of these rows (Q, k), -inf for -1."""
    similarity = np.full(image.shape, -np.inf)
    for column in range(image.shape[1]):  # a column at a time bounds the memory
        rows = np.flatnonzero(image[:, column] >= 0)
        pairs = queries[rows].astype(float) * references[image[rows, column]]
        similarity[rows, column] = pairs.sum(1)
    return similarity


def nearest_images(
    queries: NDArray[np.float32],
    references: NDArray[np.float32],
    subjects: NDArray[np.int64],
    chosen: NDArray[np.int64],
    count: int,
) -> NDArray[np.int64]:
    """Return the `count` most similar references of each query's chosen subjects, best first, -1 where fewer exist.

    Args:
        queries: (Q, D), L2-normalised.
        references: (R, D), L2-normalised.
        subjects: (R,), each reference's subject number.
        chosen: (Q, k) subject numbers, -1 for none.
        count: at least 1; the result is (Q, k, count).

    Cost: Q x R multiplications of vectors, and as many numbers in memory; queries come in blocks.
    """
    order = np.argsort(subjects, kind="stable")
    numbers = np.arange(int(subjects.max(initial=-1)) + 2)
    ends = np.searchsorted(subjects[order], numbers)
    similarity = queries @ references[order].T
    found = np.full((*chosen.shape, count), -1, np.int64)
    for subject in np.unique(chosen[chosen >= 0]):
        q, c = np.nonzero(chosen == subject)
        mine = slice(ends[subject], ends[subject + 1])
        best = np.argsort(-similarity[q, mine], axis=1, kind="stable")[:, :count]
        found[q, c, : best.shape[1]] = order[mine][best]
    return found


def subject_similarities(
    queries: NDArray[np.float32], references: NDArray[np.float32], subjects: NDArray[np.int64], block: int = 65536
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the cosine of each query with each subject's best image, (Q, S), and that image's row, (Q, S).

    -inf and -1 for subject numbers without images. Arguments and errors as :func:`nearest_subjects`.
    """
    queries, references = np.asarray(queries, np.float32), np.asarray(references, np.float32)
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    if not (np.isfinite(queries).all() and np.isfinite(references).all()):
        raise ValueError("expected finite embeddings, found NaN or infinite ones")
    if queries.ndim != 2 or references.ndim != 2 or queries.shape[1] != references.shape[1]:
        raise ValueError(f"expected embeddings (Q, D) and (R, D), got {queries.shape} and {references.shape}")
    if subjects.shape != references.shape[:1]:
        raise ValueError(f"subjects must have one number a reference, {len(references)}, got {subjects.shape}")
    number = int(subjects.max()) + 1 if len(subjects) else 0
    best = np.full((len(queries), number), -np.inf, np.float32)
    where = np.full((len(queries), number), -1, np.int64)
    order = np.argsort(subjects, kind="stable")
    for start in range(0, len(order), block):
        rows = order[start : start + block]
        similarity = queries @ references[rows].T  # (Q, D) x (D, b) -> (Q, b)
        runs = starts_of_runs(subjects[rows])
        value = np.maximum.reduceat(similarity, runs, axis=1)
        # the first row of each run that attains its maximum; the others count as later than all
        sizes = np.diff(np.r_[runs, len(rows)])
        place = np.where(similarity == np.repeat(value, sizes, axis=1), np.arange(len(rows)), len(rows))
        row = rows[np.minimum.reduceat(place, runs, axis=1)]
        here = subjects[rows[runs]]
        better = value > best[:, here]  # a subject may reach over two blocks
        best[:, here] = np.where(better, value, best[:, here])
        where[:, here] = np.where(better, row, where[:, here])
    return best, where
