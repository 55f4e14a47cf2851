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

"""What people, and metrics, called pairs of images: read from tables and checked."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..decision.labels import Label
from ..images.rows import Record, read_rows_without_images

__all__ = ["UNRATED", "Ratings", "read_ratings"]

UNRATED = -1
ANSWERS = {label.name.lower(): int(label) for label in Label}


@dataclass(frozen=True)
class Ratings:
    """Answers as numbers of :class:`~scripts.decision.labels.Label`, -1 where there is none.

    Attributes:
        pair_ids: of P pairs, each rated by somebody.
        answers: of each rater, by name, (P,).
        methods: of each method, by name, (P,).
        seconds: the median time for an answer of each rater, None where no table has it.
        files: that were read.
    """

    pair_ids: list[str]
    answers: dict[str, NDArray[np.int64]]
    methods: dict[str, NDArray[np.int64]]
    seconds: dict[str, float | None]
    files: list[Path]


def read_ratings(
    ratings_dir: str | os.PathLike, pairs_file: str | os.PathLike, methods_file: str | os.PathLike | None = None
) -> Ratings:
    """Return what raters and methods called the pairs.

    Args:
        ratings_dir: folder with the tables that raters saved, of columns rater, pair_id, answer [, seconds].
        pairs_file: table with a column pair_id: the pairs that there are.
        methods_file: table with a column pair_id and one column a method; None: no methods.

    Raises:
        ValueError: naming file and row, if a column is missing, a pair is not among those of `pairs_file`, a rater or a
            method has it twice, an answer is none of the three, or there are fewer than two raters.
        OSError: if a table cannot be read.
    """
    folder, pairs = Path(ratings_dir), Path(pairs_file)
    if not pairs.exists():
        raise ValueError(f"pairs_file: expected the pairs.csv that rate.yaml wrote, found no {pairs}; name it")
    known = {
        _cell(row, "pair_id", pairs, number) for number, row in enumerate(read_rows_without_images(pairs), start=1)
    }
    files = sorted(folder.glob("*.csv"))
    found: dict[str, dict[str, int]] = {}
    times: dict[str, list[float]] = {}
    for file in files:
        for number, row in enumerate(read_rows_without_images(file), start=1):
            rater, pair = _cell(row, "rater", file, number), _cell(row, "pair_id", file, number)
            given = found.setdefault(rater, {})
            _check_pair(pair, known, given, f"by {rater!r} ", file, number)
            given[pair] = _answer(_cell(row, "answer", file, number), file, number)
            times.setdefault(rater, []).extend(_seconds(row, file, number))
    if len(found) < 2:
        who = f" ({next(iter(found))!r})" if found else ""
        raise ValueError(
            f"{folder}: expected .csv files of at least two raters, found {len(found)}{who} in {len(files)} files; "
            "add those that other raters saved"
        )
    pair_ids = sorted(set().union(*found.values()))
    methods, read = {}, [pairs, *files]
    if methods_file is not None:
        methods = _methods(Path(methods_file), known)
        read.append(Path(methods_file))
    return Ratings(
        pair_ids,
        _columns(found, pair_ids),
        _columns(methods, pair_ids),
        {rater: float(np.median(values)) if values else None for rater, values in times.items()},
        read,
    )


def _columns(found: Mapping[str, Mapping[str, int]], pair_ids: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    return {name: np.array([own.get(pair, UNRATED) for pair in pair_ids]) for name, own in sorted(found.items())}


def _methods(path: Path, known: Collection[str]) -> dict[str, dict[str, int]]:
    rows = read_rows_without_images(path)
    names = dict.fromkeys(column for row in rows for column in row if column != "pair_id")
    found: dict[str, dict[str, int]] = {name: {} for name in names}
    seen: set[str] = set()
    for number, row in enumerate(rows, start=1):
        pair = _cell(row, "pair_id", path, number)
        _check_pair(pair, known, seen, "", path, number)
        seen.add(pair)
        for name in names:
            if name in row:
                found[name][pair] = _answer(str(row[name]), path, number)
    return found


def _check_pair(pair: str, known: Collection[str], seen: Collection[str], by: str, file: Path, number: int) -> None:
    if pair not in known:
        raise ValueError(
            f"{file}: expected a pair of pairs_file, found pair_id {pair!r} in row {number}; take that of the "
            "page that was rated"
        )
    if pair in seen:
        raise ValueError(
            f"{file}: expected each pair once, found {pair!r} {by}again in row {number}; remove one, or rename "
            "the rater"
        )


def _cell(row: Record, column: str, file: Path, number: int) -> str:
    if column not in row:
        raise ValueError(
            f"{file}: expected a value in the column {column!r} of row {number}, found none (columns "
            f"{', '.join(row)}); take the file as it was saved"
        )
    return str(row[column])


def _answer(word: str, file: Path, number: int) -> int:
    if word not in ANSWERS:
        raise ValueError(f"{file}: expected {', '.join(ANSWERS)}, found {word!r} in row {number}; correct it")
    return ANSWERS[word]


def _seconds(row: Record, file: Path, number: int) -> list[float]:
    if "seconds" not in row:
        return []
    try:
        value = float(str(row["seconds"]))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{file}: expected seconds, found {row['seconds']!r} in row {number}; correct or empty it")
    return [value]
