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

"""The study's images: slices or volumes exported once, and the subjects that each model trains on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..bundle.components import choice
from ..bundle.files import read_table, replacing, write_table
from ..images.items import Item, Preprocessing
from ..images.loading import prepared_images
from ..images.writing import write_image
from ..ldm.conditions import tissue_shares
from ..ldm.texts import MISSING
from .study_results import Cell

__all__ = ["export_images", "one_scan_each", "subject_rows"]


def one_scan_each(items: Sequence[Item], columns: Sequence[str] = ()) -> list[Item]:
    """Return the first item of each subject that has a value in all of the columns.

    For studies that draw equally many samples for each person. CoRR has several scans of many people in a session.

    Raises:
        ValueError: if no item has them.
    """
    whole = [item for item in items if all(item.get(column) not in MISSING for column in columns)]
    if not whole:
        raise ValueError(
            f"dataset_dir: expected images of people with {' and '.join(columns)}, found none among {len(items)}; give "
            "people_file, or a datalist with these columns"
        )
    first: dict[str, Item] = {}
    for item in whole:
        first.setdefault(item["subject_id"], item)
    return list(first.values())


def export_images(
    items: Sequence[Item],
    preprocessing: Preprocessing,
    levels: Sequence[float] | None,
    output_dir: str | Path,
    tissues: Mapping[str, Sequence[int]] | None = None,
    pixel_mm: float = 2.0,
) -> Path:
    """Write what the chain makes of each item, and images.csv with its columns; return that.

    Slices are PNG, volumes NIfTI. Items with a mask are skull-stripped. A finished images.csv is left as it is.

    Args:
        items: of volumes with `subject_id`.
        preprocessing: the bundle's chain, or that of whole volumes.
        levels: in mm below the top of the object; of a volume the slices nearest to these. None: all.
        tissues: labels of :func:`tissue_shares`, for items with a label map as `mask`.
        pixel_mm: side of a volume's voxels, as the chain makes them.
    """
    output = Path(output_dir)
    table = output / "images.csv"
    if table.exists():
        return table
    rows = []
    scans: Counter[str] = Counter()
    for item in items:
        shares = tissue_shares(item["mask"], tissues) if tissues and "mask" in item else {}
        columns = {k: v for k, v in item.items() if k not in ("image", "mask", "id", "subject_id", "participant_id")}
        images = [np.asarray(made["image"])[0] for made in prepared_images([item], preprocessing, levels)]
        scans[item["subject_id"]] += 1
        scan = f"_scan{number}" if (number := scans[item["subject_id"]]) > 1 else ""  # a person may have several
        for number, image in enumerate(images):
            suffix = ".png" if image.ndim == 2 else ".nii.gz"
            name = f"{item['subject_id']}{scan}{f'_{number}' if images[1:] else ''}{suffix}"
            with replacing(output / name) as path:
                write_image(image, path, pixel_mm)
            rows.append({"image": name, "subject_id": item["subject_id"], **columns, **shares})
    write_table(table, rows)
    return table


def subject_rows(
    tables: Mapping[str, str | Path], needed: Sequence[str], cell: Cell, seed: int, training: bool
) -> list[dict[str, str]]:
    """Return the images that a cell trains on, or those of all other subjects, as rows with absolute paths.

    Cells of one seed draw from the same permutation, so that the fewer subjects are among the more.

    Args:
        tables: of :func:`export_images`, by what a cell calls its `slices`.
        needed: columns in which a training subject has a value.
        cell: condition.
        seed: of the permutation.
        training: the subjects that the cell trains on, instead of the others.

    Raises:
        ValueError: if no table has the name of the cell's slices.
    """
    table = Path(choice("slices", tables, cell.slices)).absolute()
    rows = read_table(table)
    usable = {r["subject_id"] for r in rows if all(r.get(c) not in MISSING for c in needed)}
    order = np.random.RandomState(seed).permutation(sorted({row["subject_id"] for row in rows})).tolist()
    chosen = set([name for name in order if name in usable][: cell.subjects])
    return [r | {"image": str(table.parent / r["image"])} for r in rows if (r["subject_id"] in chosen) is training]
