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

"""What report.json holds, and the few lines for a terminal."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..audit.fit import SetFit
from ..audit.result import AuditResult, Calibration, Control, Tier, Verdict
from ..bundle.components import bundle_file
from ..bundle.files import sha256_of_file
from ..decision.bounds import true_discoveries
from ..decision.labels import Label, Thresholds
from ..decision.rates import clustered_interval, exact_interval, leaked_at_sample_sizes
from ..decision.set_level import SetLevel
from ..embedder.embedding_set import EmbeddingSet
from .tables import Group, MatchRow, groups

__all__ = ["Summary", "Timing", "json_text", "summarise", "terminal_text"]

SCHEMA_VERSION = "1.2"
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
    """One of the three sets: its files, images and subjects, groups of files that show one image, skipped files."""

    images: int = 0
    slices: int = 0
    subjects: int = 0
    repeated: list[list[str]] = dataclasses.field(default_factory=list)
    skipped: list[Skipped] = dataclasses.field(default_factory=list)


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
    """Images that were not called, yet are as alike to their match as degraded copies are."""

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
    """The content of report.json, field by field; its schema is configs/report.schema.json."""

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
    groups: dict[str, Group] | None = None


def summarise(
    result: AuditResult,
    matches: Sequence[MatchRow],
    timing: Timing,
    checkpoint: str | os.PathLike,
    group_column: str | None = None,
) -> Summary:
    """Return what report.json says of a result.

    Args:
        result: pseudonymised, if names are to be hidden.
        matches: of the result.
        timing: of the run.
        checkpoint: named with its SHA-256.
        group_column: of the generated datalist; None: no groups.
    """
    sets = {"train": result.train, "generated": result.generated, "holdout": result.holdout}
    labels = result.label
    return Summary(
        schema_version=SCHEMA_VERSION,
        bundle=json.loads(bundle_file("configs/metadata.json").read_text())["version"],
        verdict=result.verdict,
        doubts=result.doubts,
        fit=result.fit,
        checkpoint=Checkpoint(str(checkpoint), sha256_of_file(checkpoint)),
        inputs={name: _input_set(data) for name, data in sets.items()},
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
        groups=None if group_column is None else groups(result, group_column),
    )


def _input_set(data: EmbeddingSet | None) -> InputSet:
    if data is None:
        return InputSet()
    skipped = [Skipped(name, reason) for name, reason in data.skipped]
    return InputSet(len(data.items), len(data), len(set(data.subject_ids)), data.repeated(), skipped)


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
    return Candidates(len(units), [matches[unit].generated_id for unit in units])


def _leaked_subjects(result: AuditResult) -> LeakedSubjects:
    leaked, subjects, total = result.leaked, len(result.subject_names), len(result.units)
    nearest = result.found.nearest
    copies = np.bincount(nearest[result.copy & (nearest >= 0)], minlength=subjects)
    sizes = np.unique(np.linspace(0, total, 21).round().astype(int))
    curve = LeakCurve(sizes.tolist(), leaked_at_sample_sizes(copies, total, sizes).round(3).tolist())
    return LeakedSubjects(len(leaked), len(leaked) / subjects, exact_interval(len(leaked), subjects), leaked, curve)


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


def terminal_text(result: AuditResult, summary: Summary, matches: Sequence[MatchRow], page: Path) -> str:
    """Return what was found, with what evidence and what recall, in at most fourteen lines."""
    lines = [*_verdict(summary, matches), *_undone(summary)]
    control = summary.positive_control
    low, high = control.ci95
    lines.append(
        f"Positive control: {control.recall:.0%} of {control.images} degraded copies of training images would "
        f"have been called (95 % interval {low:.0%} to {high:.0%}){_alone(control)}."
    )
    if control.bent:
        shares = ", ".join(f"{bent.recall:.0%} by {bent.pixels:g}" for bent in control.bent)
        lines.append(f"Of copies that are bent besides: {shares} pixels.")
    lines.append(_null_line(result))
    if skipped := sum(len(part.skipped) for part in summary.inputs.values()):
        lines.append(f"Skipped: {skipped} files that could not be read; the report lists them.")
    lines.append(f"Report: {page}")
    return "\n".join(lines)


def _alone(control: Control) -> str:
    """Return what is said of a lone copy where it is harder to call than one among others."""
    return f", {control.alone:.0%} were each the only one" if control.alone < control.recall else ""


def _verdict(summary: Summary, matches: Sequence[MatchRow]) -> list[str]:
    total, tiers = len(matches), summary.tiers
    if summary.verdict is Verdict.NO_COPYING:
        return [f"No copying found among {total} generated images, at a false-discovery rate of {summary.fdr:g}."]
    if summary.verdict is Verdict.INCONCLUSIVE:
        first = f"INCONCLUSIVE: copies among {total} generated images could not have been recognised."
        return [first, *(f"  {doubt}" for doubt in summary.doubts[:4])]
    ids = summary.leaked_subjects.ids
    shown = ", ".join(ids[:6]) + (f" and {len(ids) - 6} more" if len(ids) > 6 else "")
    lines = [
        f"Copies: {tiers.copies}. Likenesses: {tiers.likenesses}. Of {total} generated images, at a false-discovery "
        f"rate of {summary.fdr:g}.",
        f"Training subjects leaked: {len(ids)} of {summary.inputs['train'].subjects}" + (f" ({shown})" if ids else ""),
    ]
    for match in sorted((m for m in matches if m.memorized), key=lambda m: (m.verdict, m.p_value))[:3]:
        mirrored = ", mirrored" if match.mirrored else ""
        lines.append(
            f"  {match.generated_id} <- {match.train_id}: aligned SSIM {match.aligned_ssim:.3f}"
            f"{mirrored}, p = {match.p_value:.1e}, q = {match.q_value:.1e}"
        )
    return [*lines, *(f"  More may have been missed: {doubt}" for doubt in summary.doubts[:1])]


def _undone(summary: Summary) -> list[str]:
    """Return what the audit found of how the sets were saved, and what to do."""
    return [
        f"{'Undone' if finding.undone else 'To do'}: {finding.text if finding.undone else finding.remedy}."
        for finding in summary.fit.findings[:3]
    ]


def _null_line(result: AuditResult) -> str:
    null, (low, high) = result.calibration, result.criteria.matched_auc
    if null.null == "none":
        least = result.statistic_used.subjects + 1
        return f"Null: none, as there are fewer than {least} subjects to compare; every p-value is 1."
    matched = "as" if null.matched else "NOT as"
    return (
        f"Null: {null.null}, {null.n} subjects, {null.p_value} p-values; {matched} similar to train as "
        f"the generated images (AUC {null.match_auc:.2f}, {low} to {high} expected)."
    )
