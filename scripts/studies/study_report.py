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

"""What a case study shows: a table, leaks against copies, a figure, and sheets of pairs for the eye."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from ..bundle.files import read_table, replacing, write_table
from ..decision.rates import exact_interval
from ..images.loading import SliceSet
from ..ldm.latents import DUPLICATION
from ..similarity.rendering import render
from ..similarity.verification import Verifier

__all__ = ["contact_sheets", "copies_slope", "leaks_by_copies", "leaks_by_sight", "plot_study", "table"]


OFTEN = 10  # copies of a subject, against one
SEEN = (0, 100, 200, 300, 400, 500, 600, 800)  # times that an image was seen in training


def table(study: Mapping[str, Any]) -> str:
    """Return a study's cells as a Markdown table, with what the rivals flag below."""
    lines = [
        "| cell, seed | trained on | samples called (95 %) | of them duplicates | subjects leaked (95 %) | "
        "recall of the positive control | AUC of the set | MMD (training images) | empty samples | minutes |",
        "|---" * 10 + "|",
    ]
    for r in study["cells"]:
        cell, memorized, leaked, quality = r["cell"], r["memorized"], r["leaked_subjects"], r["quality"]
        duplicates = f"{r['duplicates'] / memorized['count']:.2f}" if memorized["count"] else ""
        least, most = DUPLICATION[cell["duplication"]]
        copies = f" x {least}-{most} copies" if most > 1 else ""
        slices = "" if cell["slices"] == "one" else f" x {cell['slices']} slices"
        condition = "" if cell["condition"] == "none" else f", {cell['condition']}"
        lines.append(
            f"| {cell['name']}, {r['seed']} | {cell['subjects']} subjects{slices}{copies}, {cell['passes']} passes"
            f"{condition} | {memorized['rate']:.3f} ({_span(memorized['ci95'])}) | "
            f"{duplicates} | "
            f"{leaked['rate']:.2f} ({_span(leaked['ci95'], 2)}) | {r['positive_control']['recall']:.2f} | "
            f"{r['set_level']['auc']:.2f} | {quality['mmd']:.3f} ({quality['mmd_train']:.4f}) | {r['empty']} | "
            f"{sum(r['seconds'].values()) / 60:.0f} |"
        )
    names = list(study["cells"][0]["rivals"])
    lines += ["", "| flagged above the 95th percentile of unseen real images | " + " | ".join(names) + " |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for r in study["cells"]:
        shares = " | ".join(f"{r['rivals'][name]['flagged']:.2f}" for name in names)
        lines.append(f"| {r['cell']['name']}, {r['seed']} | {shares} |")
    lines += [
        "",
        "| times that an image was seen in training | subjects | leaked | share (95 %) |",
        "|---|---|---|---|",
    ]
    for row in study["seen"]:
        share = f"{row['leaked'] / row['subjects']:.2f} ({_span(row['ci95'], 2)})"
        times = f"{row['seen'][0]} to {row['seen'][1]}"
        lines.append(f"| {times} | {row['subjects']} | {row['leaked']} | {share} |")
    return "\n".join(lines) + "\n"


def _span(interval: Sequence[float], digits: int = 3) -> str:
    return f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"


def leaks_by_copies(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the leaked subjects of every number of copies and the slope over it, of all models with repeated subjects.

    Args:
        cells: results of :meth:`CaseStudy.run_cell`.
    """
    subjects = [
        subject | {"duplication": r["cell"]["duplication"], "model": f"{r['cell']['name']}_{r['seed']}"}
        for r in cells
        if r["cell"]["duplication"] != "none"
        for subject in r["subjects"]
    ]
    if not subjects:
        return {"copies": None}
    column = {key: np.array([s[key] for s in subjects]) for key in subjects[0]}
    rows = []
    for duplication, count in sorted({(s["duplication"], s["copies"]) for s in subjects}):
        here = column["leaked"][(column["duplication"] == duplication) & (column["copies"] == count)]
        rows.append({"duplication": duplication, "copies": int(count), **_leaks(here)})
    often = np.isin(column["model"], column["model"][column["copies"] >= OFTEN])  # models that have such subjects
    shares = {}
    for name, chosen in (("leaked_once", column["copies"] == 1), ("leaked_often", column["copies"] >= OFTEN)):
        here = column["leaked"][chosen & often]
        shares[name] = {"subjects": len(here), "leaked": int(here.sum())}
    slope = copies_slope(column["copies"], column["leaked"], column["subject_id"], column["model"])
    return {"copies": rows, "slope": slope, **shares}


def leaks_by_sight(cells: Sequence[Mapping[str, Any]], edges: Sequence[int] = SEEN) -> list[dict[str, Any]]:
    """Return the leaked subjects of all models by how often an image of theirs was seen: passes times copies.

    Args:
        cells: results of :meth:`CaseStudy.run_cell`.
        edges: least number of each row, ascending; the last has no end. `seen` of a row is what it found.
    """
    subjects = [(s["copies"] * r["cell"]["passes"], s["leaked"]) for r in cells for s in r["subjects"]]
    seen, leaked = np.array(subjects).T
    rows = []
    for least, end in zip(edges, [*edges[1:], np.inf]):
        chosen = (seen >= least) & (seen < end)
        if chosen.any():
            rows.append({"seen": [int(seen[chosen].min()), int(seen[chosen].max())], **_leaks(leaked[chosen])})
    return rows


def _leaks(leaked: NDArray) -> dict[str, Any]:
    """Return the number of subjects, of leaked ones, and the exact interval of their share."""
    count = int(leaked.sum())
    return {"subjects": len(leaked), "leaked": count, "ci95": exact_interval(count, len(leaked))}


def copies_slope(
    copies: NDArray, leaked: NDArray, subjects: NDArray, models: NDArray, draws: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Return the slope of the log odds of a leak over log2 of the copies, with its 95 % bootstrap interval.

    A logistic regression with an intercept for each model, as models differ in how much they leak at all. Coefficients
    have a normal prior of deviation 10, so that a slope exists where copies separate the leaked from the others.

    Args:
        copies, leaked: of each subject in each model's training (R,).
        subjects: ids (R,); people are resampled, with all trainings that they were in.
        models: names (R,).
        draws, seed: of the bootstrap.
    """
    names, model = np.unique(models, return_inverse=True)
    x = np.c_[np.eye(len(names))[model], np.log2(copies)]
    rng = np.random.RandomState(seed)

    def fit(rows: NDArray) -> NDArray[np.float64]:
        a, y = x[rows], leaked[rows].astype(float)

        def loss(beta: NDArray) -> tuple[float, NDArray]:
            z = a @ beta
            return float(np.logaddexp(0, z).sum() - y @ z + beta @ beta / 200), a.T @ (expit(z) - y) + beta / 100

        return minimize(loss, np.zeros(x.shape[1]), jac=True, method="BFGS").x

    _, person = np.unique(subjects, return_inverse=True)
    rows = [np.flatnonzero(person == p) for p in range(person.max() + 1)]
    slopes = [fit(np.concatenate([rows[p] for p in rng.choice(len(rows), len(rows))]))[-1] for _ in range(draws)]
    *intercepts, slope = fit(np.arange(len(copies))).tolist()
    low, high = np.percentile(slopes, [2.5, 97.5])
    return {
        "per_doubling": slope,
        "ci95": [float(low), float(high)],
        "intercepts": dict(zip(names.tolist(), intercepts)),
    }


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
        SliceSet.load(
            [{"image": rows[i][c], "id": rows[i][c], "subject_id": rows[i]["train_subject"]} for i in chosen],
            preprocessing,
        ).images
        for c in columns
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
    keys = ("cell", "generated_id", "train_subject", "aligned_ssim", "q_value", "label", "memorized")
    write_table(
        output / "contact_sheet.csv", [{"pair": n} | {k: rows[i][k] for k in keys} for n, i in enumerate(chosen)]
    )
    return pages


def plot_study(study: Mapping[str, Any], path: str | Path) -> None:
    """Write as a figure the share of leaked subjects against their copies and against how often an image of theirs was
    seen in training, and the leaked subjects against the samples."""
    figure = Figure(figsize=(13.2, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    if study["copies"]:
        slope, groups = study["slope"], sorted({row["duplication"] for row in study["copies"]})
        for group, color, shift in zip(groups, ("#15616d", "#c2410c"), (0.0, 0.15)):
            rows = [row for row in study["copies"] if row["duplication"] == group]
            copies = np.array([row["copies"] for row in rows])
            share = np.array([row["leaked"] / row["subjects"] for row in rows])
            span = np.array([row["ci95"] for row in rows]).T
            grid = np.linspace(1, copies.max(), 200)
            models = {f"{r['cell']['name']}_{r['seed']}" for r in study["cells"] if r["cell"]["duplication"] == group}
            fitted = [expit(slope["intercepts"][m] + slope["per_doubling"] * np.log2(grid)) for m in models]
            left.errorbar(
                copies + shift,  # side by side
                share,
                [share - span[0], span[1] - share],
                fmt="o",
                color=color,
                capsize=2,
                ms=4,
                label=f"1-{copies.max()} copies, {len(models)} model{'s' * (len(models) > 1)}",
            )
            left.plot(grid, np.mean(fitted, axis=0), color=color)
        low, high = slope["ci95"]
        left.set_title(f"log odds +{slope['per_doubling']:.2f} a doubling ({low:.2f} to {high:.2f})", fontsize=9)
        left.legend(frameon=False, fontsize=8, loc="upper left")
    left.set(
        xlabel="copies of a subject in the training set", ylabel="share of subjects leaked (95 %)", ylim=(-0.03, 1.2)
    )
    cells = list(dict.fromkeys(r["cell"]["name"] for r in study["cells"]))
    for name, color in zip(cells, colormaps["tab10"](np.arange(len(cells)) % 10)):
        curves = [r["leaked_subjects"]["curve"] for r in study["cells"] if r["cell"]["name"] == name]
        right.plot(curves[0]["samples"], np.mean([c["subjects"] for c in curves], axis=0), color=color, label=name)
        subjects = [
            (s, r["cell"]["passes"]) for r in study["cells"] if r["cell"]["name"] == name for s in r["subjects"]
        ]
        seen = np.array([passes * s["copies"] for s, passes in subjects])
        leaked = np.array([s["leaked"] for s, _ in subjects])
        times = np.unique(seen)
        shares, sizes = [leaked[seen == n].mean() for n in times], [(seen == n).sum() for n in times]
        middle.scatter(times, shares, sizes, color=color, alpha=0.7, linewidths=0)
    middle.set(
        xlabel="times that an image was seen in training",
        ylabel="share of subjects leaked",
        ylim=(-0.05, 1.2),
        xscale="log",
    )
    middle.set_title("area of a disc: number of subjects", fontsize=9)
    ticks = [50 * 2**n for n in range(7) if 50 * 2**n <= 1.5 * middle.get_xlim()[1]]
    middle.set_xticks(ticks, [str(tick) for tick in ticks])
    middle.minorticks_off()
    right.set(xlabel="samples drawn", ylabel="subjects of called samples (mean of seeds)")
    right.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
