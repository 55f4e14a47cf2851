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

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

__all__ = ["plot_scores", "tables"]


COLOURS = ("#4477aa", "#ccaa33", "#cc3311")  # readable with colour blindness (Tol's bright scheme)


def tables(result: Mapping[str, Any]) -> str:
    """Return the pair, search and audit tables of a result as Markdown, a row a method."""
    lines = []
    for condition, table in result["conditions"].items():
        lines += [
            f"### {condition}: pairs",
            "",
            "| method | macro-F1 | ours minus it | duplicate AUC | TPR at 1 % FPR | error to SSIM |",
            "|---|---|---|---|---|---|",
        ]
        for name, row in table["pairs"].items():
            if "missing" in row:
                lines.append(f"| {name} | {row['missing']} | | | | |")
                continue
            error, minus, ci95 = row["ssim_error"], row.get("reference_minus"), row["ci95"]
            cells = [
                name,
                f"{row['macro_f1']:.3f} {_range(ci95['macro_f1'])}",
                _range(minus["macro_f1"]) if minus and any(minus["macro_f1"]) else "",
                f"{row['duplicate_auc']:.3f} {_range(ci95['duplicate_auc'])}",
                f"{row['tpr']:.2f} {_range(ci95['tpr'], 2)}",
                f"{error['mean_of_bins']:.3f}" if error else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        audits = table.get("audit", {})
        shown = list(next(iter(table["search"].values()))["recall"])
        lines += [
            "",
            f"### {condition}: searches" + (" and audits" if audits else ""),
            "",
            f"| method | source within {' / '.join(shown)} subjects | TPR at 1 % false searches | searches a second "
            + ("| audit: recall | audit: false share |" if audits else "|"),
            "|---|---|---|---|" + ("---|---|" if audits else ""),
        ]
        for name, row in table["search"].items():
            cells = [
                name,
                " / ".join(f"{value:.3f}" for value in row["recall"].values()),
                f"{row['tpr']:.2f} {_range(row['ci95']['tpr'], 2)}",
                f"{row['searches_per_second']:.0f}",
            ]
            if audits:
                cells += [_mean_and_range(audits[name][key]) for key in ("recall", "false_share")]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def _range(interval: Sequence[float], digits: int = 3) -> str:
    return f"({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"


def _mean_and_range(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.2f} to {max(values):.2f})"


def plot_scores(result: Mapping[str, Any], path: str | Path) -> None:
    """Draw each method's distribution of scores by label, a row a method and a column a condition, with its cuts."""
    conditions = result["conditions"]
    names = [name for name, row in next(iter(conditions.values()))["pairs"].items() if "missing" not in row]
    figure = Figure(figsize=(3.4 * len(conditions), 0.95 * len(names) + 0.9), layout="constrained")
    axes = figure.subplots(len(names), len(conditions), squeeze=False)
    for column, (condition, table) in enumerate(conditions.items()):
        for row, name in enumerate(names):
            axis, entry = axes[row, column], table["pairs"][name]
            low = min(scores[1] for scores in entry["scores"])
            high = max(scores[-2] for scores in entry["scores"])
            edges = np.linspace(low, high + 1e-9, 33)
            for scores, label, colour in zip(entry["scores"], ("different", "similar", "duplicate"), COLOURS):
                # 101 quantiles stand for the scores: their distribution function, differenced
                density = np.diff(np.interp(edges, scores, np.linspace(0, 1, len(scores))))
                axis.stairs(density, edges, fill=True, alpha=0.45, color=colour, label=label)
            for cut in entry["thresholds"]:
                axis.axvline(cut, color="0.2", linewidth=0.8, linestyle=":")
            axis.set_yticks([])
            axis.xaxis.set_major_locator(MaxNLocator(4))
            axis.tick_params(labelsize=7)
            axis.spines[["top", "right", "left"]].set_visible(False)
            axis.text(0.01, 0.95, f"F1 {entry['macro_f1']:.2f}", transform=axis.transAxes, fontsize=7, va="top")
            if column == 0:
                axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
            if row == 0:
                axis.set_title(condition, fontsize=10)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)
