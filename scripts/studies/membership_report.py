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

"""What a membership attack shows beside an audit: a table and a figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..bundle.files import replacing
from .study_results import CellResult, Membership, Merit

__all__ = ["membership_table", "plot_membership"]

COLUMNS = 4  # panels side by side
COLORS = {"never seen": "#6b7280", "trained on, not leaked": "#15616d", "leaked": "#c2410c"}


def membership_table(cells: Sequence[CellResult]) -> Iterator[str]:
    """Yield the lines of a Markdown table, a row for each model that was attacked; none where none was."""
    attacked = [(r, r.membership) for r in cells if r.membership is not None]
    if not attacked:
        return
    yield (
        "| cell, seed | trained on, never seen | AUC, trained on against never seen (95 %) | recognised at 1 % false "
        "positives | of those leaked | of those not leaked | AUC, leaked against not (95 %) | "
        "Spearman's correlation, score and called samples |"
    )
    yield "|---" * 8 + "|"
    for r, found in attacked:
        members = sum(subject.member for subject in found.subjects)
        columns = [
            f"{r.cell.name}, {r.seed}",
            f"{members}, {len(found.subjects) - members}",
            _merit(found.auc),
            _merit(found.tpr),
            *_of_leaked(found),
            _merit(found.leaked_auc),
            _merit(found.called_correlation),
        ]
        yield f"| {' | '.join(columns)} |"


def _merit(merit: Merit) -> str:
    if merit.value is None:
        return f"none: {merit.reason}"
    span = "" if merit.ci95 is None else f" ({merit.ci95[0]:.2f} to {merit.ci95[1]:.2f})"
    return f"{merit.value:.2f}{span}"


def _of_leaked(found: Membership) -> tuple[str, str]:
    """Return how many of the leaked members, and of the other members, the attack recognised."""
    if found.recognised is None or found.missed is None:
        return "", ""
    hit, miss = found.recognised, found.missed
    spared = hit.subjects - hit.leaked
    return (f"{hit.leaked} of {hit.leaked + miss.leaked}", f"{spared} of {spared + miss.subjects - miss.leaked}")


def plot_membership(cells: Sequence[CellResult], path: str | Path) -> None:
    """Write as a figure the attack's scores of each model: of people never seen, of members that did not leak, of those
    that did. A dot is a subject, a line a median. No file is written where no model was attacked."""
    attacked = [(r, r.membership) for r in cells if r.membership is not None]
    if not attacked:
        return
    columns = min(COLUMNS, len(attacked))
    rows = -(-len(attacked) // columns)
    figure = Figure(figsize=(3.3 * columns, 3.1 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (r, found) in zip(panels, attacked):
        _plot_scores(axes, found)
        axes.set_title(f"{r.cell.name}, {r.seed}: AUC {_merit(found.auc)}", fontsize=9)
    for axes in list(panels):  # those that no model is left for
        axes.axis("off")
    figure.supylabel("score of the attack: minus its error", fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _plot_scores(axes: Axes, found: Membership) -> None:
    kinds = [
        [s.score for s in found.subjects if not s.member],
        [s.score for s in found.subjects if s.member and not s.leaked],
        [s.score for s in found.subjects if s.member and s.leaked],
    ]
    rng = np.random.RandomState(0)  # side by side
    for place, (scores, color) in enumerate(zip(kinds, COLORS.values())):
        if scores:
            axes.scatter(place + rng.uniform(-0.25, 0.25, len(scores)), scores, 9, color=color, alpha=0.6, linewidths=0)
            axes.hlines(np.median(scores), place - 0.35, place + 0.35, color=color)
    names = [f"{name.replace(', ', chr(10))}\n({len(scores)})" for name, scores in zip(COLORS, kinds)]
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.tick_params("y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
