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

"""The few lines that an audit prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..auditing.calibration import Control
from ..auditing.result import AuditResult, Verdict
from ..bundle.text import grouped, visible
from .summary import Summary
from .tables import MatchRow

__all__ = ["headline", "terminal_text"]

SHOWN = 3  # calls that have a line


def terminal_text(result: AuditResult, summary: Summary, matches: Sequence[MatchRow], page: Path) -> str:
    """Return what was found, with what evidence and what recall, in at most twenty lines."""
    lines = [*_understood(summary), *_verdict(result, summary, matches), *_undone(summary), *_merged(summary)]
    control = summary.positive_control
    low, high = control.ci95
    lines.append(
        f"Positive control: {control.recall:.0%} of {control.images} degraded copies of {_copied(control)} would "
        f"have been called (95 % interval {low:.0%} to {high:.0%}){_alone(control)}."
    )
    if narrow := control.parts[:-1]:
        shares = ", ".join(f"{part.recall:.0%} of those {part.pixels:g} pixels wide" for part in narrow)
        lines.append(f"Of smaller parts: {shares}.")
    if control.bent:
        shares = ", ".join(f"{bent.recall:.0%} by {bent.pixels:g}" for bent in control.bent)
        lines.append(f"Of copies that are bent besides: {shares} {result.bend_unit}.")
    if not result.weights_suit:
        lines.append(
            f"The embedder hardly knows such images: it has the source as the nearest of {control.nearest:.0%} of "
            "these copies, where weights that suit have all. Train it on such images: configs/train.yaml."
        )
    if not result.candidates_suffice:
        lines.append(
            f"Of {1 - control.among:.0%} of these copies the source was not among the {result.found.subject.shape[1]} "
            f"subjects that are aligned. More are by {result.more_candidates}."
        )
    lines.append(_null_line(result))
    if skipped := sum(len(part.skipped) for part in summary.inputs.values()):
        lines.append(f"Skipped: {skipped} files that could not be read; the report lists them.")
    lines.append(f"Report: {page}")
    return "\n".join(map(visible, lines))


def _understood(summary: Summary) -> list[str]:
    """Return what the files of each set were taken for."""
    names = {"train": "Training images", "generated": "Generated images", "holdout": "Holdout images"}
    lines = []
    for name, part in summary.inputs.items():
        if (seen := part.understood) is None:
            continue
        people = f"; {grouped(part.subjects)} subjects, by {seen.rule}" if seen.rule else ""
        example = f" ({seen.examples[0][0]} is {seen.examples[0][1]})" if seen.examples else ""
        lines.append(f"{names[name]}: {seen.words}{people}{example}.")
        lines += [f"  {note}." for note in seen.notes[:2]]
        lines += [f"  Of {count} files: {doubt}." for doubt, count in list(seen.doubts.items())[:1]]
    return lines


def _copied(control: Control) -> str:
    """Return what the control's copies are copies of."""
    return (
        f"parts of training images, {control.parts[-1].pixels:g} pixels wide," if control.parts else "training images"
    )


def _alone(control: Control) -> str:
    """Return what is said of a lone copy where it is harder to call than one among others."""
    return f", {control.alone:.0%} were each the only one" if control.alone < control.recall else ""


def headline(summary: Summary, total: int) -> str:
    """Return the verdict on `total` generated images in one line."""
    tiers, images = summary.tiers, grouped(total)
    if summary.verdict is Verdict.NO_COPYING:
        return f"No copying found among {images} generated images, at a false-discovery rate of {summary.fdr:g}."
    if summary.verdict is Verdict.INCONCLUSIVE:
        return f"INCONCLUSIVE: copies among {images} generated images could not have been recognised."
    return (
        f"Copies: {grouped(tiers.copies)}. Likenesses: {grouped(tiers.likenesses)}. Of {images} generated images, at a "
        f"false-discovery rate of {summary.fdr:g}."
    )


def _verdict(result: AuditResult, summary: Summary, matches: Sequence[MatchRow]) -> list[str]:
    first = headline(summary, len(matches))
    if summary.verdict is Verdict.NO_COPYING:
        return [first]
    if summary.verdict is Verdict.INCONCLUSIVE:
        return [first, *(f"  {doubt}" for doubt in summary.doubts[:4])]
    ids, nearest = summary.leaked_subjects.ids, result.found.nearest
    shown = ", ".join(ids[:6]) + (f" and {len(ids) - 6} more" if len(ids) > 6 else "")
    alike = len({*nearest[result.memorized].tolist()} - {*nearest[result.copy].tolist()})
    lines = [
        first,
        f"Training subjects leaked: {grouped(len(ids))} of {grouped(len(result.subject_names))}"
        + (f" ({shown})" if ids else "")
        + (f"; {grouped(alike)} {'has' if alike == 1 else 'have'} likenesses only" if alike else ""),
    ]
    called = int(result.memorized.sum())
    strongest = result.strongest(called if called == SHOWN + 1 else SHOWN)  # a line that says "1 more" could show it
    for match in (matches[unit] for unit in strongest):
        mirrored = ", mirrored" if match.mirrored else ""
        lines.append(
            f"  {match.generated_id} <- {match.train_id}: aligned SSIM {match.aligned_ssim:.3f}"
            f"{mirrored}, p = {match.p_value:.1e}, q = {match.q_value:.1e}"
        )
    if more := called - len(strongest):
        lines.append(f"  and {grouped(more)} more: matches.csv")
    return [*lines, *(f"  More may have been missed: {doubt}" for doubt in summary.doubts[:1])]


def _merged(summary: Summary) -> list[str]:
    """Return which ids are one person's."""
    groups = [" = ".join(group) for group in summary.merged_subjects.groups]
    more = f" and {len(groups) - 3} more" if len(groups) > 3 else ""
    return [f"One person under several training ids: {'; '.join(groups[:3])}{more}."] if groups else []


def _undone(summary: Summary) -> list[str]:
    """Return what the audit found of how the sets were saved, and what to do."""
    return [
        f"{'Undone' if finding.undone else 'To do'}: {finding.text if finding.undone else finding.remedy}."
        for finding in summary.fit.findings[:3]
    ]


def _of_kind(kinds: Sequence[float]) -> str:
    """Return what is said of training images of several kinds."""
    if not kinds:
        return ""
    shares = ", ".join(f"{share:.0%}" for share in kinds)
    return f" at least of an image's kind (training images of {len(kinds)} kinds: {shares})"


def _null_line(result: AuditResult) -> str:
    null, (low, high) = result.calibration, result.criteria.matched_auc
    if null.null == "none":
        least = result.statistic_used.subjects + 1
        return f"Null: none, as there are fewer than {least} subjects to compare; every p-value is 1."
    line = f"Null: {null.null}, {null.n} subjects{_of_kind(null.kinds)}, {null.p_value} p-values"
    if null.matched:
        surely = "" if low <= (null.match_auc or 0) <= high else ", as far as so few tell"
        return f"{line}; real images are as similar to train as the generated ones (AUC {null.match_auc:.2f}{surely})."
    which = "more" if (null.match_auc or 0) > 0.5 else "less"
    return (
        f"{line}. The generated images are {which} similar to train than real ones (AUC {null.match_auc:.2f}, {low} to "
        f"{high} expected): a holdout of images like them would be a firmer null."
    )
