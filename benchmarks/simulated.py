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

"""Do the error rates hold where the truth is simulated? Points for images; the decisions are the audit's own.

Every study takes the mistake that it must notice as an argument (`corrected=False`), so that a wrong method is seen
to fail.
"""

from __future__ import annotations

from typing import Literal, TypedDict

import bundle_root  # noqa: F401  puts scripts on the path
import numpy as np
from numpy.typing import NDArray
from populations import POPULATIONS, copies_of
from question import FDR
from scipy.spatial.distance import cdist
from scripts.decision.near_copies import near_copies
from scripts.decision.null import Null
from scripts.decision.rates import benjamini_hochberg, leaked_subjects
from scripts.decision.statistic import local_statistic

__all__ = [
    "Leaked",
    "Mixed",
    "leaked",
    "mixed",
    "nothing_memorized",
    "rank_floor",
    "slice_levels",
    "smoothing",
    "stored_twice",
    "strangers_merged",
]


class Mixed(TypedDict):
    """Mean over audits of the false share among the calls, its standard error, and the recall."""

    false_share: float
    standard_error: float
    recall: float


class Leaked(TypedDict):
    """Mean over audits of the false share among the subjects that are called leaked, and the share found."""

    false_share: float
    power: float


# --- one simulated audit


def statistic(distance: NDArray, local: bool = True) -> NDArray[np.float64]:
    """Return T of each row of distances (Q, n) to all training images; `local=False`: raw closeness."""
    return local_statistic(1 - distance) if local else -distance.min(1)


def among(train: NDArray) -> NDArray[np.float64]:
    """Return the distances (n, n) between training images, infinite from each to itself."""
    distance = cdist(train, train)
    np.fill_diagonal(distance, np.inf)
    return distance


def leave_one_out(distance: NDArray, correction: int = 2, local: bool = True) -> Null:
    """Return the null of one image a subject, each left out in turn, from :func:`among`."""
    count = len(distance)
    return Null(statistic(distance, local), np.arange(count), np.full(count, np.nan), correction, distance.argmin(1))


