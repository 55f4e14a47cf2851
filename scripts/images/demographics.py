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

"""Age and sex of people, from the tables that come with data sets."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from .items import Item
from .rows import DATALIST_SUFFIXES, Record, read_rows_without_images

__all__ = ["with_people"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Form:
    """How a data set's table calls a person, the age in years and the sex, and what its numbers of a sex mean."""

    person: str
    age: str
    sex: str
    sexes: Mapping[str, str]


LETTERS = {"m": "M", "male": "M", "f": "F", "female": "F"}
FORMS = (
    _Form("IXI_ID", "AGE", "SEX_ID (1=m, 2=f)", {"1": "M", "2": "F"}),  # IXI.xls, saved as CSV
    _Form("SUBID", "AGE_AT_SCAN_1", "SEX", {"1": "F", "2": "M"}),  # CoRR's phenotypic data
    _Form("participant_id", "age", "sex", {}),  # participants.tsv of BIDS
    _Form("subject_id", "age", "sex", {}),
)
UNKNOWN = ("", "n/a", "na", "nan", "#")  # CoRR writes #; IXI leaves cells empty, or writes 0 for a sex


def with_people(items: Sequence[Item], people_file: str | os.PathLike | None) -> list[Item]:
    """Return the items with `age`, in years, and `sex`, M or F, of a table of their subjects, where it knows them.

    The form of the table is told by its columns: IXI.xls saved as CSV (``IXI_ID``, ``AGE``, ``SEX_ID (1=m, 2=f)``),
    CoRR's phenotypic data (``SUBID``, ``AGE_AT_SCAN_1``, ``SEX``, 1 for F and 2 for M), or `participant_id` or
    `subject_id` with `age` and `sex`. A table's number is the last number of a subject's name: 2 is IXI002, 25493 is
    0025493 and sub-0025493. Of several rows of a person the first with a value counts, for the age; a sex on which
    rows disagree is left out. What an item has already stays.

    Args:
        items: with `subject_id`.
        people_file: .csv or .tsv; None leaves the items as they are.

    Raises:
        FileNotFoundError: if there is no such table.
        ValueError: for a table of another form, one that knows nobody of the items, or numbers that two subjects share.
    """
    if people_file is None:
        return list(items)
    path = Path(people_file).expanduser()
    if path.suffix.lower() not in DATALIST_SUFFIXES[1:] or not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected a .csv or .tsv table of people, found "
            f"{'another file; save it as .csv' if path.exists() else 'nothing; check the path'}"
        )
    rows = read_rows_without_images(path)
    form = _form(rows, path)
    people = _people(rows, form)
    numbered = all(name.isdecimal() for name in people)
    names = {subject: _name_in(people, subject, numbered) for subject in {item["subject_id"] for item in items}}
    known = [name for name in names.values() if name is not None]
    if len(set(known)) < len(known):
        first, second, *_ = sorted(s for s, name in names.items() if name is not None and known.count(name) > 1)
        raise ValueError(
            f"{path}: expected one number a subject, found {names[first]} for {first} and {second}; give a datalist "
            "with the columns age and sex"
        )
    if not known:
        raise ValueError(
            f"{path}: expected rows of the images' subjects, as {min(names)}, found none of them under "
            f"{form.person!r}, as {next(iter(people), 'no name')}; give the table of this data set"
        )
    if missing := len(names) - len(known):
        logger.warning("%s: knows nothing of %d of %d subjects", path, missing, len(names))
    return [cast(Item, people.get(names[item["subject_id"]] or "", {}) | _known(item)) for item in items]


def _form(rows: Sequence[Record], path: Path) -> _Form:
    columns = {column for row in rows for column in row}
    for form in FORMS:
        if {form.person, form.age, form.sex} <= columns:
            return form
    forms = "; ".join(f"{form.person}, {form.age}, {form.sex}" for form in FORMS)
    raise ValueError(f"{path}: expected the columns {forms}; found {', '.join(sorted(columns)) or 'none'}; rename them")


def _people(rows: Sequence[Record], form: _Form) -> dict[str, dict[str, object]]:
    """Return age and sex, as far as they are known, of each person of a table."""
    people: dict[str, dict[str, object]] = {}
    sexes: dict[str, set[str]] = {}
    for row in rows:
        if (name := str(row.get(form.person, ""))).casefold() in UNKNOWN:
            continue
        person = people.setdefault(re.sub(r"[.]0$", "", name), {})  # 2.0, as spreadsheets write a number
        if (age := _number(row.get(form.age))) is not None:
            person.setdefault("age", age)
        text = str(row.get(form.sex, "")).casefold()
        if sex := LETTERS.get(text) or form.sexes.get(re.sub(r"[.]0$", "", text)):
            sexes.setdefault(re.sub(r"[.]0$", "", name), set()).add(sex)
    for name, found in sexes.items():
        if len(found) == 1:
            people[name]["sex"] = next(iter(found))
    return people


def _known(item: Item) -> dict[str, object]:
    """Return an item without an age or sex that is not known."""
    return {k: v for k, v in item.items() if k not in ("age", "sex") or str(v).casefold() not in UNKNOWN}


def _number(value: object) -> float | None:
    try:
        return None if str(value).casefold() in UNKNOWN else float(str(value))
    except ValueError:
        return None


def _name_in(people: Mapping[str, object], subject: str, numbered: bool) -> str | None:
    """Return how a table calls a subject; None where it does not know him."""
    for name in (subject, subject.removeprefix("sub-"), f"sub-{subject}"):
        if name in people:
            return name
    if numbered and (digits := re.search(r"\d+$", subject)):
        return next((name for name in people if int(name) == int(digits[0])), None)
    return None
