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

"""The rows of matches.csv, candidates.csv and slices.csv, and the groups of generated images."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from ..auditing.result import AuditResult, Tier
from ..bundle.text import spreadsheet_cell
from ..decision.rates import group_p_values
from ..images.items import Item

__all__ = ["Group", "MatchRow", "SliceRow", "csv_text", "groups", "match_rows", "slice_rows"]


@dataclass(frozen=True)
class MatchRow:
    """A row of matches.csv, one a generated image or volume, with its columns in order.

    `memorized` is q <= fdr, and `verdict` copy, likeness or none. `part` is the square that decided where copies of a
    part are looked for, else empty: its first row, first column and side, in pixels of the embedder's field."""

    generated_id: str
    generated_path: str
    train_id: str
    train_path: str
    train_subject: str
    similarity: float
    aligned_ssim: float
    mirrored: int
    statistic: float | None
    p_value: float
    q_value: float
    label: str
    memorized: int
    verdict: str
    part: str


@dataclass(frozen=True)
class SliceRow:
    """A row of slices.csv, one a slice of a generated volume."""

    generated_id: str
    slice: int
    train_id: str
    train_slice: int
    train_subject: str
    similarity: float
    aligned_ssim: float
    mirrored: int


@dataclass(frozen=True)
class Group:
    """A group of generated images, as those of one prompt: is at least one of them a copy? (`leaks`: q <= fdr)."""

    images: int
    memorized: int
    p_value: float
    q_value: float
    leaks: bool


def match_rows(result: AuditResult) -> list[MatchRow]:
    """Return a row for each generated image or volume, in their order."""
    labels, tiers = [label.name.lower() for label in result.label], result.tier
    return [_match_row(result, unit, labels[unit], tiers[unit]) for unit in range(len(result.units))]


def _match_row(result: AuditResult, unit: int, label: str, tier: Tier) -> MatchRow:
    match = result.match(unit)
    item, train = result.generated.items[match.file], result.train.items[match.train_file]
    found, statistic = match.subject >= 0, float(result.statistic[unit])
    return MatchRow(
        generated_id=item["id"] if len(match.rows) > 1 else result.generated.row_id(int(match.rows[0])),
        generated_path=item["image"],
        train_id=train["id"] if found else "",
        train_path=train["image"] if found else "",
        train_subject=result.subject_names[match.subject] if found else "",
        similarity=match.similarity,
        aligned_ssim=match.aligned_ssim,
        mirrored=int(match.mirrored),
        statistic=statistic if math.isfinite(statistic) else None,
        p_value=float(result.p_value[unit]),
        q_value=float(result.q_value[unit]),
        label=label,
        memorized=int(result.memorized[unit]),
        verdict=tier.value,
        part=" ".join(map(str, match.square or ())),
    )


def slice_rows(result: AuditResult) -> list[SliceRow]:
    """Return a row for each slice of a generated volume that has a match."""
    found, train, generated = result.found, result.train, result.generated
    rows = []
    for row in np.flatnonzero(generated.slice >= 0):
        best = found.best[result.units.unit[row]]
        match = int(found.image[row, best])
        if match >= 0:
            rows.append(
                SliceRow(
                    generated_id=generated.items[generated.file[row]]["id"],
                    slice=int(generated.slice[row]),
                    train_id=train.items[train.file[match]]["id"],
                    train_slice=int(train.slice[match]),
                    train_subject=result.subject_names[result.train_subject[match]],
                    similarity=float(found.similarity[row, best]),
                    aligned_ssim=float(found.slice_ssim[row, best]),
                    mirrored=int(found.mirrored[row, best]),
                )
            )
    return rows


def groups(result: AuditResult, column: str) -> dict[str, Group]:
    """Return the groups that a column of the generated datalist names, in order of their names.

    Raises:
        ValueError: if a generated image lacks the column.
    """
    names = group_names([result.generated.items[result.match(unit).file] for unit in range(len(result.units))], column)
    found, p, q = group_p_values(result.p_value, names)
    called = Counter(name for name, memorized in zip(names, result.memorized) if memorized)
    images = Counter(names)
    return {
        name: Group(images[name], called[name], float(p[g]), float(q[g]), bool(q[g] <= result.fdr))
        for g, name in enumerate(found)
    }


def group_names(items: Sequence[Item], column: str) -> list[str]:
    """Return the group of each file, which a datalist's column names.

    Raises:
        ValueError: if a file lacks the column.
    """
    if without := next((item for item in items if item.get(column) is None), None):
        raise ValueError(f"{without['id']}: expected a datalist column {column!r}, found none; check group_column")
    return [str(item.get(column)) for item in items]


def csv_text(kind: type[MatchRow] | type[SliceRow], rows: Sequence[MatchRow] | Sequence[SliceRow]) -> str:
    """Return rows of one kind as a .csv text, safe for a spreadsheet; its header stands there without rows too."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(kind)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = asdict(row)
        writer.writerow({k: spreadsheet_cell(v) if isinstance(v, str) else v for k, v in cells.items()})
    return text.getvalue()
