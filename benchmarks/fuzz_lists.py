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

"""Datalists, subject patterns and split files for the fuzzer."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

from fuzz_case import Case, Rng
from scripts.images.datalists import find_images
from scripts.images.items import Item
from scripts.images.subjects import split_subjects

Row = dict[str, object]
Verdict = bool | None  # of a change: whether the list then says something, None where that is open

IDS = (
    "sub-1",
    "7",
    "Zo\u00eb",
    "\u60a3\u8005 3",
    "P 1",
    "\U0001f9e0",
    "-5",
    "=1+1",
    "007",
    "x" * 200,
    "NAN3",
    "$x",
    12,
    0,
)
# what is nobody's id, or might be another's; a table has the texts alone
NO_ID = ("n/a", "NaN", "None", " null ", "NA", "\u200b", "a\x07b", "x" * 300, "  ", "")
NO_JSON_ID: tuple[object, ...] = (
    [1],
    {"a": 1},
    True,
    False,
    1.5,
    float("nan"),
    float("inf"),
    [],
    {},
    "\ud800",
    "\0",
    None,
)
TWINS = ("P1 ", " P1", "P\uff11", "P\u200b1", "P\u00ad1", "P1\u2060", "P1\u00a0")
COLUMNS = ("Subject_ID", "subject id", "SubjectID", "subject-id", "subject", "Participant_ID")
NO_LEVEL = ("x", "1e999", "-inf", "12 mm")
PIECES = (
    r"(?P<subject>P\d+)", r"(?P<subject>P\d)", r"(?P<subject>", ")", r"\d+", "P", ".*", "[", "]", "(?i)",
    "{99999999999}",
    "*", "|", "^", "$", "_", r"(?P<subject>)", r"(?P<subject>[^/]+)", r"(?P<subject>P)?", r"\2", "(" * 300,
    "(?P<other>P)",
    "\u00e9", "(?<=x+)", "+?",
)  # fmt: skip
SLOW = (r"(?P<subject>(a+)+)$", r"(?P<subject>(a|aa)+)$", r"(?P<subject>(\w+\s?)*)$")
SLOW_NAME = "a" * 60 + "!.png"
WRONG_SPLITS = (
    '{"train": [1]}', '{"train": [["1"]]}', '{"train": [{}]}', '{"train": ["1", "1"]}', '{"train": ["1"], "b": ["1"]}',
    '{"train": ["9"]}', '{"train": ["1"], "train": ["2"]}', '{"train": "1"}', '{"train": null}', '["1"]', "1", "null",
    "", "{",
    "[" * 99_999, "9" * 9_999, '{"train": [null, "x", 5]}', '{"train": [NaN]}', '{"train": ["1"]', "train: [1]",
    "\ufeff",
)  # fmt: skip


class ListCases:
    """Lists with mistakes, patterns and split files, of which it is known whether they say something."""

    def case(self, rng: Rng, folder: Path) -> Case:
        """Write a list, or names for a pattern, to the empty folder."""
        return (self._list, self._list, self._list, self._pattern, self._split)[rng.integers(5)](rng, folder)

    def _list(self, rng: Rng, folder: Path) -> Case:
        suffix = str(rng.choice([".json", ".csv", ".tsv"]))
        table = suffix != ".json"
        rows: list[Row] = []
        for i, number in enumerate(rng.permutation(len(IDS))[: rng.integers(2, 6)]):
            (folder / f"P{i}_scan.png").touch()
            rows.append({"image": f"P{i}_scan.png", "subject_id": IDS[number]})
        mistake = str(rng.choice(list(MISTAKES))) if rng.random() < 0.6 else "no mistake"
        says: Verdict = MISTAKES[mistake](rows, table, rng) if mistake in MISTAKES else True
        expected = {str(row.get("image")): str(row.get("subject_id")).strip() for row in rows}
        text = _table(rows, "\t" if suffix == ".tsv" else ",") if table else json.dumps(rows)
        change = str(rng.choice(list(CHANGES))) if rng.random() < 0.5 else "UTF-8"
        content, readable = CHANGES[change](text, rng)
        path = folder / f"list{suffix}"
        path.write_bytes(content)
        what = f"{suffix}, {mistake}, {change}"
        if readable is None:
            return Case(what, lambda: _subjects(path), lambda _: "")
        if not (says and readable):
            return Case(what, lambda: _subjects(path), lambda found: f"nonsense was read as {found!r}")
        return Case(what, lambda: _subjects(path), lambda found: "" if found == expected else f"{found!r}", sound=True)

    def _pattern(self, rng: Rng, folder: Path) -> Case:
        names = [f"P{i}/P{i}_{k}.png" for i in range(1, 4) for k in range(2)]
        pattern: object = "".join(rng.choice(PIECES, rng.integers(1, 4)))
        chance = rng.random()
        if chance < 0.03:
            names, pattern = [SLOW_NAME], str(rng.choice(SLOW))
        elif chance < 0.1:
            pattern = [5, 1.5, ["P"], b"P", {}][rng.integers(5)]
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).touch()
        expected = None if SLOW_NAME in names else _found(pattern, names)
        if expected is None:
            return Case(f"{pattern!r}", lambda: _subjects(folder, pattern), lambda _: "a pattern that names nobody")
        return Case(
            f"{pattern!r}", lambda: _subjects(folder, pattern), lambda found: "" if found == expected else "others"
        )

    def _split(self, rng: Rng, folder: Path) -> Case:
        items: list[Item] = [{"image": f"{i}.png", "id": f"{i}.png", "subject_id": str(i)} for i in range(1, 7)]
        order = rng.permutation(6) + 1
        parts = {"train": [str(i) for i in order[:3]], "validation": [str(i) for i in order[3 : rng.integers(4, 7)]]}
        sound = rng.random() < 0.3
        text = json.dumps(parts) if sound else str(rng.choice(WRONG_SPLITS))
        path = folder / "list.json"
        path.write_text(text, encoding="utf-8")

        def names() -> dict[str, set[str]]:
            split = split_subjects(items, path, 0.1, seed=0)
            return {part: {item["subject_id"] for item in of} for part, of in split.items()}

        right = {part: set(of) for part, of in parts.items()}
        return Case(
            f"split {text[:60]}", names, lambda found: "" if sound and found == right else f"{found!r}", "list", sound
        )


def _subjects(source: Path, pattern: object = None) -> dict[str, str]:
    """Return whose each image is."""
    items = find_images(source, pattern)  # type: ignore[arg-type]
    if any("correction" in item for item in items):
        raise RuntimeError("a list told the audit what to correct")
    return {item["id"]: item["subject_id"] for item in items}


def _found(pattern: object, names: list[str]) -> dict[str, str] | None:
    """Return what a pattern finds in names; None where it is none or finds nobody in one of them."""
    try:
        matches = {name: re.search(pattern, name) for name in names}  # type: ignore[call-overload]
        found = {name: match["subject"] if match else "" for name, match in matches.items()}
    except (re.error, OverflowError, RecursionError, IndexError, TypeError):
        return None
    return found if all(isinstance(name, str) and name for name in found.values()) else None


def _table(rows: list[Row], separator: str) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    writer = csv.writer(buffer := io.StringIO(), delimiter=separator, lineterminator="\n")
    writer.writerows([columns, *([row.get(column, "") for column in columns] for row in rows)])
    return buffer.getvalue()


def _chosen(rng: Rng, table: bool, texts: tuple[object, ...], others: tuple[object, ...]) -> object:
    """Return one of the texts or, in JSON, of the other values."""
    values = texts if table else texts + others
    return values[rng.integers(len(values))]


def _put(column: str, texts: tuple[object, ...], others: tuple[object, ...], says: Verdict) -> Callable[..., Verdict]:
    """Return a mistake: a value in a column of one row."""

    def mistake(rows: list[Row], table: bool, rng: Rng) -> Verdict:
        rows[rng.integers(len(rows))][column] = _chosen(rng, table, texts, others)
        return says

    return mistake


def _twins(rows: list[Row], table: bool, rng: Rng) -> Verdict:
    twin = str(rng.choice(TWINS))
    rows[0]["subject_id"], rows[1]["subject_id"] = "P1", twin
    return table and twin.strip() == "P1"  # spaces around a cell do not count


def _renamed(rows: list[Row], table: bool, rng: Rng) -> Verdict:
    column = str(rng.choice(COLUMNS))
    rows[:] = [{column if key == "subject_id" else key: value for key, value in row.items()} for row in rows]
    return False


def _again(rows: list[Row], table: bool, rng: Rng) -> Verdict:
    rows.append({**rows[0], "image": str(rng.choice(["", "./", "x/../"])) + str(rows[0]["image"])})
    return False


MISTAKES: dict[str, Callable[[list[Row], bool, Rng], Verdict]] = {  # True: none, it only looks like one
    "no id": _put("subject_id", NO_ID, NO_JSON_ID, False),
    "two spellings": _twins,
    "a column by another name": _renamed,
    "an image twice": _again,
    "no image": _put(
        "image", ("", "gone.png", "a" * 400 + ".png", "a" * 90_000, ".", "/"), (5, None, [], "a\0.png"), False
    ),
    "no level": _put("level", NO_LEVEL, ([1], {}, True, "\ud800"), False),
    "a level": _put("level", ("12.5", "-3", "nan", ""), (12, 4.5, None, float("nan")), True),
    "no mask": _put("mask", ("gone.nii", "a" * 400), ([1], 5), False),
    "an own column": _put("age", ("5", "\u2028", "x" * 999), ([1], {"a": [None]}, True), True),
    "a column of MONAI's": _put("image_meta_dict", ("5",), ({"a": 1},), True),
    "a column of the audit's": _put("correction", ("5",), ({"a": 1},), True),
    "a column without a name": _put("", ("5",), (1,), True),
}


def _flipped(text: str, rng: Rng) -> tuple[bytes, Verdict]:
    content = bytearray(text.encode())
    for _ in range(rng.integers(1, 5)):
        content[rng.integers(len(content))] = rng.integers(256)
    return bytes(content), None


def _if_changed(text: str, new: str) -> tuple[bytes, Verdict]:
    return new.encode(), new == text


CHANGES: dict[str, Callable[[str, Rng], tuple[bytes, Verdict]]] = {
    "UTF-8": lambda text, rng: (text.encode(), True),
    "a byte order mark": lambda text, rng: (text.encode("utf-8-sig"), True),
    "CRLF": lambda text, rng: (text.replace("\n", "\r\n").encode(), True),
    "spaces": lambda text, rng: (text.replace(",", " , ").encode(), True),
    "UTF-16": lambda text, rng: (text.encode("utf-16"), False),
    "Latin-1": lambda text, rng: (text.encode("latin-1", "replace"), None),
    "semicolons": lambda text, rng: _if_changed(text, text.replace(",", ";")),
    "cut off": lambda text, rng: (text.encode()[: rng.integers(len(text))], None),
    "nested": lambda text, rng: (b"[" * 99_999 + text.encode(), False),
    "a long number": lambda text, rng: (text.replace("P0_scan.png", "9" * 200_000).encode(), False),
    "a key twice": lambda text, rng: (
        text.replace('"image":', '"image": "x", "image":').replace("image", "image,image", text[0] != "[").encode(),
        False,
    ),
    "nothing": lambda text, rng: (b"", False),
    "flipped": _flipped,
}
