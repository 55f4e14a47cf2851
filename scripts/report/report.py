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

"""Write an audit's result: matches.csv, slices.csv, report.json, a self-contained report.html, and a short summary."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from ..audit.result import AuditResult, Label
from ..bundle.components import bundle_file
from ..bundle.files import sha256_of_file
from ..decision.rates import clustered_interval, exact_interval, group_p_values, leaked_at_sample_sizes
from ..embedder.embedding_set import EmbeddingSet
from .page import render_page

__all__ = ["Report"]


SCHEMA_VERSION = "1.0"
MATCH_COLUMNS = (
    "generated_id", "generated_path", "train_id", "train_path", "train_subject", "similarity", "aligned_ssim",
    "mirrored", "statistic", "p_value", "q_value", "label", "memorized",
)  # fmt: skip
SLICE_COLUMNS = (
    "generated_id",
    "slice",
    "train_id",
    "train_slice",
    "train_subject",
    "similarity",
    "aligned_ssim",
    "mirrored",
)


class Report:
    """Writes the result of an audit below `output_dir`.

    Args:
        output_dir: created if it does not exist.
        checkpoint: named in the report with its SHA-256.
        thumbnails: show image pairs in the report.
        pseudonymize: replace subject ids, and the names of training files, by numbers.
        group_column: column of the generated datalist whose groups are counted, or None.
        pixel_mm: side of a pixel of volumes' slices, for the evidence in 3-D.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        checkpoint: str | os.PathLike,
        thumbnails: bool = True,
        pseudonymize: bool = False,
        group_column: str | None = None,
        pixel_mm: float = 2.0,
    ) -> None:
        self.output_dir, self.checkpoint = Path(output_dir), Path(checkpoint)
        self.thumbnails, self.pseudonymize, self.group_column = thumbnails, pseudonymize, group_column
        self.pixel_mm = pixel_mm

    def write(self, result: AuditResult, timing: Mapping[str, Any]) -> str:
        """Write all files, each under a temporary name first, and return the summary for a terminal."""
        matches = self._matches(result)
        summary = self._summary(result, matches, timing)
        texts = {  # the page comes last: where it is, all is
            "matches.csv": _csv(MATCH_COLUMNS, matches),
            # apart from the calls: no error rate covers them
            "candidates.csv": _csv(MATCH_COLUMNS, [matches[int(unit)] for unit in np.flatnonzero(result.candidate)]),
            "slices.csv": _csv(SLICE_COLUMNS, self._slices(result)),
            "report.json": json.dumps(summary, indent=2, allow_nan=False),
            "report.html": render_page(
                result, matches, summary, lambda number: self._subject(result, number), self.thumbnails, self.pixel_mm
            ),
        }
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(self.output_dir / ".lock"):  # another audit of this folder writes before or after
            self._write(texts)
        return _terminal_text(summary, matches, self.output_dir / "report.html")

    # --- tables

    def _subject(self, result: AuditResult, number: int) -> str:
        return f"subject-{number:04d}" if self.pseudonymize else result.subject_names[number]

    def _train_file(self, result: AuditResult, row: int, number: int) -> tuple[str, str]:
        """The id and path of a training row's file."""
        if self.pseudonymize:
            return f"{self._subject(result, number)}/image-{result.train.file[row]:06d}", ""
        item = result.train.items[result.train.file[row]]
        return item["id"], item["image"]

    def _matches(self, result: AuditResult) -> list[dict[str, Any]]:
        table = []
        for unit in range(len(result.units)):
            rows = result.units.rows(unit)
            best = result.found.best[unit]
            number = int(result.found.subject[unit, best])
            # a volume's training file: the one that most of its slices match
            images = result.found.image[rows, best]
            row = int(Counter(images.tolist()).most_common(1)[0][0])
            item = result.generated.items[result.generated.file[rows[0]]]
            volume = len(rows) > 1
            train_id, train_path = self._train_file(result, row, number) if number >= 0 else ("", "")
            table.append(
                {
                    "generated_id": item["id"] if volume else result.generated.row_id(rows[0]),
                    "generated_path": item["image"],
                    "train_id": train_id,
                    "train_path": train_path,
                    "train_subject": self._subject(result, number) if number >= 0 else "",
                    "similarity": float(result.found.similarity[rows, best].mean()),
                    "aligned_ssim": float(result.found.aligned_ssim[unit, best]),
                    "mirrored": int(result.found.mirrored[rows, best].mean() > 0.5),
                    "statistic": _finite(result.statistic[unit]),
                    "p_value": float(result.p_value[unit]),
                    "q_value": float(result.q_value[unit]),
                    "label": result.label[unit].name.lower(),
                    "memorized": int(result.memorized[unit]),
                }
            )
        return table

    def _slices(self, result: AuditResult) -> list[dict[str, Any]]:
        table = []
        for row in np.flatnonzero(result.generated.slice >= 0):
            unit = result.units.unit[row]
            best = result.found.best[unit]
            number, match = int(result.found.subject[unit, best]), int(result.found.image[row, best])
            if match < 0:
                continue
            table.append(
                {
                    "generated_id": result.generated.items[result.generated.file[row]]["id"],
                    "slice": int(result.generated.slice[row]),
                    "train_id": self._train_file(result, match, number)[0],
                    "train_slice": int(result.train.slice[match]),
                    "train_subject": self._subject(result, number),
                    "similarity": float(result.found.similarity[row, best]),
                    "aligned_ssim": float(result.found.slice_ssim[row, best]),
                    "mirrored": int(result.found.mirrored[row, best]),
                }
            )
        return table

    # --- report.json

    def _summary(self, result: AuditResult, matches: Sequence[Mapping], timing: Mapping[str, Any]) -> dict[str, Any]:
        count, total = int(result.memorized.sum()), len(result.units)
        subjects = len(result.subject_names)
        names = {name: index for index, name in enumerate(result.subject_names)}
        leaked = [self._subject(result, names[name]) for name in result.leaked["ids"]]
        # images beyond those that p <= fdr holds for when nothing is copied
        excess = (float((result.p_value <= result.fdr).mean()) - result.fdr) / (1 - result.fdr)
        nearest = result.found.at_best(result.found.subject)
        summary = {
            "schema_version": SCHEMA_VERSION,
            "bundle": json.loads(bundle_file("configs/metadata.json").read_text())["version"],
            "checkpoint": {"path": str(self.checkpoint), "sha256": sha256_of_file(self.checkpoint)},
            "inputs": {
                name: self._inputs(data, name)
                for name, data in (
                    ("train", result.train),
                    ("generated", result.generated),
                    ("holdout", result.holdout),
                )
            },
            "calibration": result.calibration,
            "positive_control": result.control,
            "fdr": result.fdr,
            "labels": {label.name.lower(): result.label.count(label) for label in Label},
            "thresholds": result.thresholds,
            "memorized": {
                "count": count,
                "rate": count / total,
                # copies of one subject stand and fall together
                "ci95": clustered_interval(result.memorized, nearest, np.random.RandomState(0)),
                "excess_rate": max(0.0, excess),
            },
            "candidates": {
                "count": int(result.candidate.sum()),
                "ids": [matches[int(unit)]["generated_id"] for unit in np.flatnonzero(result.candidate)],
            },
            "leaked_subjects": {
                "count": len(leaked),
                "rate": len(leaked) / subjects,
                "ci95": exact_interval(len(leaked), subjects),
                "ids": leaked,
                "curve": _leak_curve(result, nearest),
            },
            "merged_subjects": {"groups": self._merged(result), "memorized_before": result.unmerged_count},
            "set_level": result.set_level,
            "timing": dict(timing),
        }
        if self.group_column is not None:
            summary["groups"] = self._groups(result)
        return _finite(summary)

    def _inputs(self, data: EmbeddingSet | None, part: str) -> dict[str, Any]:
        hidden = self.pseudonymize and part != "generated"  # names of real files, and reasons may quote them
        if data is None:
            return {"images": 0, "slices": 0, "subjects": 0, "repeated": [], "skipped": []}
        return {
            "images": len(data.items),
            "slices": len(data),
            "subjects": len(set(data.subject_ids)),
            "repeated": [] if hidden else data.repeated(),
            "skipped": [
                {"id": f"{part}-{number:04d}", "reason": "unreadable"} if hidden else {"id": name, "reason": reason}
                for number, (name, reason) in enumerate(data.skipped)
            ],
        }

    def _merged(self, result: AuditResult) -> list[list[str]]:
        names = {name: index for index, name in enumerate(result.subject_names)}
        if self.pseudonymize:
            return [[self._subject(result, names["+".join(group)])] for group in result.merged]
        return result.merged

    def _groups(self, result: AuditResult) -> dict[str, dict[str, Any]]:
        names = []
        for unit in range(len(result.units)):
            item = result.generated.items[result.generated.file[result.units.rows(unit)[0]]]
            if self.group_column not in item:
                raise ValueError(
                    f"{item['id']}: expected a datalist column {self.group_column!r}, found none; check group_column"
                )
            names.append(str(item[self.group_column]))
        groups, p, q = group_p_values(result.p_value, names)
        called = Counter(name for name, memorized in zip(names, result.memorized) if memorized)
        images = Counter(names)
        return {
            name: {
                "images": images[name],
                "memorized": called[name],
                "p_value": float(p[g]),
                "q_value": float(q[g]),
                "leaks": bool(q[g] <= result.fdr),
            }
            for g, name in enumerate(groups)
        }

    # --- files

    def _write(self, texts: Mapping[str, str]) -> None:
        temporary = {name: self.output_dir / f".{name}.{uuid.uuid4().hex}.tmp" for name in texts}
        try:
            for name, text in texts.items():
                temporary[name].write_text(text, encoding="utf-8")
            for name in reversed(list(texts)):  # nothing of an earlier audit beside this one's files
                (self.output_dir / name).unlink(missing_ok=True)
            for name in texts:
                temporary[name].replace(self.output_dir / name)
        finally:
            for path in temporary.values():
                path.unlink(missing_ok=True)


