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

"""The rows of matches.csv, candidates.csv and slices.csv, one at a time, and the groups of generated images."""

from __future__ import annotations

import csv
import itertools
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from typing import IO, overload

import numpy as np

from ..auditing.result import AuditResult
from ..bundle.text import spreadsheet_cell
from ..decision.rates import group_p_values
from ..images.items import Item
from ..images.subjects import starts_of_runs

__all__ = ["Group", "MatchRow", "MatchRows", "SliceRow", "groups", "slice_rows", "write_csv", "write_parquet"]

ROW_GROUP = 65_536  # rows of a Parquet table that are written at a time


@dataclass(frozen=True)
class MatchRow:
    """A row of matches.csv, one a generated image or volume, with its columns in order.

    `memorized` is q <= fdr, and `verdict` copy, likeness or none. `part` is the square that decided where copies of a
    part are looked for, else empty: its first row, first column and side, in pixels of the embedder's field."""

    generated_id: str
    generated_path: str
    train_id: str
    train_path: str
    train_subject: str
    similarity: float
    aligned_ssim: float
    mirrored: int
    statistic: float | None
    p_value: float
    q_value: float
    label: str
    memorized: int
    verdict: str
    part: str


@dataclass(frozen=True)
class SliceRow:
    """A row of slices.csv, one a slice of a generated volume."""

    generated_id: str
    slice: int
    train_id: str
    train_slice: int
    train_subject: str
    similarity: float
    aligned_ssim: float
    mirrored: int


@dataclass(frozen=True)
class Group:
    """A group of generated images, as those of one prompt: is at least one of them a copy? (`leaks`: q <= fdr)."""

    images: int
    memorized: int
    p_value: float
    q_value: float
    leaks: bool


class MatchRows(Sequence[MatchRow]):
    """A row for each generated image or volume, in their order, made when it is asked for."""

    def __init__(self, result: AuditResult) -> None:
        self.result = result

    def __len__(self) -> int:
        return len(self.result.units)

    @overload
    def __getitem__(self, unit: int, /) -> MatchRow: ...

    @overload
    def __getitem__(self, unit: slice, /) -> list[MatchRow]: ...

    def __getitem__(self, unit: int | slice, /) -> MatchRow | list[MatchRow]:
        units = range(len(self))[unit]
        return _match_row(self.result, units) if isinstance(units, int) else [_match_row(self.result, u) for u in units]


def _match_row(result: AuditResult, unit: int) -> MatchRow:
    match = result.match(unit)
    item, train = result.generated.items[match.file], result.train.items[match.train_file]
    found, statistic = match.subject >= 0, float(result.statistic[unit])
    return MatchRow(
        generated_id=item["id"] if len(match.rows) > 1 else result.generated.row_id(int(match.rows[0])),
        generated_path=item["image"],
        train_id=train["id"] if found else "",
        train_path=train["image"] if found else "",
        train_subject=result.subject_names[match.subject] if found else "",
        similarity=match.similarity,
        aligned_ssim=match.aligned_ssim,
        mirrored=int(match.mirrored),
        statistic=statistic if math.isfinite(statistic) else None,
        p_value=float(result.p_value[unit]),
        q_value=float(result.q_value[unit]),
        label=result.label[unit].name.lower(),
        memorized=int(result.memorized[unit]),
        verdict=result.tier[unit].value,
        part=" ".join(map(str, match.square or ())),
    )


def slice_rows(result: AuditResult) -> Iterator[SliceRow]:
    """Yield a row for each slice of a generated volume that has a match."""
    found, train, generated = result.found, result.train, result.generated
    for row in np.flatnonzero(generated.slice >= 0):
        best = found.best[result.units.unit[row]]
        match = int(found.image[row, best])
        if match >= 0:
            yield SliceRow(
                generated_id=generated.items[generated.file[row]]["id"],
                slice=int(generated.slice[row]),
                train_id=train.items[train.file[match]]["id"],
                train_slice=int(train.slice[match]),
                train_subject=result.subject_names[result.train_subject[match]],
                similarity=float(found.similarity[row, best]),
                aligned_ssim=float(found.slice_ssim[row, best]),
                mirrored=int(found.mirrored[row, best]),
            )


def groups(result: AuditResult, column: str) -> dict[str, Group]:
    """Return the groups that a column of the generated datalist names, in order of their names.

    Raises:
        ValueError: if a generated image lacks the column.
    """
    files = result.generated.file[starts_of_runs(result.units.unit)]
    names = group_names([result.generated.items[file] for file in files.tolist()], column)
    found, p, q = group_p_values(result.p_value, names)
    called = Counter(name for name, memorized in zip(names, result.memorized) if memorized)
    images = Counter(names)
    return {
        name: Group(images[name], called[name], float(p[g]), float(q[g]), bool(q[g] <= result.fdr))
        for g, name in enumerate(found)
    }


def group_names(items: Sequence[Item], column: str) -> list[str]:
    """Return the group of each file, which a datalist's column names.

    Raises:
        ValueError: if a file lacks the column.
    """
    if without := next((item for item in items if item.get(column) is None), None):
        raise ValueError(f"{without['id']}: expected a datalist column {column!r}, found none; check group_column")
    return [str(item.get(column)) for item in items]


def write_csv(file: IO[str], kind: type[MatchRow] | type[SliceRow], rows: Iterable[MatchRow | SliceRow]) -> None:
    """Write rows of one kind as a .csv, safe for a spreadsheet; its header stands there without rows too."""
    names = [field.name for field in fields(kind)]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        cells = (getattr(row, name) for name in names)
        writer.writerow([spreadsheet_cell(cell) if isinstance(cell, str) else cell for cell in cells])


def write_parquet(path: str | os.PathLike, rows: Iterable[MatchRow]) -> None:
    """Write matches as a Parquet table of the same columns, some rows at a time.

    Raises:
        ImportError: if pyarrow is not installed.
    """
    pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    kinds = {"str": pyarrow.string(), "int": pyarrow.int8()}
    schema = pyarrow.schema([(field.name, kinds.get(str(field.type), pyarrow.float64())) for field in fields(MatchRow)])
    rows = iter(rows)
    with parquet.ParquetWriter(path, schema) as writer:
        while some := list(itertools.islice(rows, ROW_GROUP)):
            writer.write_table(pyarrow.Table.from_pylist([vars(row) for row in some], schema))
