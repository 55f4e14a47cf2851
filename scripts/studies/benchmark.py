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

"""The benchmark: every metric on the same pairs, searches and audits of subjects that nothing was fitted on."""

from __future__ import annotations

import copy as copying
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable
from numpy.typing import NDArray

from ..audit.audit import Audit
from ..bundle.files import replacing
from ..embedder.embedding_set import EmbeddingSet
from ..embedder.evaluation import ssim_errors
from ..images.items import Item
from ..images.loading import SliceSet
from ..similarity.verification import Verifier
from .benchmark_report import plot_scores, tables
from .pairs import DUPLICATE, degraded_copies, draw_pairs, duplicate_cap
from .rivals import Method
from .scores import (
    best_of_subjects,
    classify,
    duplicate_auc,
    fit_thresholds,
    macro_f1,
    pair_weights,
    rate_at_false_alarms,
)

__all__ = ["Benchmark", "run_benchmark"]

logger = logging.getLogger(__name__)


class Benchmark(Randomizable):
    """Scores methods on pairs, searches and whole audits, and writes one JSON.

    Args:
        methods: name to :class:`~scripts.studies.rivals.Method`, None where its weights are not given.
        conditions: name to random dictionary transform that moves the generated image, None for none.
        copy: random dictionary transform that makes a duplicate.
        verifier: aligns; gives the cap of the copies.
        audit: the audit that each searching method retrieves for; None leaves the audits out.
        audited: the conditions in which whole audits run.
        reference: the method that the others' differences are taken from.
        pairs: pairs of each label; queries: images of each kind in the search.
        audits: audits of each method; copies: copies, and as many new images, in an audit; train_share: share of the
            test subjects that an audit takes as training subjects.
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
        audit: Audit | None = None,
        audited: Sequence[str] = (),
        reference: str = "ours",
        pairs: int = 500,
        queries: int = 500,
        audits: int = 3,
        copies: int = 60,
        train_share: float = 0.7,
        draws: int = 1000,
        shown: Sequence[int] = (1, 6, 20),
        false_alarms: float = 0.01,
        seed: int = 0,
    ) -> None:
        self.methods, self.conditions, self.copy, self.verifier = methods, conditions, copy, verifier
        self.audit, self.audited, self.reference = audit, audited, reference
        self.pairs, self.queries, self.draws, self.shown, self.false_alarms = pairs, queries, draws, shown, false_alarms
        self.audits, self.copies, self.train_share, self.seed = audits, copies, train_share, seed

    def __call__(self, validation: SliceSet, test: SliceSet, output: str | Path) -> dict[str, Any]:
        """Return and write ``{conditions: {name: {pairs: {method: ...}, search: ..., audit: ...}}, cap, ...}``.

        Thresholds are fitted on pairs of `validation`; `test` is only scored. Rows that the file has are kept, so that
        a stopped benchmark goes on, and a method whose weights come later is all that is run then.
        """
        self.set_random_state(self.seed)
        self.copy.set_random_state(state=self.R)
        cap = duplicate_cap(validation, self.verifier, 400, self.R, 2.0)
        drawn = {
            name: draw_pairs(part, self.pairs, self.copy, cap, self.verifier, self.R)
            for name, part in (("validation", validation), ("test", test))
        }
        sources = self.R.choice(len(test.subject), self.queries)
        copies = degraded_copies(test.images[sources], self.copy, cap, self.verifier)
        weights = pair_weights(drawn["test"].subject, self.draws, self.R)
        path = Path(output)
        result = json.loads(path.read_text()) if path.is_file() else {"conditions": {}}
        result |= {"cap": cap, "pairs": self.pairs, "queries": self.queries, "seed": self.seed}
        result |= {"subjects": {"validation": validation.subjects, "test": test.subjects}}
        for name, transform in self.conditions.items():
            table = result["conditions"].setdefault(name, {"pairs": {}, "search": {}})
            new = {m: method for m, method in self.methods.items() if "macro_f1" not in table["pairs"].get(m, {})}
            if table["pairs"] and not any(new.values()):
                continue
            moved = {part: self._move(pairs.second, transform) for part, pairs in drawn.items()}
            rows = table["pairs"] | self._pair_rows(new, drawn, moved, validation, test, weights)
            table["pairs"] = {method: rows[method] for method in self.methods}
            self._compare(table["pairs"])
            searching = {m: method for m, method in new.items() if method is not None and method.searches}
            rows = table["search"] | self._search_rows(searching, test, sources, self._move(copies, transform))
            table["search"] = {method: rows[method] for method in self.methods if method in rows}
            if self.audit is not None and name in self.audited:
                rows = table.get("audit", {}) | self._audit_rows(searching, test, transform, cap)
                table["audit"] = {method: rows[method] for method in self.methods if method in rows}
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(result, indent=1))
        return result

    def _move(self, images: NDArray, transform: Any) -> NDArray[np.float32]:
        if transform is None:
            return images
        transform.set_random_state(self.seed)  # the same moves for every method and table
        return np.stack([transform({"image": torch.from_numpy(i)[None]})["image"][0].numpy() for i in images])

    def _pair_rows(
        self, methods: Mapping[str, Method | None], drawn, moved, validation: SliceSet, test: SliceSet, weights
    ) -> dict[str, Any]:
        pairs, label = drawn["test"], drawn["test"].label
        table: dict[str, Any] = {}
        for name, method in methods.items():
            if method is None:
                table[name] = {"missing": "weights not given"}
                continue
            fitted = method.fit(validation.images)
            thresholds = fit_thresholds(
                fitted.pairs(drawn["validation"].first, moved["validation"]), drawn["validation"].label
            )
            fitted = method.fit(test.images)
            score = fitted.pairs(pairs.first, moved["test"])
            predicted, duplicate, one = classify(score, thresholds), label == DUPLICATE, np.ones(len(score))
            draws = {
                "macro_f1": macro_f1(label, predicted, weights),
                "duplicate_auc": duplicate_auc(score, label, weights),
                "tpr": rate_at_false_alarms(score, duplicate, self.false_alarms, weights),
            }
            truth = method.truth(pairs.first, pairs.second)
            table[name] = {
                "thresholds": thresholds,
                "macro_f1": float(macro_f1(label, predicted)),
                "duplicate_auc": float(duplicate_auc(score, label, one)),
                "tpr": float(rate_at_false_alarms(score, duplicate, self.false_alarms)),
                "ci95": {key: _interval(values) for key, values in draws.items()},
                "draws": {key: values.round(4).tolist() for key, values in draws.items()},
                "ssim_error": None if truth is None else asdict(ssim_errors(score, truth)),
                "scores": [np.quantile(score[label == c], np.linspace(0, 1, 101)).round(5).tolist() for c in range(3)],
            }
            logger.info("%s: macro-F1 %.3f", name, table[name]["macro_f1"])
        return table

    def _compare(self, rows: dict[str, Any]) -> None:
        """Give each row the interval of the reference minus it, of the same draws."""
        reference = rows.get(self.reference, {}).get("draws")
        for row in rows.values():
            if reference is not None and "draws" in row:
                row["reference_minus"] = {
                    key: _interval(np.subtract(reference[key], values)) for key, values in row["draws"].items()
                }

    def _search_rows(
        self, methods: Mapping[str, Method], test: SliceSet, sources: NDArray, moved: NDArray
    ) -> dict[str, Any]:
        """Recall of the source subject, and of copies at a share of false alarms among searches without a source."""
        table: dict[str, Any] = {}
        source = test.subject[sources]
        # a search is of its source's subject: those are resampled
        weights = pair_weights(np.stack([source, source], 1), self.draws, np.random.RandomState(self.seed))
        for name, method in methods.items():
            fitted = method.fit(test.images)
            fitted.matrix(moved[:8], test.images)  # the references are embedded once for all searches
            start = time.perf_counter()
            score = best_of_subjects(fitted.matrix(moved, test.images), test.subject)  # (Q, S)
            seconds = time.perf_counter() - start
            rows = np.arange(len(score))
            own = score[rows, source]
            rank = (score > own[:, None]).sum(1)  # subjects that come before the source
            best = np.where(rank == 0, own, -np.inf)  # a wrong subject is no detection
            # the same images without their subject: searches that have nothing to find
            score[rows, source] = -np.inf
            pooled, copy = np.r_[best, score.max(1)], np.arange(2 * len(score)) < len(score)
            tpr = rate_at_false_alarms(pooled, copy, self.false_alarms, np.tile(weights, 2))
            table[name] = {
                "recall": {str(k): float((rank < k).mean()) for k in self.shown},
                "tpr": float(rate_at_false_alarms(pooled, copy, self.false_alarms)),
                "ci95": {
                    "recall": {
                        str(k): _interval((weights * (rank < k)).sum(1) / weights.sum(1).clip(1)) for k in self.shown
                    },
                    "tpr": _interval(tpr),
                },
                "searches_per_second": len(score) / seconds,
            }
        return table

    def _audit_rows(self, methods: Mapping[str, Method], test: SliceSet, transform: Any, cap: float) -> dict[str, Any]:
        """Recall and false-discovery share of whole audits, the method retrieving."""
        table: dict[str, Any] = {name: {"recall": [], "false_share": []} for name in methods}
        for draw in range(self.audits):
            rng = np.random.RandomState(self.seed + draw)
            self.copy.set_random_state(state=rng)
            subjects = rng.permutation(test.subjects)
            known = np.isin(test.subject, subjects[: round(self.train_share * test.subjects)])
            train = np.flatnonzero(known)
            copied = rng.choice(train, self.copies)
            new = rng.choice(np.flatnonzero(~known), self.copies)
            # new images are degraded alike
            images = degraded_copies(test.images[np.r_[copied, new]], self.copy, cap, self.verifier)
            images = self._move(images, transform)
            for name, method in methods.items():
                found = self._audit(method.fit(test.images[train]), test, train, images)
                called, right = found
                truth = np.r_[test.subject[copied], np.full(len(new), -1)]
                true = called & (right == truth)
                table[name]["recall"].append(float(true.sum() / self.copies))
                table[name]["false_share"].append(float((called & (truth < 0)).sum() / max(1, called.sum())))
                logger.info("%s: recall %.3f", name, table[name]["recall"][-1])
        return table

    def _audit(
        self, method: Method, test: SliceSet, train: NDArray, images: NDArray
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return which images are called, and the subject that each is said to copy."""
        assert self.audit is not None
        references = test.images[train]
        audit = copying.copy(self.audit)
        audit.embedder = _Scores(method, references)  # type: ignore[assignment]
        # a query's vector is its row of scores, a reference's a unit vector: their inner product is the score
        known = _embedding_set(references, test.subject[train], test.level[train], np.eye(len(train), dtype=np.float32))
        scores = method.matrix(images, references)
        query = _embedding_set(images, np.arange(len(images)), np.full(len(images), np.nan), scores)
        result = audit(known, query)
        return result.memorized, np.array([int(name) for name in result.subject_names])[
            result.found.at_best(result.found.subject)
        ]