def audit(
    train: NDArray, generated: NDArray, method: Literal["tail", "rank"] = "tail", correction: int = 2
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return p-values and nearest training subjects of the generated images."""
    distance = cdist(generated, train)
    null = leave_one_out(among(train), correction)
    return null.p_values(statistic(distance), np.full(len(generated), np.nan), method), distance.argmin(1)


# --- the studies


def rank_floor(subjects: int, audits: int = 2000, queries: int = 5, corrected: bool = True) -> float:
    """Return P(p <= c / (n + 1)) over its nominal value, the smallest rank p-value with a leave-one-subject-out null.

    Of a query that copies nothing, in three dimensions, where the closest two subjects are nearly always each other's
    neighbour; uncorrected (c = 1, not 2), it is nearly doubled. In more dimensions they are so more rarely.
    """
    rng, hits, c = np.random.RandomState(0), 0, 2 if corrected else 1
    draw = POPULATIONS["three-dimensional"](rng)
    for _ in range(audits):
        p, _ = audit(draw(subjects), draw(queries), "rank", c)
        hits += int((p <= c / (subjects + 1) + 1e-12).sum())
    return hits / (audits * queries) / (c / (subjects + 1))


def slice_levels(audits: int = 400, subjects: int = 100, corrected: bool = True) -> float:
    """Return type-I error over alpha = 0.05 where generated slices lie at two of eight levels.

    Levels differ in how near strangers are. Corrected, the null holds each subject's slice at the query's level;
    else a random one of its slices.
    """
    rng, hits, total = np.random.RandomState(1), 0, 0
    dimensions = np.linspace(3, 24, 8).astype(int)
    for _ in range(audits):
        trains = [rng.normal(size=(subjects, d)) for d in dimensions]
        values = np.stack([statistic(among(train)) for train in trains], axis=1)  # (S, 8)
        if corrected:
            subject, level = np.divmod(np.arange(values.size), 8)
            null = Null(values.ravel(), subject, level.astype(float), 2)
        else:
            random = values[np.arange(subjects), rng.randint(8, size=subjects)]
            null = Null(random, np.arange(subjects), np.full(subjects, np.nan), 2)
        for queried in (0, 1):
            t = statistic(cdist(rng.normal(size=(20, dimensions[queried])), trains[queried]))
            p = null.p_values(t, np.full(20, float(queried)), "rank")
            hits, total = hits + int((p <= FDR).sum()), total + 20
    return hits / total / FDR


def nothing_memorized(population: str, subjects: int, generated: int, audits: int = 400, corrected: bool = True) -> int:
    """Return in how many audits anything is called, where nothing is copied; uncorrected, p <= 0.05 calls."""
    count = 0
    for seed in range(audits):
        draw = POPULATIONS[population](np.random.RandomState(seed))
        p, _ = audit(draw(subjects), draw(generated))
        count += bool(((benjamini_hochberg(p) if corrected else p) <= FDR).any())
    return count


def mixed(
    population: str,
    share: float,
    subjects: int = 100,
    generated: int = 1000,
    audits: int = 200,
    corrected: bool = True,
    adaptive: bool = False,
) -> Mixed:
    """Return how audits fare of which this share of the generated images is copies; uncorrected, p <= 0.05 calls.

    `adaptive` estimates how many are no copies.
    """
    shares, recalls = [], []
    for seed in range(audits):
        rng = np.random.RandomState(seed)
        draw = POPULATIONS[population](rng)
        train, count = draw(subjects), round(share * generated)
        copies = copies_of(train, rng.randint(subjects, size=count), rng)
        p, _ = audit(train, np.concatenate([copies, draw(generated - count)]))
        called = (benjamini_hochberg(p, adaptive) if corrected else p) <= FDR
        shares.append(called[count:].sum() / max(1, called.sum()))
        recalls.append(called[:count].mean() if count else np.nan)
    return Mixed(
        false_share=float(np.mean(shares)),
        standard_error=float(np.std(shares) / np.sqrt(audits)),
        recall=float(np.mean(recalls)),
    )


def smoothing(audits: int = 400, corrected: bool = True) -> float:
    """Return the type-I error at 0.05 where a generator that copies nothing brings all distances to 0.6 of theirs.

    As blur does. Corrected, by the local statistic; else by the raw similarity.
    """
    rng, hits = np.random.RandomState(2), []
    draw = POPULATIONS["iid"](rng)
    for _ in range(audits):
        train = draw(100)
        values = statistic(0.6 * cdist(draw(20), train), corrected)
        p = leave_one_out(among(train), local=corrected).p_values(values, np.full(20, np.nan), "rank")
        hits.append((p <= FDR).mean())
    return float(np.mean(hits))


def leaked(audits: int = 200, corrected: bool = True) -> Leaked:
    """Return the subject-level false share and power: 5 leaked subjects of 100, 200 copies among 5,000 images.

    Corrected, by the subjects' own test; else a subject is leaked once one of its images is called.
    """
    shares, powers = [], []
    for seed in range(audits):
        rng = np.random.RandomState(seed)
        draw = POPULATIONS["iid"](rng)
        train = draw(100)
        copies = copies_of(train, np.repeat(np.arange(5), 40), rng)
        p, nearest = audit(train, np.concatenate([copies, draw(4800)]))
        if corrected:
            found = leaked_subjects(p, nearest).at(FDR)
        else:
            found = np.unique(nearest[benjamini_hochberg(p) <= FDR])
        shares.append((found >= 5).sum() / max(1, len(found)))
        powers.append((found < 5).sum() / 5)
    return Leaked(false_share=float(np.mean(shares)), power=float(np.mean(powers)))


def stored_twice(audits: int = 200, corrected: bool = True) -> float:
    """Return the recall of copies of scans that stand in the training set under two ids, 5 % of 100 subjects.

    Corrected, the two ids are merged into one subject.
    """
    recalls = []
    for seed in range(audits):
        rng = np.random.RandomState(seed)
        draw = POPULATIONS["iid"](rng)
        train = draw(100)
        again = copies_of(train, np.arange(5), rng, closeness=0.02)
        copies = copies_of(train, np.repeat(np.arange(5), 10), rng)
        generated = np.concatenate([copies, draw(950)])

        scans = np.concatenate([train, again])
        own, found = cdist(scans, scans), cdist(generated, scans)
        if corrected:  # the distance to a merged subject is that to the nearer of its scans
            own, found = merged(own[:100]), merged(found)
        np.fill_diagonal(own, np.inf)
        p = leave_one_out(own).p_values(statistic(found), np.full(1000, np.nan))
        recalls.append((benjamini_hochberg(p) <= FDR)[:50].mean())
    return float(np.mean(recalls))


def strangers_merged(population: str, subjects: int, audits: int = 200) -> int:
    """Return in how many audits any two of these different people are taken for one person."""
    count = 0
    for seed in range(audits):
        distance = among(POPULATIONS[population](np.random.RandomState(seed))(subjects))
        first, nearest = statistic(distance), distance.argmin(1)
        distance[np.arange(subjects), nearest] = np.inf
        count += bool(near_copies(first, statistic(distance), np.arange(subjects), nearest, FDR))
    return count


def merged(distance: NDArray) -> NDArray[np.float64]:
    """Return the distances (Q, 100) to subjects of distances (Q, 105) to scans, the last five second scans."""
    return np.c_[np.minimum(distance[:, :5], distance[:, 100:]), distance[:, 5:100]]
