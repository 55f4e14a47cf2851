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

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..images.items import Item, Preprocessing, RandomTransform
from ..images.loading import SliceSet
from .audit_task import AuditTask
from .benchmark_report import plot_scores, tables
from .benchmark_results import BenchmarkResult, ConditionResult
from .pair_task import PairTask, PairTrial
from .pairs import DegradedCopies, duplicate_cap, moved
from .rivals import Method, SearchMethod
from .search_task import SearchTask, SearchTrial

__all__ = ["Benchmark", "run_benchmark"]

logger = logging.getLogger(__name__)

Row = TypeVar("Row")


@dataclass(frozen=True)
class Drawn:
    """What is drawn once for all methods and conditions."""

    slices: SliceSet  # of the test subjects
    copies: DegradedCopies
    validation: PairTrial
    test: PairTrial
    searches: SearchTrial
    weights: NDArray[np.float64]  # of the pairs of `test`


@dataclass(frozen=True)
class Benchmark:
    """Scores methods on pairs, searches and whole audits, and writes one JSON.

    Attributes:
        methods: name to :class:`~scripts.studies.rivals.Method`, None where its weights are not given.
        conditions: name to random dictionary transform that moves the generated image, None for none.
        copies: makes the duplicates; their cap comes from the validation subjects.
        pairs, searches: what every method does in every condition.
        audits: what the methods that can search do in some conditions; None leaves the audits out.
        reference: the method that the others' differences are taken from.
        seed: of all drawing.
    """

    methods: Mapping[str, Method | None]
    conditions: Mapping[str, RandomTransform | None]
    copies: DegradedCopies
    pairs: PairTask
    searches: SearchTask
    audits: AuditTask | None = None
    reference: str = "ours"
    seed: int = 0

    def __call__(self, validation: SliceSet, test: SliceSet, output: str | Path) -> BenchmarkResult:
        """Return the result, and write it to `output` (JSON) after each condition.

        Thresholds are fitted on pairs of `validation`; `test` is only scored. Rows that the file has are kept, so that
        a stopped benchmark goes on, and a method whose weights come later is all that is run then.
        """
        path = Path(output)
        known = BenchmarkResult.read(path) if path.is_file() else None
        conditions = {} if known is None else known.conditions
        new = {name: self._new(conditions.get(name, ConditionResult())) for name in self.conditions}
        if known is not None and not any(new.values()):
            return known
        drawn = self._draw(validation, test)
        result = BenchmarkResult(
            conditions,
            cap=drawn.copies.cap,
            pairs=self.pairs.pairs,
            queries=self.searches.queries,
            seed=self.seed,
            subjects={"validation": validation.subjects, "test": test.subjects},
        )
        for name, methods in new.items():
            if methods:
                conditions[name] = self._run(name, methods, conditions.get(name, ConditionResult()), drawn)
                result.write(path)
        return result

    def _new(self, known: ConditionResult) -> dict[str, Method | None]:
        """Return the methods that a condition of these rows lacks; none if only weights are missing."""
        new = {name: method for name, method in self.methods.items() if known.pairs.get(name) is None}
        return new if not known.pairs or any(method is not None for method in new.values()) else {}

    def _draw(self, validation: SliceSet, test: SliceSet) -> Drawn:
        rng = np.random.RandomState(self.seed)
        copies = replace(self.copies, cap=duplicate_cap(validation, self.copies.verifier, rng))
        first, second = (self.pairs.draw(part, copies, rng) for part in (validation, test))
        searches = self.searches.draw(test, copies, rng)
        # last, so that the number of bootstrap draws changes no image
        return Drawn(test, copies, first, second, searches, self.pairs.weights(second, rng))

    def _run(
        self, name: str, methods: Mapping[str, Method | None], known: ConditionResult, drawn: Drawn
    ) -> ConditionResult:
        """Return a condition's rows: those that are `known`, and those of `methods`."""
        move = partial(moved, transform=self.conditions[name], seed=self.seed)  # the same moves for every method
        validation, test = (replace(trial, moved=move(trial.pairs.second)) for trial in (drawn.validation, drawn.test))
        pairs = dict(known.pairs)
        for m, method in methods.items():
            pairs[m] = None if method is None else self.pairs(method, validation, test, drawn.weights)
            logger.info("%s, pairs: %s", m, "weights not given" if method is None else "done")
        if (reference := pairs.get(self.reference)) is not None:
            pairs = {m: None if row is None else row.against(reference) for m, row in pairs.items()}
        searching = {m: method for m, method in methods.items() if isinstance(method, SearchMethod)}
        searches = replace(drawn.searches, images=move(drawn.searches.images))
        search = known.search | {m: self.searches(method, searches) for m, method in searching.items()}
        audit = known.audit
        if self.audits is not None and name in self.audits.conditions:
            trials = [replace(t, images=move(t.images)) for t in self.audits.draw(drawn.slices, drawn.copies)]
            audit = (audit or {}) | {m: self.audits(method, trials) for m, method in searching.items()}
        ordered = None if audit is None else self._ordered(audit)
        return ConditionResult(self._ordered(pairs), self._ordered(search), ordered)

    def _ordered(self, rows: Mapping[str, Row]) -> dict[str, Row]:
        """Return the rows in the order of the methods, whenever each was run."""
        return {method: rows[method] for method in self.methods if method in rows}


def run_benchmark(
    benchmark: Benchmark, split: Mapping[str, Sequence[Item]], preprocessing: Preprocessing, output_dir: str | Path
) -> None:
    """Run the benchmark on whole-head and, where there are masks, on skull-stripped images; write its tables.

    `split` has the parts `validation` and `test`. Writes, in `output_dir`, VARIANT.json with the bootstrap's draws,
    VARIANT.png with the scores' distributions, and of all variants benchmark.json, without draws, and benchmark.md.
    """
    folder, text, merged = Path(output_dir), [], {}
    for variant in sorted({item["variant"] for item in split["test"]}, reverse=True):
        validation, test = (
            SliceSet.load([item for item in split[part] if item["variant"] == variant], preprocessing)
            for part in ("validation", "test")
        )
        result = benchmark(validation, test, folder / f"{variant}.json")
        plot_scores(result, folder / f"{variant}.png")
        text.append(f"## {variant}\n\n{tables(result)}")
        merged[variant] = result.json(draws=False)
    (folder / "benchmark.json").write_text(json.dumps(merged, separators=(",", ":")), encoding="utf-8")
    (folder / "benchmark.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    print("\n\n".join(text))
