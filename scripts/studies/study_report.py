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

"""What a case study shows: a table and a figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import expit

from ..bundle.files import replacing
from ..ldm.latents import DUPLICATION
from .membership_report import membership_table
from .study_results import CellResult, CopyLeaks, SeenRow, StudyResult

__all__ = ["plot_study", "progress", "table"]


def table(study: StudyResult) -> str:
    """Return a study's cells as a Markdown table; below it what the rivals flag, the leaks by sight, and, where there
    were membership attacks, what they recognise."""
    lines = [*_cell_table(study.cells), "", *_rival_table(study.cells), "", *_seen_table(study.seen)]
    if attacked := list(membership_table(study.cells)):
        lines += ["", *attacked]
    return "\n".join(lines) + "\n"


def _cell_table(cells: Sequence[CellResult]) -> Iterator[str]:
    yield (
        "| cell, seed | trained on | samples called (95 %) | of them duplicates | subjects leaked (95 %) | "
        "recall of the positive control | AUC of the set | MMD (training images) | empty samples | minutes |"
    )
    yield "|---" * 10 + "|"
    for r in cells:
        memorized, leaked = r.memorized, r.leaked_subjects
        columns = [
            f"{r.cell.name}, {r.seed}",
            _trained_on(r),
            f"{memorized['rate']:.3f} ({_span(memorized['ci95'])})",
            f"{r.duplicates / memorized['count']:.2f}" if memorized["count"] else "",
            f"{leaked['rate']:.2f} ({_span(leaked['ci95'], 2)})",
            f"{r.positive_control['recall']:.2f}",
            f"{r.set_level['auc']:.2f}",
            f"{r.quality.mmd:.3f} ({r.quality.mmd_train:.4f})",
            str(r.empty),
            f"{sum(r.seconds.values()) / 60:.0f}",
        ]
        yield f"| {' | '.join(columns)} |"


def _trained_on(result: CellResult) -> str:
    cell = result.cell
    least, most = DUPLICATION[cell.duplication]
    copies = f" x {least}-{most} copies" if most > 1 else ""
    slices = "" if cell.slices == "one" else f" x {cell.slices} slices"
    condition = "" if cell.condition == "none" else f", {cell.condition}"
    return f"{cell.subjects} subjects{slices}{copies}, {cell.passes} passes{condition}"


def _rival_table(cells: Sequence[CellResult]) -> Iterator[str]:
    names = list(cells[0].rivals)
    yield "| flagged above the 95th percentile of unseen real images | " + " | ".join(names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for r in cells:
        yield f"| {r.cell.name}, {r.seed} | {' | '.join(f'{r.rivals[name].flagged:.2f}' for name in names)} |"


def _seen_table(rows: Sequence[SeenRow]) -> Iterator[str]:
    yield "| times that an image was seen in training | subjects | leaked | share (95 %) |"
    yield "|---|---|---|---|"
    for row in rows:
        share = f"{row.leaked / row.subjects:.2f} ({_span(row.ci95, 2)})"
        yield f"| {row.seen[0]} to {row.seen[1]} | {row.subjects} | {row.leaked} | {share} |"


def _span(interval: Sequence[float], digits: int = 3) -> str:
    return f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"


def progress(result: CellResult) -> str:
    """Return one line on a model that is finished."""
    memorized, leaked = result.memorized, result.leaked_subjects
    low, high = memorized["ci95"]
    return (
        f"{result.cell.name}, seed {result.seed}: {memorized['rate']:.1%} of samples called ({low:.1%} to "
        f"{high:.1%}), {leaked['count']} of {len(result.subjects)} subjects leaked; positive control "
        f"{result.positive_control['recall']:.0%}; {sum(result.seconds.values()) / 60:.0f} min"
    )


def plot_study(study: StudyResult, path: str | Path) -> None:
    """Write as a figure the share of leaked subjects against their copies and against how often an image of theirs was
    seen in training, and the leaked subjects against the samples."""
    figure = Figure(figsize=(13.2, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    if study.by_copies is not None:
        _plot_copies(left, study.by_copies, study.cells)
    left.set(
        xlabel="copies of a subject in the training set", ylabel="share of subjects leaked (95 %)", ylim=(-0.03, 1.2)
    )
    names = list(dict.fromkeys(r.cell.name for r in study.cells))
    for name, color in zip(names, colormaps["tab10"](np.arange(len(names)) % 10)):
        cells = [r for r in study.cells if r.cell.name == name]
        _plot_sight(middle, cells, color)
        curves = [r.leaked_subjects["curve"] for r in cells]
        right.plot(curves[0]["samples"], np.mean([c["subjects"] for c in curves], axis=0), color=color, label=name)
    _label_sight(middle)
    right.set(xlabel="samples drawn", ylabel="subjects of called samples (mean of seeds)")
    right.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _plot_copies(axes: Axes, leaks: CopyLeaks, cells: Sequence[CellResult]) -> None:
    """Draw each duplication's shares with their intervals, and the fitted curve, mean of its models."""
    slope, groups = leaks.slope, sorted({row.duplication for row in leaks.copies})
    for group, color, shift in zip(groups, ("#15616d", "#c2410c"), (0.0, 0.15)):
        rows = [row for row in leaks.copies if row.duplication == group]
        copies = np.array([row.copies for row in rows])
        share = np.array([row.leaked / row.subjects for row in rows])
        span = np.array([row.ci95 for row in rows]).T
        grid = np.linspace(1, copies.max(), 200)
        models = {r.model for r in cells if r.cell.duplication == group}
        fitted = [expit(slope.intercepts[m] + slope.per_doubling * np.log2(grid)) for m in models]
        axes.errorbar(
            copies + shift,  # side by side
            share,
            [share - span[0], span[1] - share],
            fmt="o",
            color=color,
            capsize=2,
            ms=4,
            label=f"1-{copies.max()} copies, {len(models)} model{'s' * (len(models) > 1)}",
        )
        axes.plot(grid, np.mean(fitted, axis=0), color=color)
    low, high = slope.ci95
    axes.set_title(f"log odds +{slope.per_doubling:.2f} a doubling ({low:.2f} to {high:.2f})", fontsize=9)
    axes.legend(frameon=False, fontsize=8, loc="upper left")


def _plot_sight(axes: Axes, cells: Sequence[CellResult], color: Sequence[float]) -> None:
    """Draw the share of leaked subjects of one condition's models, a disc for each number of times."""
    seen = np.array([r.cell.passes * s.copies for r in cells for s in r.subjects])
    leaked = np.array([s.leaked for r in cells for s in r.subjects])
    times = np.unique(seen)
    shares, sizes = [leaked[seen == n].mean() for n in times], [(seen == n).sum() for n in times]
    axes.scatter(times, shares, sizes, color=color, alpha=0.7, linewidths=0)


def _label_sight(axes: Axes) -> None:
    axes.set(
        xlabel="times that an image was seen in training",
        ylabel="share of subjects leaked",
        ylim=(-0.05, 1.2),
        xscale="log",
    )
    axes.set_title("area of a disc: number of subjects", fontsize=9)
    ticks = [50 * 2**n for n in range(7) if 50 * 2**n <= 1.5 * axes.get_xlim()[1]]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
