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

"""Exact search for the training subjects most similar to each query, streamed: memory does not grow with the pairs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..bundle.progress import Progress
from ..images.subjects import starts_of_runs
from ..similarity.kernels import Behind, kernel
from .batched_neighbors import best_of_queries

__all__ = ["Candidates", "nearest_images", "nearest_subjects", "pair_cosines", "subject_similarities"]

TILE = 2048  # queries, and references, whose cosines are held at a time; 16 MB of them
CHUNK = 64  # cosines whose largest is looked at before each of them is
TABLE = 1 << 24  # entries of a table of queries and subjects


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
    block: int = TILE,
    device: torch.device | str = "cpu",
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
        block: queries, and references, compared at a time.
        device: where queries that are units of their own are compared: the processor, or by torch a GPU, which has
            blocks of its own.

    Raises:
        ValueError: if shapes disagree, k or block is below 1, units are not ascending, or an embedding is not finite.

    Cost: Q x R x D multiplications, which take four fifths of the time (benchmarks/scale.py). Memory beside the
    arguments and the result is block x block floats; where units are of several queries, a table of some units' queries
    and all subjects, 200 MB or that of one unit.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    queries, references = np.asarray(queries, np.float32), np.asarray(references, np.float32)
    _check(queries, references, subjects, block)
    count = len(queries)
    units = np.arange(count) if units is None else np.asarray(units)
    if len(units) != count or (np.diff(units) < 0).any():
        raise ValueError(f"units must be one ascending number a query, {count}, got {len(units)}")
    starts = starts_of_runs(units)
    barred = np.full(len(starts), -1) if exclude is None else np.asarray(exclude, np.int64)
    order = _by_subject(subjects)
    if len(starts) == count and torch.device(device).type != "cpu":
        chosen, image = best_of_queries(queries, references, subjects, order, k, barred, torch.device(device))
    elif len(starts) == count:
        chosen, image = _best_of_queries(queries, references, subjects, order, k, barred, block)
    else:
        chosen, image = _best_of_units(queries, references, subjects, order, k, starts, barred, block)
    return Candidates(chosen, image, pair_cosines(queries, references, image))


def _best_of_queries(
    queries: NDArray[np.float32],
    references: NDArray[np.float32],
    subjects: NDArray[np.int64],
    order: NDArray[np.int64],
    k: int,
    barred: NDArray[np.int64],
    block: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the k best subjects of each query and their best images, (Q, k) both."""
    subject, image = (np.full((len(queries), k), -1, np.int64) for _ in range(2))
    with Progress(total=len(queries), desc="comparing embeddings", unit="image") as bar, Behind() as behind:
        for start in range(0, len(queries), block):
            part = slice(start, start + block)
            value = np.full((len(queries[part]), k), -np.inf, np.float32)
            for rows in _tiles(order, block):
                similarity = queries[part] @ references[rows].T  # (q, D) x (D, r) -> (q, r)
                known = subjects[rows], rows, barred[part]
                behind(_keep_best, len(value), similarity, *known, subject[part], image[part], value)
            bar.update(len(value))
    return subject, image


