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

"""What a benchmark finds, as values; the one place where they become JSON and come back from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.files import replacing
from ..embedder.evaluation import BinError, SSIMErrors

__all__ = ["AuditScores", "BenchmarkResult", "ConditionResult", "PairScores", "SearchScores", "interval"]

MISSING = {"missing": "weights not given"}  # the row of a method that could not run


def interval(values: NDArray | Sequence[float]) -> list[float]:
    """Return the 2.5th and 97.5th percentile of bootstrap draws, to four digits."""
    return np.percentile(values, [2.5, 97.5]).round(4).tolist()


@dataclass(frozen=True)
class PairScores:
    """How well a method separates the labels of pairs.

    Attributes:
        thresholds: on the score, above which a pair is similar and a duplicate.
        macro_f1: mean F1 of the three labels.
        duplicate_auc: P(score of a duplicate > score of another pair).
        tpr: share of duplicates above the lowest cut that the allowed share of the others passes.
        ci95: of these three, by name.
        draws: the bootstrap's values of these three; left out where results are merged.
        ssim_error: of the score; None where the score is not meant to be SSIM.
        scores: 101 quantiles of the scores of each label.
        reference_minus: intervals of the reference method minus this one, of the same draws.
    """

    thresholds: tuple[float, float]
    macro_f1: float
    duplicate_auc: float
    tpr: float
    ci95: Mapping[str, list[float]]
    draws: Mapping[str, list[float]] | None = None
    ssim_error: SSIMErrors | None = None
    scores: Sequence[list[float]] = ()
    reference_minus: Mapping[str, list[float]] | None = None

    def against(self, reference: PairScores) -> PairScores:
        """Return this with the intervals of the reference minus it; as it is if one of the two has no draws."""
        if self.draws is None or reference.draws is None:
            return self
        minus = {key: interval(np.subtract(reference.draws[key], values)) for key, values in self.draws.items()}
        return replace(self, reference_minus=minus)


@dataclass(frozen=True)
class SearchScores:
    """How well a method finds the source of copies among all references.

    Attributes:
        recall: share of copies whose subject is among the first so many, by that number as text.
        tpr: share of copies found above the cut that the allowed share of searches without a copy passes.
        ci95: of `recall`, by number, of `tpr`, and of `strict_tpr` where there is one.
        searches_per_second: with the references embedded.
        strict_tpr: as `tpr`, for a smaller share; None in files that have none.
    """

    recall: Mapping[str, float]
    tpr: float
    ci95: Mapping[str, Any]
    searches_per_second: float
    strict_tpr: float | None = None


@dataclass(frozen=True)
class AuditScores:
    """What whole audits find with a method that retrieves, a value an audit.

    Attributes:
        recall: share of the copies that are called, of their true subject.
        false_share: share of the calls that are no copies.
    """

    recall: list[float]
    false_share: list[float]


@dataclass
class ConditionResult:
    """One condition's rows by method; None where a method's weights are not given."""

    pairs: dict[str, PairScores | None] = field(default_factory=dict)
    search: dict[str, SearchScores] = field(default_factory=dict)
    audit: dict[str, AuditScores] | None = None


@dataclass
class BenchmarkResult:
    """A benchmark of one variant of the images.

    Attributes:
        conditions: by name, those that have been run.
        cap: that the copies' aligned SSIM is above.
        pairs: of each label; queries: searches of either kind; seed: of all drawing.
        subjects: of the parts validation and test.
    """

    conditions: dict[str, ConditionResult]
    cap: float
    pairs: int
    queries: int
    seed: int
    subjects: dict[str, int]

    @classmethod
    def read(cls, path: Path) -> BenchmarkResult:
        """Return the content of a file that :meth:`write` wrote."""
        return cls.of_json(json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> BenchmarkResult:
        """Return the result that has this JSON."""
        conditions = {name: _condition(table) for name, table in content["conditions"].items()}
        return cls(**{**content, "conditions": conditions})

    def json(self, draws: bool = True) -> dict[str, Any]:
        """Return the JSON, without the bootstrap's draws if not `draws`."""
        content = asdict(self)
        for table in content["conditions"].values():
            for name, row in table["pairs"].items():
                left_out = {key for key in ("draws", "reference_minus") if row and row[key] is None}
                left_out |= set() if draws else {"draws"}
                table["pairs"][name] = {k: v for k, v in row.items() if k not in left_out} if row else MISSING
            for row in table["search"].values():
                if row["strict_tpr"] is None:
                    del row["strict_tpr"]
            if table["audit"] is None:
                del table["audit"]
        return content

    def write(self, path: Path) -> None:
        """Write the JSON with its draws, so that a stopped benchmark goes on."""
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.json(), indent=1), encoding="utf-8")


def _condition(table: Mapping[str, Any]) -> ConditionResult:
    audit = table.get("audit")
    return ConditionResult(
        {name: None if "missing" in row else _pair_scores(row) for name, row in table["pairs"].items()},
        {name: SearchScores(**row) for name, row in table["search"].items()},
        None if audit is None else {name: AuditScores(**row) for name, row in audit.items()},
    )


def _pair_scores(row: Mapping[str, Any]) -> PairScores:
    error = row["ssim_error"]
    if error is not None:
        error = SSIMErrors(**{**error, "bins": {edge: BinError(**values) for edge, values in error["bins"].items()}})
    return PairScores(**{**row, "ssim_error": error})
