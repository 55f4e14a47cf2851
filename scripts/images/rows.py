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

"""Read the rows of a datalist, and JSON, or say what is wrong with the file."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["DATALIST_SUFFIXES", "Record", "read_json", "read_rows", "read_rows_without_images", "sections_left_out"]

DATALIST_SUFFIXES = (".json", ".csv", ".tsv")
MOST_DIGITS = 300  # of a number in JSON

Record = dict[str, object]  # a row of a datalist

# columns that mean something, by their spelling without case, spaces and signs
MEANINGS = {"image": "image", "mask": "mask", "level": "level", "participantid": "participant_id"}
MEANINGS |= dict.fromkeys(("subjectid", "subject", "patientid", "patient"), "subject_id")


def read_rows_without_images(source: Path) -> list[Record]:
    """Return the rows of a table without their empty values; it need not name images."""
    return [_filled(row) for row in _read_table(source)]


def read_rows(source: Path, section: str | None = None) -> list[Record]:
    """Return the rows of a datalist without their empty values.

    Args:
        source: .json, .csv or .tsv.
        section: list of a .json file that is taken, as ``validation``; None: ``training``, or the only one.

    Raises:
        ValueError: naming the file, if it is no datalist, or a column or the section is missing, misspelt or there
            twice.
    """
    json_file = source.suffix.lower() == ".json"
    if section is not None and not json_file:
        raise ValueError(f"{source}: expected a .json datalist with a section {section!r}, found a table; leave it out")
    records = _read_json(source, section) if json_file else _read_table(source)
    columns = list(dict.fromkeys(column for row in records for column in row))
    for column in columns:
        meant = MEANINGS.get("".join(filter(str.isalnum, column.casefold())), column)
        if meant not in columns:
            raise ValueError(f"{source}: expected a column {meant!r}, found {column!r}; rename it")
    for number, row in enumerate(records, start=1):
        if isinstance(several := row.get("image"), (list, dict)):
            raise ValueError(
                f"{source}: expected a path under 'image', found {len(several)} in row {number}; give one image a row"
            )
        if not row.get("image") or not isinstance(row["image"], str):
            raise ValueError(
                f"{source}: expected a column 'image' with a path, found none in row {number} "
                f"(columns {', '.join(map(str, row))}); name or fill it"
            )
    return [_filled(row) for row in records]


def sections_left_out(source: Path, section: str | None = None) -> str:
    """Return in words which lists of a .json datalist are taken and which are not; nothing where it holds one."""
    content = read_json(source, "a datalist in UTF-8") if source.suffix.lower() == ".json" else None
    lists = (
        {key: value for key, value in content.items() if isinstance(value, list)} if isinstance(content, dict) else {}
    )
    taken = section or "training"
    rows = {key: len(value) for key, value in lists.items() if value and isinstance(value[0], (dict, str))}
    others = ", ".join(f"{count} of {key}" for key, count in rows.items() if key != taken)
    return f"section {taken} taken, left out: {others}" if others and taken in rows else ""


def _filled(row: Record) -> Record:
    return {key: value for key, value in row.items() if value not in ("", None)}


def read_json(path: str | os.PathLike, expected: str = "JSON") -> object:
    """Return what a JSON file holds.

    Raises:
        ValueError: naming the file and what was `expected`, if it cannot be parsed, or an object has a key twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        return json.loads(text, object_pairs_hook=_object, parse_int=_whole)
    except RecursionError as error:
        raise ValueError(f"{path}: expected {expected}, found lists too deep in each other; repair the file") from error
    except ValueError as error:  # of the decoder, the codec and the two below
        raise ValueError(f"{path}: expected {expected}, found {error}; repair the file") from error


def _object(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError(f"a key twice in one object ({', '.join(key for key, _ in pairs)})")
    return content


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _read_json(path: Path, section: str | None) -> list[Record]:
    content = read_json(path, "a datalist in UTF-8")
    if isinstance(content, dict):
        lists = {key: value for key, value in content.items() if isinstance(value, list)}
        wanted = section or ("training" if "training" in lists or len(content) != 1 else next(iter(lists), None))
        if section is not None and section not in lists:
            raise ValueError(
                f"{path}: expected a list {section!r}, found {', '.join(lists) or 'none'}; correct section"
            )
        if wanted not in lists and len(lists) > 1:
            raise ValueError(
                f"{path}: expected a list 'training', found {', '.join(lists)}; name one of them by section, "
                "in an audit train_section or generated_section"
            )
        content = lists.get(str(wanted))
    rows: list[Record] | None = (
        [{"image": row} if isinstance(row, str) else row for row in content] if isinstance(content, list) else None
    )
    if rows is None or not all(isinstance(row, dict) for row in rows):
        raise ValueError(
            f"{path}: expected a list of objects with a key 'image', found something else; correct it, or "
            "give the folder of the images"
        )
    return rows


def _read_table(path: Path) -> list[Record]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
            first = file.readline()
            file.seek(0)
            semicolons = ";" in first and "," not in first  # spreadsheets write them where a comma is the decimal sign
            separator = "\t" if path.suffix.lower() == ".tsv" else ";" if semicolons else ","
            table = csv.reader(file, delimiter=separator, strict=True)
            cells = [[cell.strip() for cell in row] for row in table if row]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected a datalist in UTF-8, found another encoding; save it as UTF-8") from error
    except csv.Error as error:
        raise ValueError(f"{path}: expected a datalist in UTF-8, found {error}; repair the file") from error
    header = cells[0] if cells else []
    if len(set(header)) < len(header):
        raise ValueError(f"{path}: expected every column once, found {', '.join(header)}; rename one")
    for number, row in enumerate(cells[1:], start=1):
        if len(row) != len(header):
            raise ValueError(
                f"{path}: expected {len(header)} cells in row {number}, as the header has, found {len(row)}; "
                "quote cells that hold the separator"
            )
    return [dict(zip(header, row)) for row in cells[1:]]
