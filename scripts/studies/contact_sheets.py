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

"""Sheets of pairs for the eye: were those that an audit called copies?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..bundle.files import read_table, replacing, write_table
from ..images.items import Item, Preprocessing
from ..images.loading import SliceSet
from ..similarity.verification import Verifier

__all__ = ["contact_sheets"]

COLUMNS = ("cell", "generated_id", "train_subject", "aligned_ssim", "q_value", "label", "memorized")


def contact_sheets(
    output_dir: str | Path,
    preprocessing: Preprocessing,
    verifier: Verifier,
    count: int = 40,
    seed: int = 0,
    page: int = 20,
) -> list[Path]:
    """Return the written pages of pairs for the eye: `count` random calls and as many others of a study, shuffled and
    unmarked.

    Each pair is a generated image, the training image aligned to it and their difference; contact_sheet.csv names the
    pairs and what the audit called, to be opened after the judgement. They show real patients, so they stay in the
    study's folder.
    """
    output = Path(output_dir)
    rows = [
        row | {"cell": audit.parent.parent.name}
        for audit in sorted(output.glob("cells/*/audit/matches.csv"))
        for row in read_table(audit)
    ]
    rng, called = np.random.RandomState(seed), np.array([row["memorized"] == "1" for row in rows])
    groups = [np.flatnonzero(called), np.flatnonzero(~called)]
    order = rng.permutation(np.concatenate([rng.choice(g, min(count, len(g)), replace=False) for g in groups]))
    chosen = [rows[i] for i in order]
    query, reference = (
        SliceSet.load([_item(row, column) for row in chosen], preprocessing).images
        for column in ("generated_path", "train_path")
    )
    aligned = verifier.show(query, reference, verifier.align(query, reference).matrix)
    pairs = np.concatenate([query, aligned, np.abs(query - aligned)], axis=1).transpose(0, 2, 1)  # (P, H, 3 W)
    pages = list(_pages(pairs, page, output))
    write_table(
        output / "contact_sheet.csv", [{"pair": n} | {k: row[k] for k in COLUMNS} for n, row in enumerate(chosen)]
    )
    return pages


def _item(row: dict[str, str], column: str) -> Item:
    return {"image": row[column], "id": row[column], "subject_id": row["train_subject"]}


def _pages(pairs: NDArray, page: int, output: Path) -> Iterator[Path]:
    """Write `page` pairs (P, H, W) a sheet, numbered, and yield the sheets' paths."""
    for number, start in enumerate(range(0, len(pairs), page), start=1):
        lines = -(-min(page, len(pairs) - start) // 2)
        figure = Figure(figsize=(12, 2.5 * lines), layout="constrained")
        for axes, index in zip(figure.subplots(lines, 2, squeeze=False).flat, range(start, start + page)):
            axes.axis("off")
            if index < len(pairs):
                axes.imshow(pairs[index], cmap="gray", vmin=0, vmax=1)
                axes.set_title(str(index), fontsize=8, loc="left")
        sheet = output / f"contact_sheet_{number}.png"
        with replacing(sheet) as path:
            figure.savefig(path, dpi=110)
        yield sheet
