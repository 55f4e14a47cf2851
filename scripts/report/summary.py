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

"""What report.json holds."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..auditing.calibration import Calibration, Control
from ..auditing.findings import SetFit
from ..auditing.result import AuditResult, Tier, Verdict
from ..bundle.components import bundle_file
from ..bundle.files import sha256_of_file
from ..decision.bounds import true_discoveries
from ..decision.labels import Label, Thresholds
from ..decision.rates import clustered_interval, exact_interval, leaked_at_sample_sizes
from ..decision.set_level import SetLevel
from ..embedder.embedding_set import EmbeddingSet
from ..images.understood import Understood
from .provenance import Run
from .tables import Group, MatchRow, groups

__all__ = ["Summary", "Timing", "json_text", "summarise"]

SCHEMA_VERSION = "1.6"
MOST_IDS = 10_000  # of candidates
STRONGEST = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)  # images of which a bound is given


@dataclass(frozen=True)
class Timing:
    """How long an audit took, and how many images it embedded rather than read from the cache."""

    seconds: float
    embedded: int


@dataclass(frozen=True)
class Skipped:
    """A file that could not be read, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class InputSet:
    """One of the three sets: its files, images and subjects, groups of files that show one image, skipped files, and
    what the files were taken for, None where nobody looked."""

    images: int = 0
    slices: int = 0
    subjects: int = 0
    repeated: list[list[str]] = dataclasses.field(default_factory=list)
    skipped: list[Skipped] = dataclasses.field(default_factory=list)
    understood: Understood | None = None


@dataclass(frozen=True)
class Memorized:
    """The generated images that were called, their share with its 95 % interval over subjects, and the share of images
    with p <= fdr beyond those that have it when nothing is copied."""

    count: int
    rate: float
    ci95: tuple[float, float]
    excess_rate: float


@dataclass(frozen=True)
class Tiers:
    """The images that were called: those whose fine detail agrees with their match's, and the others."""

    copies: int
    likenesses: int


@dataclass(frozen=True)
class Bounds:
    """Of so many `strongest` images, how many at least are `true`, that is no stranger's: with 95 % probability all of
    these bounds hold, and they do so together. The number of calls is among the first."""

    strongest: list[int]
    true: list[int]


@dataclass(frozen=True)
class Candidates:
    """Images that were not called, yet are as alike to their match as degraded copies are; the first 10,000 by name,
    all of them in candidates.csv."""

    count: int
    ids: list[str]


@dataclass(frozen=True)
class LeakCurve:
    """Subjects that smaller `samples` of the generated images would have leaked, on average."""

    samples: list[int]
    subjects: list[float]


@dataclass(frozen=True)
class LeakedSubjects:
    """The training subjects of whom a copy was found, their share with its exact 95 % interval."""

    count: int
    rate: float
    ci95: tuple[float, float]
    ids: list[str]
    curve: LeakCurve


@dataclass(frozen=True)
class MergedSubjects:
    """Training ids that were made one subject, and how many images would have been called without that."""

    groups: list[list[str]]
    memorized_before: int | None