class _Scores:
    """Stands in for an audit's embedder: an image's vector is its row of scores with the references."""

    def __init__(self, method: Method, references: NDArray) -> None:
        self.method, self.references = method, references

    def embed_images(self, images: NDArray) -> NDArray[np.float32]:
        """Return the scores (N, R) of images (N, H, W)."""
        return self.method.matrix(np.asarray(images, np.float32), self.references)


def _embedding_set(images: NDArray, subject: NDArray, level: NDArray, vectors: NDArray) -> EmbeddingSet:
    items: list[Item] = [{"id": str(row), "image": "", "subject_id": str(number)} for row, number in enumerate(subject)]
    rows = np.arange(len(items))
    return EmbeddingSet(items, rows, np.full(len(rows), -1), level, vectors, images.astype(np.float16), [])


def _interval(values: NDArray) -> list[float]:
    return np.percentile(values, [2.5, 97.5]).round(4).tolist()


def run_benchmark(
    benchmark: Benchmark, split: Mapping[str, Sequence[Item]], preprocessing: Callable, output_dir: str | Path
) -> None:
    """Run the benchmark on whole-head and, where there are masks, on skull-stripped images; write its tables.

    `split` has the parts `validation` and `test`. Writes, in `output_dir`, VARIANT.json with the bootstrap's draws,
    VARIANT.png with the scores' distributions, and of all variants benchmark.json, without draws, and benchmark.md.
    """
    folder, text, merged = Path(output_dir), [], {}
    for variant in sorted({item["variant"] for item in split["test"]}, reverse=True):
        parts = [
            SliceSet.load([item for item in split[part] if item["variant"] == variant], preprocessing)
            for part in ("validation", "test")
        ]
        result = benchmark(parts[0], parts[1], folder / f"{variant}.json")
        plot_scores(result, folder / f"{variant}.png")
        text.append(f"## {variant}\n\n{tables(result)}")
        for table in result["conditions"].values():
            for row in table["pairs"].values():
                row.pop("draws", None)
        merged[variant] = result
    (folder / "benchmark.json").write_text(json.dumps(merged, separators=(",", ":")))
    (folder / "benchmark.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    print("\n\n".join(text))
