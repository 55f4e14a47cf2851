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

"""Render an audit's result as one self-contained HTML page: verdict, distributions, evidence, table of all matches.

A section of the page is a block of report.html.j2, which sees the whole result and its summary.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

from ..audit.result import AuditResult
from ..bundle.text import visible
from .pictures import Evidence, evidence, histogram
from .summary import Summary
from .tables import MatchRow

__all__ = ["Entry", "LeakedRow", "render_page"]

TEMPLATE = Path(__file__).with_name("report.html.j2")
SCRIPT = Path(__file__).with_name("report.js")
SHOWN_PAIRS = 60  # pictures of called images; the rest stands in the table
SHOWN_CANDIDATES = 6
TABLE = (
    "generated_id", "train_id", "train_subject", "similarity", "aligned_ssim", "mirrored", "statistic", "p_value",
    "q_value", "label", "memorized", "verdict",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A match as the page shows it; `evidence` is None without thumbnails or without a match."""

    number: int
    match: MatchRow
    evidence: Evidence | None


@dataclass(frozen=True)
class LeakedRow:
    """A leaked training subject: how many copies are of it, its p and its q over subjects."""

    subject: str
    images: int
    p: float
    q: float


def render_page(
    result: AuditResult, matches: Sequence[MatchRow], summary: Summary, thumbnails: bool, pixel_mm: float = 2.0
) -> str:
    """Return the page; all that comes from outside is escaped, and the page's own script is the only one that may run.

    Args:
        result: of the audit, pseudonymised if names are to be hidden.
        matches: rows of matches.csv.
        summary: what report.json holds.
        thumbnails: show images; of volumes three planes, after an alignment in 3-D, about a second each.
        pixel_mm: the side of a pixel of volumes' slices.
    """

    def entries(units: Sequence[int]) -> list[Entry]:
        return [
            Entry(u, matches[u], evidence(result, result.match(u), pixel_mm) if thumbnails else None) for u in units
        ]

    order = np.lexsort((-result.found.best_ssim, result.p_value)).tolist()
    copy, memorized = result.copy, result.memorized
    called = [u for u in order if copy[u]] + [u for u in order if memorized[u] and not copy[u]]
    second = sorted((u for u in range(len(matches)) if not result.memorized[u]), key=lambda u: result.p_value[u])
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, finalize=_visible
    )
    environment.filters["number"] = _number
    script = SCRIPT.read_text(encoding="utf-8")
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        result=result,
        summary=summary,
        calls=entries(called[:SHOWN_PAIRS]),
        hidden=max(0, len(called) - SHOWN_PAIRS),
        candidates=entries(second[:SHOWN_CANDIDATES]),
        subjects=_leaked_rows(result),
        histogram=histogram(result),
        thumbnails=thumbnails,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        table=_table(matches),
        columns=TABLE,
    )


def _visible(value: object) -> object:
    """Return a text with control and direction characters shown; markup and all else as it is."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _table(matches: Sequence[MatchRow]) -> Markup:
    """Return the matches as the JSON of a data block, which only '<' could end early."""
    rows = [[_visible(getattr(match, column)) for column in TABLE] for match in matches]
    return Markup(json.dumps(rows, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))


def _leaked_rows(result: AuditResult) -> list[LeakedRow]:
    nearest, leaks, leaked = result.found.nearest, result.decision.leaks, set(result.leaked)
    rows = [
        LeakedRow(result.subject_names[s], int((result.copy & (nearest == s)).sum()), float(p), float(q))
        for s, p, q in zip(leaks.subject, leaks.p_value, leaks.q_value)
        if result.subject_names[s] in leaked
    ]
    return sorted(rows, key=lambda row: (row.q, -row.images))


def _number(value: float | None) -> str:
    if value is None or not np.isfinite(value):
        return "–"
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3f}"