@dataclass(frozen=True)
class Checkpoint:
    """The embedder's weights."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Summary:
    """The content of report.json, field by field; its schema is configs/report.schema.json.

    `pseudonyms` tells two keys apart, None: names are shown."""

    schema_version: str
    bundle: str
    verdict: Verdict
    doubts: list[str]
    fit: SetFit
    checkpoint: Checkpoint
    inputs: dict[str, InputSet]
    calibration: Calibration
    positive_control: Control
    fdr: float
    labels: dict[str, int]
    thresholds: Thresholds
    memorized: Memorized
    tiers: Tiers
    bounds: Bounds
    candidates: Candidates
    leaked_subjects: LeakedSubjects
    merged_subjects: MergedSubjects
    set_level: SetLevel
    timing: Timing
    run: Run
    pseudonyms: str | None = None
    groups: dict[str, Group] | None = None


def summarise(
    result: AuditResult,
    matches: Sequence[MatchRow],
    timing: Timing,
    run: Run,
    checkpoint: str | os.PathLike,
    group_column: str | None = None,
    pseudonyms: str | None = None,
    understood: Mapping[str, Understood] | None = None,
) -> Summary:
    """Return what report.json says of a result.

    Args:
        result: pseudonymised, if names are to be hidden.
        matches: of the result.
        timing: of the run.
        run: when, with what and how.
        checkpoint: named with its SHA-256.
        group_column: of the generated datalist; None: no groups.
        pseudonyms: id of their key; None: names are shown.
        understood: what the files of each set were taken for, without names if these are to be hidden.
    """
    sets = {"train": result.train, "generated": result.generated, "holdout": result.holdout}
    labels = result.label
    return Summary(
        schema_version=SCHEMA_VERSION,
        bundle=json.loads(bundle_file("configs/metadata.json").read_text(encoding="utf-8"))["version"],
        verdict=result.verdict,
        doubts=result.doubts,
        fit=result.fit,
        checkpoint=Checkpoint("name hidden" if pseudonyms else str(checkpoint), sha256_of_file(checkpoint)),
        inputs={name: _input_set(data, (understood or {}).get(name)) for name, data in sets.items()},
        calibration=result.calibration,
        positive_control=result.control,
        fdr=result.fdr,
        labels={label.name.lower(): labels.count(label) for label in Label},
        thresholds=result.thresholds,
        memorized=_memorized(result),
        tiers=Tiers(result.tier.count(Tier.COPY), result.tier.count(Tier.LIKENESS)),
        bounds=_bounds(result),
        candidates=_candidates(result, matches),
        leaked_subjects=_leaked_subjects(result),
        merged_subjects=MergedSubjects(result.merged, result.unmerged_count),
        set_level=result.set_level,
        timing=timing,
        run=run,
        pseudonyms=pseudonyms,
        groups=None if group_column is None else groups(result, group_column),
    )


def _input_set(data: EmbeddingSet | None, understood: Understood | None) -> InputSet:
    if data is None:
        return InputSet()
    skipped = [Skipped(name, reason) for name, reason in data.skipped]
    return InputSet(len(data.items), len(data), len(set(data.subject_ids)), data.repeated(), skipped, understood)


def _memorized(result: AuditResult) -> Memorized:
    count, total = int(result.memorized.sum()), len(result.units)
    excess = (float((result.p_value <= result.fdr).mean()) - result.fdr) / (1 - result.fdr)
    # copies of one subject stand and fall together
    interval = clustered_interval(result.memorized, result.found.nearest, np.random.RandomState(0))
    return Memorized(count, count / total, interval, max(0.0, excess))


def _bounds(result: AuditResult) -> Bounds:
    total, calls = len(result.units), int(result.memorized.sum())
    counts = sorted({count for count in (*STRONGEST, calls) if 0 < count <= total})
    return Bounds(counts, true_discoveries(result.p_value, np.array(counts, int)).tolist())


def _candidates(result: AuditResult, matches: Sequence[MatchRow]) -> Candidates:
    units = np.flatnonzero(result.candidate).tolist()
    return Candidates(len(units), [matches[unit].generated_id for unit in units[:MOST_IDS]])


def _leaked_subjects(result: AuditResult) -> LeakedSubjects:
    leaked, subjects, total = sorted(result.leaked), len(result.subject_names), len(result.units)
    nearest = result.found.nearest
    copies = np.bincount(nearest[result.copy & (nearest >= 0)], minlength=subjects)
    sizes = np.unique(np.linspace(0, total, 21).round().astype(int))
    curve = LeakCurve(sizes.tolist(), leaked_at_sample_sizes(copies, total, sizes).round(3).tolist())
    return LeakedSubjects(
        len(leaked), len(leaked) / subjects, exact_interval(len(leaked), subjects), sorted(leaked), curve
    )


def json_text(summary: Summary) -> str:
    """Return the text of report.json: the one place where results become JSON."""
    content = dataclasses.asdict(summary)
    if summary.groups is None:
        del content["groups"]
    return json.dumps(_finite(content), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    """JSON has no infinity: -inf, 'no statistic', and NaN become None, at any depth."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value
