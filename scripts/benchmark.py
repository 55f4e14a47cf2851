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


"""The benchmark: every metric on the same pairs and searches of subjects that nothing was fitted on."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable
from numpy.typing import NDArray

from .rivals import Method
from .slices import foreground
from .ssim import ssim_pairs
from .verification import Verifier

__all__ = ["Benchmark", "Pairs", "Slices", "draw_pairs", "fit_thresholds", "macro_f1", "pair_weights", "run_benchmark"]

logger = logging.getLogger(__name__)

DIFFERENT, SIMILAR, DUPLICATE = range(3)


@dataclass(frozen=True)
class Slices:
    """The slices of some subjects: `images` (N, H, W) in [0, 1], `subject` (N,) numbers, `level` (N,) in mm."""

    images: NDArray[np.float32]
    subject: NDArray[np.int64]
    level: NDArray[np.float64]

    @classmethod
    def of(cls, items: Sequence[dict[str, Any]], preprocessing: Callable) -> Slices:
        """Load the slices of all items; the subjects are numbered in the order of their names."""
        names = sorted({item["subject_id"] for item in items})
        rows = []
        for item in items:
            found = preprocessing(dict(item))
            rows += [(names.index(item["subject_id"]), s) for s in (found if isinstance(found, list) else [found])]
        return cls(
            np.stack([np.asarray(s["image"], np.float32)[0] for _, s in rows]),
            np.array([number for number, _ in rows]),
            np.array([s["level"] for _, s in rows], float),
        )


@dataclass(frozen=True)
class Pairs:
    """Labelled pairs: a training image (`first`) and a generated one before it is moved (`second`), each (P, H, W).

    `label` (P,) is DIFFERENT, SIMILAR or DUPLICATE; `subject` (P, 2) the subjects on both sides.
    """

    first: NDArray[np.float32]
    second: NDArray[np.float32]
    label: NDArray[np.int64]
    subject: NDArray[np.int64]


def _partners(slices: Slices, row: int, label: int, near_mm: tuple[float, float], level_mm: float) -> NDArray[np.int64]:
    """Rows that make a pair of this label with `row`."""
    same = slices.subject == slices.subject[row]
    distance = np.abs(slices.level - slices.level[row])
    if label == SIMILAR:
        # without levels (planar images), another image of the same subject
        near = (distance >= near_mm[0]) & (distance <= near_mm[1]) if np.isfinite(slices.level[row]) else True
        return np.flatnonzero(same & near & (np.arange(len(same)) != row))
    return np.flatnonzero(~same & ((distance <= level_mm) | ~np.isfinite(distance)))


def duplicate_cap(slices: Slices, verifier: Verifier, count: int, rng: np.random.RandomState, level_mm: float) -> float:
    """Return the 99th percentile of aligned foreground SSIM between different subjects at one level.

    A degraded image that is no nearer to its source than this is no duplicate by any objective rule.
    """
    first, second = [], []
    for row in rng.choice(len(slices.subject), count):
        others = _partners(slices, row, DIFFERENT, (0, 0), level_mm)
        if len(others):
            first.append(row)
            second.append(rng.choice(others))
    return float(np.percentile(verifier.align(slices.images[first], slices.images[second]).aligned_ssim, 99))


def draw_pairs(
    slices: Slices,
    count: int,
    copy: Any,
    cap: float,
    verifier: Verifier,
    rng: np.random.RandomState,
    near_mm: tuple[float, float] = (2.0, 4.0),
    level_mm: float = 2.0,
) -> Pairs:
    """Return `count` pairs of each label, classes 1:1:1.

    A duplicate is a copy by the random transform `copy`, drawn anew while its aligned foreground SSIM to the source is
    at most `cap`; similar is another slice of the subject `near_mm` away, different another subject at the level.

    Raises:
        ValueError: if no image has a partner, or `copy` never stays above the cap.
    """
    rows, other, labels = [], [], []
    for label in (SIMILAR, DIFFERENT):
        order = rng.permutation(len(slices.subject))
        chosen = [(row, p) for row in order if len(p := _partners(slices, row, label, near_mm, level_mm))]
        if not chosen:
            raise ValueError(f"expected images with a partner for label {label}, found none among {len(order)}")
        for number in range(count):
            row, partners = chosen[number % len(chosen)]
            rows.append(row)
            other.append(rng.choice(partners))
            labels.append(label)
    first, second = slices.images[rows], slices.images[other]
    sources = rng.choice(len(slices.subject), count)
    copies = np.zeros((count, *slices.images.shape[1:]), np.float32)
    left = np.arange(count)
    for _ in range(50):
        for n in left:
            copies[n] = copy({"image": torch.from_numpy(slices.images[sources[n]])[None]})["image"][0].numpy()
        left = left[verifier.align(copies[left], slices.images[sources[left]]).aligned_ssim <= cap]
        if not len(left):
            break
    else:
        raise ValueError(f"expected copies with an aligned SSIM above {cap:.3f}, found none of {len(left)} in 50 draws")
    return Pairs(
        np.concatenate([first, slices.images[sources]]),
        np.concatenate([second, copies]),
        np.array(labels + [DUPLICATE] * count),
        np.stack(
            [
                np.r_[slices.subject[rows], slices.subject[sources]],
                np.r_[slices.subject[other], slices.subject[sources]],
            ],
            axis=1,
        ),
    )


def macro_f1(label: NDArray, predicted: NDArray, weight: NDArray | None = None) -> NDArray[np.float64]:
    """Return the mean F1 of the three classes; `weight` (..., P) gives one value for each leading index."""
    weight = np.ones(len(label)) if weight is None else weight
    scores = []
    for c in range(3):
        hit = (weight * ((label == c) & (predicted == c))).sum(-1)
        scores.append(
            2 * hit / np.maximum((weight * (label == c)).sum(-1) + (weight * (predicted == c)).sum(-1), 1e-12)
        )
    return np.mean(scores, axis=0)


def fit_thresholds(score: NDArray, label: NDArray, steps: int = 200) -> tuple[float, float]:
    """Return the two cuts on the score, different <= a < similar <= b < duplicate, of the highest macro-F1.

    Searched over `steps` quantiles of the scores, the same way for every method.
    """
    cuts = np.unique(np.quantile(score, np.linspace(0, 1, steps + 1)[1:-1]))
    # counts of each class above each cut give every confusion matrix
    above = np.stack([(score[None, label == c] > cuts[:, None]).sum(1) for c in range(3)])  # (3, C)
    total = np.bincount(label, minlength=3)
    a, b = np.triu_indices(len(cuts))
    f_different = 2 * (total[0] - above[0, a]) / (total[0] + (total[:, None] - above[:, a]).sum(0))
    f_similar = 2 * (above[1, a] - above[1, b]) / (total[1] + (above[:, a] - above[:, b]).sum(0))
    f_duplicate = 2 * above[2, b] / np.maximum(total[2] + above[:, b].sum(0), 1)
    best = int(np.argmax(f_different + f_similar + f_duplicate))
    return float(cuts[a[best]]), float(cuts[b[best]])


def classify(score: NDArray, thresholds: tuple[float, float]) -> NDArray[np.int64]:
    """Return DIFFERENT, SIMILAR or DUPLICATE for each score."""
    return (score > thresholds[0]).astype(int) + (score > thresholds[1])


def duplicate_auc(score: NDArray, label: NDArray, weight: NDArray) -> NDArray[np.float64]:
    """Return P(score of a duplicate > score of another pair), ties half, for weights (..., P)."""
    values, inverse = np.unique(score, return_inverse=True)
    shape = (*weight.shape[:-1], len(values))
    positive, negative = np.zeros(shape), np.zeros(shape)
    flat_p, flat_n, flat_w = (
        positive.reshape(-1, len(values)),
        negative.reshape(-1, len(values)),
        weight.reshape(-1, len(score)),
    )
    for target, source, wanted in ((flat_p, flat_w, True), (flat_n, flat_w, False)):
        for row in range(len(target)):
            target[row] = np.bincount(inverse, source[row] * ((label == DUPLICATE) == wanted), len(values))
    below = np.cumsum(negative, -1) - negative / 2
    return (positive * below).sum(-1) / np.maximum(positive.sum(-1) * negative.sum(-1), 1e-12)


def rate_at_false_alarms(score: NDArray, positive: NDArray, share: float) -> float:
    """Return the share of positives above the cut that `share` of the others pass."""
    cut = np.quantile(score[~positive], 1 - share, method="higher")
    return float((score[positive] > cut).mean())


def pair_weights(subject: NDArray, draws: int, rng: np.random.RandomState) -> NDArray[np.float64]:
    """Return bootstrap weights (draws, P): subjects are resampled, on both sides of a pair.

    A pair of subjects a and b counts n_a n_b times, one within a subject n_a times, n being multinomial counts.
    """
    number = int(subject.max()) + 1
    counts = rng.multinomial(number, np.full(number, 1 / number), draws).astype(float)
    first, second = counts[:, subject[:, 0]], counts[:, subject[:, 1]]
    return np.where(subject[:, 0] == subject[:, 1], first, first * second)


class Benchmark(Randomizable):
    """Scores methods on pairs and searches, and writes one JSON.

    Args:
        methods: name to :class:`~scripts.rivals.Method`, None where its weights are not given.
        conditions: name to random dictionary transform that moves the generated image, None for none.
        copy: random dictionary transform that makes a duplicate.
        verifier: aligns; gives the cap of the copies.
        pairs: pairs of each label; queries: images of each kind in the search.
        draws: bootstrap draws.
        shown: subjects within which the source is looked for.
        false_alarms: share of searches without a copy that may pass.
        seed: of all drawing.
    """

    def __init__(
        self,
        methods: Mapping[str, Method | None],
        conditions: Mapping[str, Any],
        copy: Any,
        verifier: Verifier,
        pairs: int = 500,
        queries: int = 500,
        draws: int = 1000,
        shown: Sequence[int] = (1, 6, 20),
        false_alarms: float = 0.01,
        seed: int = 0,
    ) -> None:
        self.methods, self.conditions, self.copy, self.verifier = methods, conditions, copy, verifier
        self.pairs, self.queries, self.draws, self.shown, self.false_alarms = pairs, queries, draws, shown, false_alarms
        self.seed = seed

    def __call__(self, validation: Slices, test: Slices, output: str | Path) -> dict[str, Any]:
        """Return and write ``{conditions: {name: {pairs: {method: ...}, search: {method: ...}}}, cap, ...}``.

        Thresholds are fitted on pairs of `validation`; `test` is only scored.
        """
        self.set_random_state(self.seed)
        self.copy.set_random_state(state=self.R)
        cap = duplicate_cap(validation, self.verifier, 400, self.R, 2.0)
        drawn = {
            name: draw_pairs(part, self.pairs, self.copy, cap, self.verifier, self.R)
            for name, part in (("validation", validation), ("test", test))
        }
        queries = self._queries(test, cap)
        weights = pair_weights(drawn["test"].subject, self.draws, self.R)
        path = Path(output)
        result = json.loads(path.read_text()) if path.is_file() else {"conditions": {}}
        result |= {"cap": cap, "pairs": self.pairs, "queries": self.queries, "seed": self.seed}
        for name, transform in self.conditions.items():
            if name in result["conditions"]:
                continue
            moved = {part: self._move(pairs.second, transform) for part, pairs in drawn.items()}
            result["conditions"][name] = {
                "pairs": self._pair_table(drawn, moved, validation, test, weights),
                "search": self._search_table(test, queries[0], self._move(queries[1], transform)),
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps(result, indent=1))
            temporary.replace(path)
        return result

    def _move(self, images: NDArray, transform: Any) -> NDArray[np.float32]:
        if transform is None:
            return images
        transform.set_random_state(self.seed)  # the same moves for every method and table
        return np.stack([transform({"image": torch.from_numpy(i)[None]})["image"][0].numpy() for i in images])

    def _queries(self, test: Slices, cap: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The subjects that are copied, and the copies."""
        found = draw_pairs(test, self.queries, self.copy, cap, self.verifier, self.R)
        copies = found.label == DUPLICATE
        return found.subject[copies, 0], found.second[copies]

    def _pair_table(self, drawn, moved, validation: Slices, test: Slices, weights) -> dict[str, Any]:
        pairs = drawn["test"]
        truth = foreground_ssim(pairs.first, pairs.second)
        table: dict[str, Any] = {}
        for name, method in self.methods.items():
            if method is None:
                table[name] = {"missing": "weights not given"}
                continue
            fitted = method.fit(validation.images)
            thresholds = fit_thresholds(
                fitted.pairs(drawn["validation"].first, moved["validation"]), drawn["validation"].label
            )
            fitted = method.fit(test.images)
            score = fitted.pairs(pairs.first, moved["test"])
            predicted = classify(score, thresholds)
            draws = macro_f1(pairs.label, predicted, weights)
            areas = duplicate_auc(score, pairs.label, weights)
            table[name] = {
                "thresholds": thresholds,
                "macro_f1": float(macro_f1(pairs.label, predicted)),
                "macro_f1_ci95": np.percentile(draws, [2.5, 97.5]).tolist(),
                "macro_f1_draws": draws.round(4).tolist(),
                "duplicate_auc": float(duplicate_auc(score, pairs.label, np.ones(len(score)))),
                "duplicate_auc_ci95": np.percentile(areas, [2.5, 97.5]).tolist(),
                "tpr": rate_at_false_alarms(score, pairs.label == DUPLICATE, self.false_alarms),
                "ssim_error": _errors(score, truth) if method.estimates_ssim else None,
                "scores": {
                    label: np.quantile(score[pairs.label == label], np.linspace(0, 1, 41)).tolist()
                    for label in range(3)
                },
            }
            logger.info("%s: macro-F1 %.3f", name, table[name]["macro_f1"])
        return table

    def _search_table(self, test: Slices, source: NDArray, moved: NDArray) -> dict[str, Any]:
        """Recall of the source subject, and of copies at a share of false alarms among searches without a source."""
        table: dict[str, Any] = {}
        for name, method in self.methods.items():
            if method is None or not method.searches:
                continue
            start = time.perf_counter()
            score = best_of_subjects(method.fit(test.images).matrix(moved, test.images), test.subject)  # (Q, S)
            seconds = time.perf_counter() - start
            rows = np.arange(len(score))
            own = score[rows, source]
            rank = (score > own[:, None]).sum(1)  # subjects that come before the source
            # the same images without their subject: searches that have nothing to find
            score[rows, source] = -np.inf
            cut = np.quantile(score.max(1), 1 - self.false_alarms, method="higher")
            table[name] = {
                "recall": {str(k): float((rank < k).mean()) for k in self.shown},
                "tpr": float(((rank == 0) & (own > cut)).mean()),
                "searches_per_second": len(score) / seconds,
            }
        return table


