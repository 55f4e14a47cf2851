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

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from markupsafe import Markup

from ..auditing.result import AuditResult
from ..bundle.progress import Progress
from ..bundle.text import grouped
from .pictures import DIFFERENCE, Evidence, Explains, contact_sheet, evidence, histogram, thumbnail
from .self_contained import json_block, render_self_contained, shown_text
from .summary import Summary
from .tables import MatchRow

__all__ = ["Pictures", "SubjectCard", "draw_pictures", "render_page"]

TEMPLATE = Path(__file__).with_name("report.html.j2")
SCRIPT = Path(__file__).with_name("report.js")
SHOWN_SUBJECTS = 40  # cards; the other called images stand in the table
SHOWN_SAMPLES, SHOWN_PICTURES = 24, 100  # generated images on a card, beside the strongest, and on all cards
SHOWN_CANDIDATES = 6
MOST_ROWS = 10_000  # of the table of generated images
MOST_LISTED = 500  # of any other list; report.json holds all
TABLE = (
    "generated_id", "train_id", "train_subject", "similarity", "aligned_ssim", "mirrored", "statistic", "p_value",
    "q_value", "label", "memorized", "verdict",
)  # fmt: skip


@dataclass(frozen=True)
class Pictures:
    """The pictures of a page, by unit: of a pair those of the evidence, of a further sample a data URI."""

    evidence: dict[int, Evidence] = field(default_factory=dict)
    thumbnails: dict[int, str] = field(default_factory=dict)
    sheets: dict[str, list[str]] = field(default_factory=dict)  # some images of each set


@dataclass(frozen=True)
class SubjectCard:
    """A training subject of whom images were called: the units, copies first, the strongest first.

    `p` and `q`, over subjects, are of those that leaked, that is with a copy; None: likenesses alone.
    """

    subject: str
    units: list[int]
    copies: int
    p: float | None
    q: float | None
    shown: int = SHOWN_SAMPLES

    @property
    def likenesses(self) -> int:
        """How many of the units are no copies."""
        return len(self.units) - self.copies

    @property
    def samples(self) -> list[int]:
        """The units that the card shows beside the strongest."""
        return self.units[1 : 1 + self.shown]


def draw_pictures(result: AuditResult, pixel_mm: float = 2.0, explain: Explains | None = None) -> Pictures:
    """Return the pictures of the page; of volumes three planes, after an alignment in 3-D, a fifth of a second each.

    Args:
        result: of the audit.
        pixel_mm: the side of a pixel of volumes' slices.
        explain: maps what made an image and its match alike; None: that is not shown.
    """
    cards, pictures = _cards(result)[:SHOWN_SUBJECTS], Pictures()
    pairs = [*(card.units[0] for card in cards), *_candidates(result)]
    for unit in Progress(pairs, desc="drawing pictures", unit="pair"):
        if (found := evidence(result, result.match(unit), pixel_mm, explain)) is not None:
            pictures.evidence[unit] = found
    for unit in (unit for card in cards for unit in card.samples):
        pictures.thumbnails[unit] = thumbnail(result, result.match(unit))
    for name, data in (("training", result.train), ("generated", result.generated), ("holdout", result.holdout)):
        if data is not None:
            pictures.sheets[name] = contact_sheet(data, result.whole)
    return pictures


def render_page(
    result: AuditResult, matches: Sequence[MatchRow], summary: Summary, pictures: Pictures | None = None
) -> str:
    """Return the page; all that comes from outside is escaped, and the page's own script is the only one that may run.

    Args:
        result: of the audit, pseudonymised if names are to be hidden.
        matches: rows of matches.csv.
        summary: what report.json holds.
        pictures: of the page; None: it shows none.
    """
    cards = _cards(result)
    return render_self_contained(
        TEMPLATE,
        SCRIPT,
        {"number": _number, "percent": _percent, "grouped": grouped},
        result=result,
        summary=summary,
        matches=matches,
        cards=cards[:SHOWN_SUBJECTS],
        subjects=cards,
        difference=DIFFERENCE,
        candidates=_candidates(result),
        histogram=histogram(result),
        pictures=pictures,
        table=_table(result, matches),
        listed=MOST_LISTED,
        most_rows=MOST_ROWS,
        columns=TABLE,
    )


def _table(result: AuditResult, matches: Sequence[MatchRow]) -> Markup:
    """Return the matches with the least p-values as the JSON of a data block, which only '<' could end early."""
    units = np.sort(np.argsort(result.p_value, kind="stable")[:MOST_ROWS]).tolist()
    rows = [[shown_text(getattr(match, column)) for column in TABLE] for match in map(matches.__getitem__, units)]
    return json_block({"units": units, "rows": rows})


def _candidates(result: AuditResult) -> list[int]:
    """Return the units that come nearest to a call without one."""
    second = np.flatnonzero(~result.memorized)
    return second[np.argsort(result.p_value[second], kind="stable")][:SHOWN_CANDIDATES].tolist()


def _cards(result: AuditResult) -> list[SubjectCard]:
    """Return the subjects of whom images were called: first those that leaked, by q, then by how many."""
    order = np.lexsort((-result.found.best_ssim, result.p_value, ~result.copy))
    units: dict[str, list[int]] = {}
    for unit in order[result.memorized[order]].tolist():
        units.setdefault(result.subject_names[result.found.nearest[unit]], []).append(unit)
    shown = min(SHOWN_SAMPLES, SHOWN_PICTURES // max(1, min(len(units), SHOWN_SUBJECTS)))
    leaks, leaked = result.decision.leaks, set(result.leaked)
    names = [result.subject_names[s] for s in leaks.subject]
    tests = {name: (float(p), float(q)) for name, p, q in zip(names, leaks.p_value, leaks.q_value) if name in leaked}
    cards = []
    for name, own in units.items():
        p, q = tests.get(name, (None, None))
        cards.append(SubjectCard(name, own, int(result.copy[own].sum()), p, q, shown))
    return sorted(cards, key=lambda card: (card.q is None, card.q or 0.0, -card.copies, -len(card.units)))


def _number(value: float | None) -> str:
    if value is None or not np.isfinite(value):
        return "–"
    if 0 < abs(value) < 1e-3:
        digits, power = f"{value:.1e}".split("e")
        return f"{digits}e{int(power)}"  # as the table's script writes it
    return f"{value:.3f}"


def _percent(share: float) -> str:
    """Return a share in percent, with a decimal where it is small."""
    percent = 100 * share
    return f"{percent:.0f}\xa0%" if percent >= 10 or percent == 0 else f"{percent:.1f}\xa0%"