def _best_of_units(
    queries: NDArray[np.float32],
    references: NDArray[np.float32],
    subjects: NDArray[np.int64],
    order: NDArray[np.int64],
    k: int,
    starts: NDArray[np.int64],
    barred: NDArray[np.int64],
    block: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the k best subjects (U, k) of units whose queries begin at `starts`, and their best images (Q, k)."""
    number = int(subjects.max(initial=-1)) + 1
    ends = np.r_[starts[1:], len(queries)]
    chosen, image = np.full((len(starts), k), -1, np.int64), np.full((len(queries), k), -1, np.int64)
    most, first = max(1, TABLE // max(1, number)), 0
    with Progress(total=len(queries), desc="comparing embeddings", unit="image") as bar:
        while first < len(starts):
            last = max(first + 1, int(np.searchsorted(ends, starts[first] + most, side="right")))
            rows = slice(starts[first], ends[last - 1])
            best, where = _table(queries[rows], references, subjects, order, block)
            sizes = ends[first:last] - starts[first:last]
            score = (
                np.add.reduceat(best, starts[first:last] - starts[first], axis=0) / sizes[:, None]
            )  # (q, S) -> (u, S)
            out = barred[first:last]
            there = (out >= 0) & (out < number)  # a subject without images cannot be found anyway
            score[np.flatnonzero(there), out[there]] = -np.inf
            found = np.argsort(-score, axis=1, kind="stable")[:, :k]
            found = np.where(np.isneginf(np.take_along_axis(score, found, 1)), -1, found)
            chosen[first:last, : found.shape[1]] = found
            each = np.repeat(found, sizes, axis=0)  # (u, k) -> (q, k)
            image[rows, : found.shape[1]] = np.where(each < 0, -1, np.take_along_axis(where, each, 1))
            bar.update(ends[last - 1] - starts[first])
            first = last
    return chosen, image


@kernel(fastmath={"nnan", "nsz", "reassoc"})  # not "ninf": what is not yet known is -inf
def _keep_best(
    start: int,
    stop: int,
    similarity: NDArray,
    subject: NDArray,
    row: NDArray,
    barred: NDArray,
    best_subject: NDArray,
    best_row: NDArray,
    best_value: NDArray,
) -> None:
    """Let the cosines (q, r) with further references enter the k best distinct subjects (q, k), in descending order.

    Of equals the first stays. A chunk whose largest cosine is too small, as nearly all are, is not looked at twice.
    """
    k, count = best_subject.shape[1], similarity.shape[1]
    for q in range(start, stop):
        for first in range(0, count, CHUNK):
            last = min(first + CHUNK, count)
            top = similarity[q, first]
            for j in range(first, last):
                top = max(top, similarity[q, j])
            if not top > best_value[q, k - 1]:
                continue
            for j in range(first, last):
                value = similarity[q, j]
                if not value > best_value[q, k - 1] or subject[j] == barred[q]:
                    continue
                place = k - 1
                for u in range(k):  # a subject stands once
                    if best_subject[q, u] == subject[j]:
                        place = u
                        break
                if best_subject[q, place] == subject[j] and not value > best_value[q, place]:
                    continue
                while place > 0 and value > best_value[q, place - 1]:
                    best_subject[q, place] = best_subject[q, place - 1]
                    best_row[q, place] = best_row[q, place - 1]
                    best_value[q, place] = best_value[q, place - 1]
                    place -= 1
                best_subject[q, place], best_row[q, place], best_value[q, place] = subject[j], row[j], value


@kernel()
def _keep_all(
    start: int, stop: int, similarity: NDArray, subject: NDArray, row: NDArray, best: NDArray, where: NDArray
) -> None:
    """Let the cosines (q, r) with further references enter the best of each subject, (q, S). Of equals the first
    stays."""
    for q in range(start, stop):
        for j in range(similarity.shape[1]):
            if similarity[q, j] > best[q, subject[j]]:
                best[q, subject[j]], where[q, subject[j]] = similarity[q, j], row[j]


def pair_cosines(
    queries: NDArray[np.float32], references: NDArray[np.float32], image: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the cosine (Q, k) of each query (Q, D) with the references (R, D) of these rows (Q, k), -inf for -1."""
    similarity = np.full(image.shape, -np.inf)
    for start in range(0, len(image), TILE):  # some pairs at a time, whose products are held
        for column in range(image.shape[1]):
            rows = start + np.flatnonzero(image[start : start + TILE, column] >= 0)
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

    Each cosine is computed by itself in float64: the choice does not depend on which queries come together. Cost: of
    each query the images of its subjects, about 1 ns a number.
    """
    order = np.argsort(subjects, kind="stable")
    numbers = np.arange(int(subjects.max(initial=-1)) + 2)
    ends = np.searchsorted(subjects[order], numbers)
    found = np.full((*chosen.shape, count), -1, np.int64)
    for subject in np.unique(chosen[chosen >= 0]):
        q, c = np.nonzero(chosen == subject)
        mine = order[ends[subject] : ends[subject + 1]]
        similarity = np.einsum("qd,rd->qr", queries[q].astype(float), references[mine].astype(float))
        best = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
        found[q, c, : best.shape[1]] = mine[best]
    return found


def subject_similarities(
    queries: NDArray[np.float32], references: NDArray[np.float32], subjects: NDArray[np.int64], block: int = TILE
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the cosine of each query with each subject's best image, (Q, S), and that image's row, (Q, S).

    -inf and -1 for subject numbers without images. Arguments and errors as :func:`nearest_subjects`. For some queries:
    the result is 12 bytes a query and subject.
    """
    queries, references = np.asarray(queries, np.float32), np.asarray(references, np.float32)
    _check(queries, references, subjects, block)
    return _table(queries, references, subjects, _by_subject(subjects), block)


def _table(
    queries: NDArray[np.float32],
    references: NDArray[np.float32],
    subjects: NDArray[np.int64],
    order: NDArray[np.int64],
    block: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    number = int(subjects.max(initial=-1)) + 1
    best, where = np.full((len(queries), number), -np.inf, np.float32), np.full((len(queries), number), -1, np.int64)
    with Behind() as behind:
        for start in range(0, len(queries), block):
            part = slice(start, start + block)
            for rows in _tiles(order, block):
                similarity = queries[part] @ references[rows].T
                behind(_keep_all, len(similarity), similarity, subjects[rows], rows, best[part], where[part])
    return best, where


def _by_subject(subjects: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows by subject, so that of equal cosines that of the lowest subject and row comes first."""
    return np.argsort(subjects, kind="stable")


def _tiles(order: NDArray[np.int64], block: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(order), block):
        yield order[start : start + block]


def _check(
    queries: NDArray[np.float32], references: NDArray[np.float32], subjects: NDArray[np.int64], block: int
) -> None:
    """Raise a ValueError for what cannot be searched."""
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    for vectors in (queries, references):
        for start in range(0, len(vectors), TILE):
            if not np.isfinite(vectors[start : start + TILE]).all():
                raise ValueError("expected finite embeddings, found NaN or infinite ones")
    if queries.ndim != 2 or references.ndim != 2 or queries.shape[1] != references.shape[1]:
        raise ValueError(f"expected embeddings (Q, D) and (R, D), got {queries.shape} and {references.shape}")
    if subjects.shape != references.shape[:1]:
        raise ValueError(f"subjects must have one number a reference, {len(references)}, got {subjects.shape}")