def best_of_subjects(score: NDArray, subject: NDArray) -> NDArray:
    """Return the best score (Q, S) of each subject's references, from (Q, R)."""
    order = np.argsort(subject, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(subject[order]) > 0])
    return np.maximum.reduceat(score[:, order], starts, axis=1)


def foreground_ssim(first: NDArray, second: NDArray) -> NDArray[np.float32]:
    """Return the foreground SSIM of pairs of images (P, H, W) in [0, 1]."""
    masks = [np.asarray(foreground(torch.from_numpy(images))) for images in (first, second)]
    return np.asarray(
        ssim_pairs(first, second, form="foreground", data_range=1.0, foreground_x=masks[0], foreground_y=masks[1])
    )


def _errors(score: NDArray, truth: NDArray, bins: int = 10) -> dict[str, Any]:
    """Mean absolute error of the score in bins of SSIM, a constant's, and the spread of SSIM itself."""
    index = np.minimum((truth.clip(0) * bins).astype(int), bins - 1)
    occupied = [b for b in range(bins) if (index == b).sum() >= 10]
    error = np.abs(score - truth)
    return {
        "bins": {f"{b / bins:.1f}": float(error[index == b].mean()) for b in occupied},
        "mean_of_bins": float(np.mean([error[index == b].mean() for b in occupied])),
        "constant": float(np.abs(truth - np.median(truth)).mean()),
        "spread": float(truth.std()),
    }


