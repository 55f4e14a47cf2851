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

"""How far people agree on pairs of images, and metrics with people: Fleiss' and Cohen's kappa."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..bundle.files import replacing
from ..bundle.text import visible
from ..decision.labels import Label
from .benchmark_results import interval
from .ratings import UNRATED, Ratings
from .scores import pair_weights

__all__ = ["Agreement", "Kappa", "agreement", "cohen_kappa", "fleiss_kappa", "majority", "write_agreement"]


def fleiss_kappa(counts: NDArray, weight: NDArray | None = None) -> NDArray[np.float64]:
    """Return how far raters agree beyond chance: 1 if always, 0 as by chance; NaN where chance alone agrees always.

    Fleiss, Psychological Bulletin 76, 1971, eq. 7. As ``statsmodels.stats.inter_rater.fleiss_kappa``, for many
    weightings at once.

    Args:
        counts: (P, C) how many raters gave each answer to a pair; equally many raters a pair, at least two.
        weight: (..., P) of the pairs, one value for each leading index; None: all alike.
    """
    weight = np.ones(len(counts)) if weight is None else weight
    raters = counts[0].sum()
    alike = (counts * (counts - 1)).sum(1) / (raters * (raters - 1))  # (P,), pairs of raters that agree
    observed = (weight * alike).sum(-1) / weight.sum(-1)
    share = weight @ counts / (raters * weight.sum(-1)[..., None])  # (..., C)
    return _beyond_chance(observed, (share**2).sum(-1))


def cohen_kappa(first: NDArray, second: NDArray, weight: NDArray | None = None) -> NDArray[np.float64]:
    """Return how far two raters agree beyond chance, as :func:`fleiss_kappa`.

    Cohen, Educational and Psychological Measurement 20, 1960, eq. 1, without weights of the kinds of disagreement. As
    ``sklearn.metrics.cohen_kappa_score``, for many weightings at once.

    Args:
        first, second: (P,) answers as numbers of :class:`~scripts.decision.labels.Label`.
        weight: (..., P) of the pairs, one value for each leading index; None: all alike.
    """
    weight = np.ones(len(first)) if weight is None else weight
    observed = (weight * (first == second)).sum(-1) / weight.sum(-1)
    shares = [weight @ np.eye(len(Label))[side] / weight.sum(-1)[..., None] for side in (first, second)]  # (..., C)
    return _beyond_chance(observed, (shares[0] * shares[1]).sum(-1))


def _beyond_chance(observed: NDArray, chance: NDArray) -> NDArray[np.float64]:
    left = np.asarray(1 - chance)
    return np.divide(observed - chance, left, out=np.full(left.shape, np.nan), where=left > 1e-12)


def majority(answers: NDArray) -> NDArray[np.int64]:
    """Return the answer (P,) that more raters gave than any other, of (R, P); -1 where two lead, or nobody answered."""
    counts = _counts(answers)
    best = counts.max(1)
    alone = ((counts == best[:, None]).sum(1) == 1) & (best > 0)
    return np.where(alone, counts.argmax(1), UNRATED)


def _counts(answers: NDArray) -> NDArray[np.int64]:
    """Return how often each answer was given to a pair, (P, C), of (R, P)."""
    return (answers[:, :, None] == np.arange(len(Label))).sum(0)


@dataclass(frozen=True)
class Kappa:
    """A kappa over `pairs` pairs with its 95 % interval, of a bootstrap over pairs; None where it is not defined."""

    pairs: int
    kappa: float | None
    ci95: list[float] | None


@dataclass(frozen=True)
class Agreement:
    """How far raters, and methods, agree.

    Attributes:
        raters: how many pairs each rated.
        seconds: the median time for an answer of each rater.
        labels: how many pairs the majority calls by each answer.
        ties: pairs without a majority.
        fleiss: of all raters, over the pairs that each of them rated.
        cohen: of two raters, over the pairs that both rated.
        methods: of each method and the majority, over the pairs that have either.
    """

    raters: dict[str, int]
    seconds: dict[str, float | None]
    labels: dict[str, int]
    ties: int
    fleiss: Kappa
    cohen: dict[str, Kappa]
    methods: dict[str, Kappa]

    def markdown(self) -> str:
        """Return a table of the kappas."""
        rows = [("all raters (Fleiss)", self.fleiss), *self.cohen.items()]
        rows += [(f"{name}, with the majority", kappa) for name, kappa in self.methods.items()]
        labels = ", ".join(f"{count} {name}" for name, count in self.labels.items())
        return "\n".join(
            [
                "| who | pairs | kappa (95 % interval) |",
                "|---|---|---|",
                *(
                    f"| {visible(name).replace('|', '&#124;')} | {kappa.pairs} | {_text(kappa)} |"
                    for name, kappa in rows
                ),
                "",
                f"Majority of {len(self.raters)} raters: {labels}; {self.ties} without one.",
                "",
            ]
        )


def _text(kappa: Kappa) -> str:
    if kappa.kappa is None or kappa.ci95 is None:
        return "not defined: one answer throughout"
    return f"{kappa.kappa:.2f} ({kappa.ci95[0]:.2f} to {kappa.ci95[1]:.2f})"


def agreement(ratings: Ratings, draws: int = 2000, seed: int = 0) -> Agreement:
    """Return how far the raters agree, and each method with their majority.

    Args:
        ratings: of at least two raters.
        draws: of the bootstrap over pairs, at least 1.
        seed: of the bootstrap.

    Raises:
        ValueError: if no pair is rated by all, by two that are compared, or by a method and a majority; or `draws` is
            below 1.
    """
    if draws < 1:
        raise ValueError(f"draws: expected at least 1, found {draws}; change it")
    rng = np.random.RandomState(seed)
    answers = np.stack(list(ratings.answers.values()))  # (R, P)
    called = majority(answers)
    fleiss = _counts(answers[:, _common(answers, "all raters")])
    return Agreement(
        raters={name: int((own != UNRATED).sum()) for name, own in ratings.answers.items()},
        seconds=ratings.seconds,
        labels={label.name.lower(): int((called == label).sum()) for label in Label},
        ties=int((called == UNRATED).sum()),
        fleiss=_kappa(fleiss_kappa(fleiss), fleiss_kappa(fleiss, _weights(len(fleiss), draws, rng)), len(fleiss)),
        cohen={
            f"{first} and {second}": _cohen(ratings.answers[first], ratings.answers[second], names, draws, rng)
            for names in itertools.combinations(ratings.answers, 2)
            for first, second in [names]
        },
        methods={
            name: _cohen(own, called, (name, "the majority"), draws, rng) for name, own in ratings.methods.items()
        },
    )


def _common(answers: NDArray, who: str) -> NDArray[np.bool_]:
    """Return which pairs (P,) all of (R, P) answered."""
    common = (answers != UNRATED).all(0)
    if not common.any():
        raise ValueError(f"ratings: expected pairs that {who} answered, found none in common; rate the same page")
    return common


def _cohen(first: NDArray, second: NDArray, names: Sequence[str], draws: int, rng: np.random.RandomState) -> Kappa:
    both = np.stack([first, second])
    a, b = both[:, _common(both, " and ".join(names))]
    return _kappa(cohen_kappa(a, b), cohen_kappa(a, b, _weights(len(a), draws, rng)), len(a))


def _weights(pairs: int, draws: int, rng: np.random.RandomState) -> NDArray[np.float64]:
    return pair_weights(np.repeat(np.arange(pairs)[:, None], 2, axis=1), draws, rng)  # (draws, P)


def _kappa(value: NDArray, draws: NDArray, pairs: int) -> Kappa:
    """Return a kappa with the interval of the draws in which it is defined."""
    if not np.isfinite(value):
        return Kappa(pairs, None, None)
    defined = draws[np.isfinite(draws)]
    return Kappa(pairs, round(float(value), 4), interval(defined) if len(defined) else None)


def write_agreement(ratings: Ratings, output_dir: str | os.PathLike, draws: int = 2000, seed: int = 0) -> Agreement:
    """Return, print and write to `output_dir`, as agreement.json and agreement.md, what :func:`agreement` finds.

    Raises:
        ValueError: as :func:`agreement` does.
    """
    found = agreement(ratings, draws, seed)
    output = Path(output_dir)
    with replacing(output / "agreement.json") as path:
        path.write_text(json.dumps(asdict(found), indent=2), encoding="utf-8")
    with replacing(output / "agreement.md") as path:
        path.write_text(found.markdown(), encoding="utf-8")
    print(found.markdown())
    return found