def _leak_curve(result: AuditResult, nearest: NDArray) -> dict[str, list]:
    """Subjects with a called image that smaller samples of the generated images would have leaked, on average."""
    total = len(result.units)
    copies = np.bincount(nearest[result.memorized & (nearest >= 0)], minlength=len(result.subject_names))
    sizes = np.unique(np.linspace(0, total, 21).round().astype(int))
    return {"samples": sizes.tolist(), "subjects": leaked_at_sample_sizes(copies, total, sizes).round(3).tolist()}


def _csv(columns: Sequence[str], table: Sequence[Mapping]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def _finite(value: Any) -> Any:
    """JSON has no infinity: -inf, 'no statistic', and NaN become None, at any depth."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def _terminal_text(summary: Mapping[str, Any], matches: Sequence[Mapping], page: Path) -> str:
    """Return what was found, with what evidence and what recall, in at most twelve lines."""
    count, total = summary["memorized"]["count"], len(matches)
    control, null = summary["positive_control"], summary["calibration"]
    low, high = control["ci95"]
    lines = []
    if count:
        ids = summary["leaked_subjects"]["ids"]
        shown = ", ".join(ids[:6]) + (f" and {len(ids) - 6} more" if len(ids) > 6 else "")
        lines.append(
            f"Copies found: {count} of {total} generated images, at a false-discovery rate of {summary['fdr']:g}."
        )
        lines.append(
            f"Training subjects leaked: {len(ids)} of {summary['inputs']['train']['subjects']}"
            + (f" ({shown})" if ids else "")
        )
        for match in sorted((m for m in matches if m["memorized"]), key=lambda m: m["p_value"])[:3]:
            mirrored = ", mirrored" if match["mirrored"] else ""
            lines.append(
                f"  {match['generated_id']} <- {match['train_id']}: aligned SSIM {match['aligned_ssim']:.2f}"
                f"{mirrored}, p = {match['p_value']:.1e}, q = {match['q_value']:.1e}"
            )
    else:
        lines.append(
            f"No copying found among {total} generated images, at a false-discovery rate of {summary['fdr']:g}."
        )
    lines.append(
        f"Positive control: {control['recall']:.0%} of {control['images']} degraded copies of training images would "
        f"have been called (95 % interval {low:.0%} to {high:.0%})."
    )
    matched = "as" if null["matched"] else "NOT as"
    if null["null"] == "none":
        lines.append("Null: none, as there are fewer than five subjects to compare; every p-value is 1.")
    else:
        lines.append(
            f"Null: {null['null']}, {null['n']} subjects, {null['p_value']} p-values; {matched} similar to train as "
            f"the generated images (AUC {null['match_auc']:.2f}, 0.4 to 0.6 expected)."
        )
    skipped = sum(len(part["skipped"]) for part in summary["inputs"].values())
    if skipped:
        lines.append(f"Skipped: {skipped} files that could not be read; the report lists them.")
    lines.append(f"Report: {page}")
    return "\n".join(lines)
