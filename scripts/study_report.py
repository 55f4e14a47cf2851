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

"""What a case study shows: a table, a figure, and sheets of pairs for the eye."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from scipy.special import expit

from .files import read_table, replacing, write_table
from .latents import pixels
from .verification import Verifier, render

__all__ = ["contact_sheets", "plot_study", "table"]


def table(study: Mapping[str, Any]) -> str:
    """Return a study's cells as a Markdown table, with what the rivals flag below."""
    lines = [
        "| cell | subjects | copies | passes | condition | seed | samples called (95 %) | subjects leaked (95 %) | "
        "recall of the positive control | AUC of the set | MMD (training images) | minutes |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in study["cells"]:
        cell, leaked, quality = r["cell"], r["leaked_subjects"], r["quality"]
        lines.append(
            f"| {cell['name']} | {cell['subjects']} | {cell['duplication']} | {cell['passes']} | {cell['condition']} | "
            f"{r['seed']} | {r['memorized']['rate']:.3f} ({_span(r['memorized']['ci95'])}) | "
            f"{leaked['rate']:.3f} ({_span(leaked['ci95'])}) | {r['positive_control']['recall']:.2f} | "
            f"{r['set_level']['auc']:.2f} | {quality['mmd']:.3g} ({quality['mmd_train']:.3g}) | "
            f"{sum(r['seconds'].values()) / 60:.1f} |"
        )
    names = list(study["cells"][0]["rivals"])
    lines += ["", "| flagged above the 95th percentile of unseen real images | " + " | ".join(names) + " |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for r in study["cells"]:
        shares = " | ".join(f"{r['rivals'][name]['flagged']:.2f}" for name in names)
        lines.append(f"| {r['cell']['name']}, seed {r['seed']} | {shares} |")
    return "\n".join(lines) + "\n"


def _span(interval: Sequence[float]) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}"


def contact_sheets(
    output_dir: str | Path, preprocessing: Callable, verifier: Verifier, count: int = 40, seed: int = 0, page: int = 20
) -> list[Path]:
    """Write pages of pairs for the eye: `count` random calls and as many others of a study, shuffled and unmarked.

    Each pair is a generated image, the training image aligned to it and their difference; contact_sheet.csv names the
    pairs and what the audit called, to be opened after the judgement. They show real patients, so they stay in the
    study's folder.
    """
    output, rng = Path(output_dir), np.random.RandomState(seed)
    rows = [
        row | {"cell": audit.parent.parent.name}
        for audit in sorted(output.glob("cells/*/audit/matches.csv"))
        for row in read_table(audit)
    ]
    called = np.array([row["memorized"] == "1" for row in rows])
    groups = [np.flatnonzero(called), np.flatnonzero(~called)]
    chosen = rng.permutation(np.concatenate([rng.choice(g, min(count, len(g)), replace=False) for g in groups]))
    columns = ("generated_path", "train_path")
    query, reference = (
        pixels([{"image": rows[i][column], "id": rows[i][column]} for i in chosen], preprocessing) for column in columns
    )
    aligned, _ = render(query, reference, verifier.align(query, reference).matrix)
    cells = np.concatenate([query, aligned, np.abs(query - aligned)], axis=1).transpose(0, 2, 1)  # (P, H, 3 W)
    pages = []
    for number, start in enumerate(range(0, len(cells), page), start=1):
        lines = -(-min(page, len(cells) - start) // 2)
        figure = Figure(figsize=(12, 2.5 * lines), layout="constrained")
        for axes, index in zip(figure.subplots(lines, 2, squeeze=False).flat, range(start, start + page)):
            axes.axis("off")
            if index < len(cells):
                axes.imshow(cells[index], cmap="gray", vmin=0, vmax=1)
                axes.set_title(str(index), fontsize=8, loc="left")
        pages.append(output / f"contact_sheet_{number}.png")
        with replacing(pages[-1]) as path:
            figure.savefig(path, dpi=110)
    keys = ("cell", "generated_id", "train_subject", "aligned_ssim", "q_value", "memorized")
    write_table(
        output / "contact_sheet.csv", [{"pair": n} | {k: rows[i][k] for k in keys} for n, i in enumerate(chosen)]
    )
    return pages


def plot_study(study: Mapping[str, Any], path: str | Path) -> None:
    """Write the probability of a leak against a subject's copies, and leaked subjects against samples, as a figure."""
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    if study["copies"]:
        copies = np.array([row["copies"] for row in study["copies"]])
        share = np.array([row["leaked"] / row["subjects"] for row in study["copies"]])
        span = np.array([row["ci95"] for row in study["copies"]]).T
        left.errorbar(copies, share, [share - span[0], span[1] - share], fmt="o", color="#15616d", capsize=2, ms=4)
        grid, slope = np.linspace(1, copies.max(), 200), study["slope"]
        fitted = expit(slope["intercept"] + slope["per_doubling"] * np.log2(grid))
        low, high = slope["ci95"]
        left.plot(
            grid,
            fitted,
            color="#c2410c",
            label=f"log odds +{slope['per_doubling']:.2f} a doubling ({low:.2f} to {high:.2f})",
        )
        left.legend(frameon=False, fontsize=8, loc="upper left")
    left.set(
        xlabel="copies of a subject in the training set", ylabel="share of subjects leaked (95 %)", ylim=(-0.03, 1.2)
    )
    cells = list(dict.fromkeys(r["cell"]["name"] for r in study["cells"]))
    for name, color in zip(cells, colormaps["viridis"](np.linspace(0, 0.9, len(cells)))):
        curves = [r["leaked_subjects"]["curve"] for r in study["cells"] if r["cell"]["name"] == name]
        right.plot(curves[0]["samples"], np.mean([c["subjects"] for c in curves], axis=0), color=color, label=name)
    right.set(xlabel="samples drawn", ylabel="subjects leaked (mean of seeds)")
    right.legend(frameon=False, fontsize=7)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
