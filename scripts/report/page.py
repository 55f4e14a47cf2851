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

"""Render an audit's result as one self-contained HTML page: verdict, distributions, evidence, table of all matches."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ..audit.result import AuditResult
from ..similarity.rendering import render
from ..similarity.ssim import WINDOW
from ..similarity.volumes import VolumeAlignment, align_volumes, start_from_slices

__all__ = ["render_page"]


TEMPLATE = Path(__file__).with_name("report.html.j2")
SCRIPT = Path(__file__).with_name("report.js")
SHOWN_PAIRS = 60  # pictures of called images; the rest stands in the table
SHOWN_CANDIDATES = 6
TABLE = (
    "generated_id", "train_id", "train_subject", "similarity", "aligned_ssim", "mirrored", "statistic", "p_value",
    "q_value", "label", "memorized",
)  # fmt: skip


def render_page(
    result: AuditResult,
    matches: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    subject_name: Callable[[int], str],
    thumbnails: bool,
    pixel_mm: float = 2.0,
) -> str:
    """Return the page; all that comes from outside is escaped, and the page's own script is the only one that may run.

    Args:
        result: of the audit.
        matches: rows of matches.csv, one a generated image or volume.
        summary: what report.json holds.
        subject_name: of a subject's number, as it is to be shown.
        thumbnails: show images; of volumes three planes, after an alignment in 3-D, about a second each.
        pixel_mm: the side of a pixel of volumes' slices.
    """
    order = np.lexsort((-result.found.aligned_ssim.max(1), result.p_value))
    called = [int(u) for u in order if result.memorized[u]]
    second = sorted((u for u in range(len(matches)) if not result.memorized[u]), key=lambda u: result.p_value[u])
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["number"] = _number
    script = SCRIPT.read_text(encoding="utf-8")
    rows = [[match[column] for column in TABLE] for match in matches]
    # in a data block only '<' can end it early
    table = json.dumps(rows, separators=(",", ":"), allow_nan=False, default=float).replace("<", "\\u003c")
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        summary=summary,
        calls=[_pair(result, matches, u, thumbnails, pixel_mm) for u in called[:SHOWN_PAIRS]],
        hidden=max(0, len(called) - SHOWN_PAIRS),
        candidates=[_pair(result, matches, u, thumbnails, pixel_mm) for u in second[:SHOWN_CANDIDATES]],
        subjects=_leaked_table(result, subject_name),
        histogram=_histogram(result),
        thumbnails=thumbnails,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        table=Markup(table),
        columns=TABLE,
    )


def _pair(
    result: AuditResult, matches: Sequence[Mapping[str, Any]], unit: int, thumbnails: bool, pixel_mm: float
) -> dict[str, Any]:
    """Return what the page shows of one generated image: for a volume, sections in three planes."""
    pair: dict[str, Any] = {"match": matches[unit], "number": unit}
    if not thumbnails or not matches[unit]["train_subject"]:
        return pair
    rows = result.units.rows(unit)
    rows = rows[np.argsort(-result.generated.level[rows], kind="stable")]  # of a volume the top of the head last
    best = result.found.best[unit]
    upright = bool(result.generated.slice[rows[0]] >= 0)
    strongest = int(result.found.slice_ssim[rows, best].argmax())
    volumes = _aligned_volumes(result, rows, best, pixel_mm) if len(rows) > 1 else None
    if volumes is None:
        row = rows[strongest]
        query = result.units.images[row][None].astype(np.float32)
        reference = result.train.images[result.found.image[row, best]][None].astype(np.float32)
        warped, _ = render(query, reference, result.found.matrix[row, best][None])
        planes = [(query[0], warped[0])]
    else:
        query, found, spacing = volumes
        pair["volume_ssim"] = found.ssim
        planes = list(zip(_sections(query, strongest, spacing), _sections(found.aligned, strongest, spacing)))
    pair["pictures"] = [
        {"title": title, "data": _picture(image, upright)}
        for generated, aligned in planes
        for title, image in (
            ("generated", generated),
            ("training, aligned", aligned),
            ("difference", np.abs(generated - aligned)),
        )
    ]
    return pair


def _aligned_volumes(
    result: AuditResult, rows: NDArray, best: int, pixel_mm: float
) -> tuple[NDArray[np.float32], VolumeAlignment, NDArray] | None:
    """Return a generated volume, its training volume aligned to it in 3-D and the spacing; None if too few slices.

    The training volume is the file that most slices match. `rows` has the top of the head last, as the result.
    """
    match = result.found.image[rows, best]
    file = Counter(result.train.file[match].tolist()).most_common(1)[0][0]
    here = np.flatnonzero(result.train.file[match] == file)
    own = np.flatnonzero(result.train.file == file)
    own = own[np.argsort(-result.train.level[own], kind="stable")]
    level = result.generated.level[rows]
    if min(len(rows), len(own)) < WINDOW or len(here) < 3 or not np.isfinite(level).all():
        return None
    spacing = np.array([np.median(np.abs(np.diff(level))), pixel_mm, pixel_mm])
    query = result.units.images[rows].astype(np.float32)
    matched = (own[None] == match[here][:, None]).argmax(1)
    start = start_from_slices(result.found.matrix[rows[here], best], here, matched, (len(rows), len(own)), spacing)
    return query, align_volumes(query, result.train.images[own].astype(np.float32), start, spacing), spacing


def _sections(volume: NDArray, strongest: int, spacing: NDArray) -> list[NDArray]:
    """Return the strongest slice (W, H) of a volume (Z, W, H), its coronal and sagittal middle, in square pixels."""
    stretch = (1, spacing[0] / spacing[1])
    middle = [volume[:, :, volume.shape[2] // 2].T, volume[:, volume.shape[1] // 2, :].T]
    return [volume[strongest], *(ndimage.zoom(section, stretch, order=1) for section in middle)]


def _leaked_table(result: AuditResult, subject_name: Callable[[int], str]) -> list[dict[str, Any]]:
    nearest = result.found.at_best(result.found.subject)
    table = [
        {
            "subject": subject_name(int(number)),
            "images": int((result.memorized & (nearest == number)).sum()),
            "p": float(p),
            "q": float(q),
        }
        for number, p, q in zip(result.leaked["subjects"], result.leaked["p"], result.leaked["q"])
        if q <= result.fdr
    ]
    return sorted(table, key=lambda row: (row["q"], -row["images"]))


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3f}"


def _picture(image: NDArray, upright: bool) -> str:
    """Return a PNG data URI; images are (x, y): RAS for slices of volumes, y downwards for planar files."""
    pixels = (image.clip(0, 1) * 255).astype(np.uint8).T
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[::-1] if upright else pixels)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _histogram(result: AuditResult) -> str:
    """Return the statistic of generated images and of the nulls as an SVG data URI."""
    matplotlib.rcParams["svg.hashsalt"] = "deepssim"  # the same result gives the same file
    figure = Figure(figsize=(10.4, 2.4), layout="constrained")
    axes = figure.subplots()
    parts = [
        (name, values[np.isfinite(values)], colour)
        for name, values, colour in (
            ("training images, each subject left out", result.leave_one_out.statistic, "#9aa5b1"),
            ("holdout", None if result.holdout is None else result.null.statistic, "#15616d"),
            ("generated", result.statistic, "#c2410c"),
        )
        if values is not None
    ]
    parts = [part for part in parts if len(part[1])]
    if parts:
        everything = np.concatenate([values for _, values, _ in parts])
        edges = np.linspace(everything.min(), everything.max() + 1e-6, 50).tolist()
        for name, values, colour in parts:
            if name.startswith("training"):
                axes.hist(values, edges, density=True, color=colour, label=name)
            else:
                axes.hist(values, edges, density=True, histtype="step", color=colour, lw=1.8, label=name)
        called = result.statistic[result.memorized]
        if len(called):
            axes.axvline(called.min(), color="#c2410c", ls=":", lw=1.2, label="least called")
        axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel("statistic T: how much closer the best training subject is than the next four", fontsize=9)
    axes.set_ylabel("density", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
