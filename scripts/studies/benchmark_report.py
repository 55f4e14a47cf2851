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

"""What a benchmark shows: its tables and the distributions of the scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..decision.labels import Label
from .benchmark_results import BenchmarkResult, ConditionResult, PairScores

__all__ = ["plot_scores", "tables"]


COLOURS = {  # readable with colour blindness (Tol's bright scheme)
    Label.DIFFERENT: "#4477aa",
    Label.SIMILAR: "#ccaa33",
    Label.DUPLICATE: "#cc3311",
}


def tables(result: BenchmarkResult) -> str:
    """Return the pair, search and audit tables of a result as Markdown, a row a method."""
    lines: list[str] = []
    for name, condition in result.conditions.items():
        lines += [f"### {name}: pairs", "", *_pair_table(condition), ""]
        lines += [f"### {name}: searches" + (" and audits" if condition.audit else ""), ""]
        lines += [*_search_table(condition), ""]
    return "\n".join(lines).rstrip()


def _pair_table(condition: ConditionResult) -> Iterator[str]:
    yield "| method | macro-F1 | ours minus it | duplicate AUC | TPR at 1 % FPR | error to SSIM |"
    yield "|---|---|---|---|---|---|"
    for name, row in condition.pairs.items():
        if row is None:
            yield f"| {name} | weights not given | | | | |"
            continue
        minus = row.reference_minus
        cells = [
            name,
            f"{row.macro_f1:.3f} {_range(row.ci95['macro_f1'])}",
            _range(minus["macro_f1"]) if minus and any(minus["macro_f1"]) else "",
            f"{row.duplicate_auc:.3f} {_range(row.ci95['duplicate_auc'])}",
            f"{row.tpr:.2f} {_range(row.ci95['tpr'], 2)}",
            f"{row.ssim_error.mean_of_bins:.3f}" if row.ssim_error else "",
        ]
        yield f"| {' | '.join(cells)} |"


def _search_table(condition: ConditionResult) -> Iterator[str]:
    audits = condition.audit or {}
    strict = any(row.strict_tpr is not None for row in condition.search.values())
    shown = " / ".join(next(iter(condition.search.values())).recall)
    head = ["method", f"source within {shown} subjects", "TPR at 1 % false searches"]
    head += ["TPR at 0.1 % false searches"] if strict else []
    head += ["searches a second"] + (["audit: recall", "audit: false share"] if audits else [])
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for name, row in condition.search.items():
        cells = [
            name,
            " / ".join(f"{value:.3f}" for value in row.recall.values()),
            f"{row.tpr:.2f} {_range(row.ci95['tpr'], 2)}",
        ]
        if strict:
            known = row.strict_tpr is not None
            cells.append(f"{row.strict_tpr:.2f} {_range(row.ci95['strict_tpr'], 2)}" if known else "")
        cells.append(f"{row.searches_per_second:.0f}")
        if audits:  # a method that was added later may have the only ones
            own = audits.get(name)
            cells += [_mean_and_range(values) for values in (own.recall, own.false_share)] if own else ["", ""]
        yield f"| {' | '.join(cells)} |"


def _range(interval: Sequence[float], digits: int = 3) -> str:
    return f"({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"


def _mean_and_range(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.2f} to {max(values):.2f})"


def plot_scores(result: BenchmarkResult, path: str | Path) -> None:
    """Draw each method's distribution of scores by label, a row a method and a column a condition, with its cuts."""
    conditions = result.conditions
    names = [name for name, row in next(iter(conditions.values())).pairs.items() if row is not None]
    figure = Figure(figsize=(3.4 * len(conditions), 0.95 * len(names) + 0.9), layout="constrained")
    axes = figure.subplots(len(names), len(conditions), squeeze=False)
    for column, (title, condition) in enumerate(conditions.items()):
        for axis, name in zip(axes[:, column], names):
            if (scores := condition.pairs[name]) is not None:
                _plot_distributions(axis, scores)
        axes[0, column].set_title(title, fontsize=10)
    for axis, name in zip(axes[:, 0], names):
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)


def _plot_distributions(axis: Axes, row: PairScores) -> None:
    low = min(scores[1] for scores in row.scores)
    high = max(scores[-2] for scores in row.scores)
    edges = np.linspace(low, high + 1e-9, 33)
    for label, scores in zip(Label, row.scores):
        # 101 quantiles stand for the scores: their distribution function, differenced
        density = np.diff(np.interp(edges, scores, np.linspace(0, 1, len(scores))))
        axis.stairs(density, edges, fill=True, alpha=0.45, color=COLOURS[label], label=label.name.lower())
    for cut in row.thresholds:
        axis.axvline(cut, color="0.2", linewidth=0.8, linestyle=":")
    axis.set_yticks([])
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.text(0.01, 0.95, f"F1 {row.macro_f1:.2f}", transform=axis.transAxes, fontsize=7, va="top")