def run_benchmark(
    benchmark: Benchmark, split: Mapping[str, Sequence[dict[str, Any]]], preprocessing: Callable, output_dir: str | Path
) -> None:
    """Run the benchmark on whole-head and, where there are masks, on skull-stripped images; write its tables.

    `split` has the parts `validation` and `test`. Writes VARIANT.json, and all tables to benchmark.md, in `output_dir`.
    """
    folder, text = Path(output_dir), []
    for variant in sorted({item["variant"] for item in split["test"]}, reverse=True):
        parts = [
            Slices.of([item for item in split[part] if item["variant"] == variant], preprocessing)
            for part in ("validation", "test")
        ]
        result = benchmark(parts[0], parts[1], folder / f"{variant}.json")
        text.append(f"## {variant}\n\n{tables(result)}")
    (folder / "benchmark.md").write_text("\n\n".join(text) + "\n")
    print("\n\n".join(text))


def tables(result: Mapping[str, Any]) -> str:
    """Return the pair and search tables of a result as Markdown, a row a method."""
    lines = []
    for condition, table in result["conditions"].items():
        lines += [
            f"### {condition}",
            "",
            "| method | macro-F1 (95 % interval) | duplicate AUC | TPR at 1 % FPR | error to SSIM "
            "| source within 1 / 6 / 20 | TPR at 1 % false searches | searches a second |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name, row in table["pairs"].items():
            if "missing" in row:
                lines.append(f"| {name} | {row['missing']} | | | | | | |")
                continue
            low, high = row["macro_f1_ci95"]
            error, search = row["ssim_error"], table["search"].get(name)
            cells = [
                name,
                f"{row['macro_f1']:.3f} ({low:.3f}–{high:.3f})",
                f"{row['duplicate_auc']:.3f}",
                f"{row['tpr']:.2f}",
                f"{error['mean_of_bins']:.3f}" if error else "",
                " / ".join(f"{value:.3f}" for value in search["recall"].values()) if search else "",
                f"{search['tpr']:.2f}" if search else "",
                f"{search['searches_per_second']:.0f}" if search else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip()
