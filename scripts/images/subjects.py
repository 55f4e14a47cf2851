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

"""Whose images they are: subjects are named, numbered and split."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .companions import names_without_contrast
from .items import Item
from .people import SUBJECT_PATTERNS, depth_of_people, known_subject, search_subject, without_visit
from .readers.registry import split_part
from .rows import read_json

__all__ = [
    "SubjectRule",
    "check_spelling",
    "name_subjects",
    "numbered_subjects",
    "split_subjects",
    "starts_of_runs",
    "with_and_without_mask",
]

logger = logging.getLogger(__name__)


BY_FILE, BY_NAME = "each file a subject", "names of known data sets, else each file a subject"
BY_SCAN = "the file's name without its contrast"
PATIENT_ID = "PatientID of the DICOM header"

MANY_FOLDERS = 6  # with several files each: as many people, perhaps; fewer are classes

MISSING = ("", "n/a", "na", "nan", "none", "null")  # what tables hold where nothing is known, in lower case
LONGEST_ID = 255


def split_subjects(
    items: Sequence[Item], split_file: str | os.PathLike | None, validation_share: float, seed: int
) -> dict[str, list[Item]]:
    """Return ``{part: items}`` with no subject in two parts.

    Args:
        items: dicts with `subject_id`.
        split_file: .json file ``{part: [subject_id, ...]}``; None draws `train` and `validation` at random by `seed`.
        validation_share: share of the subjects for validation, at least one, where there is no file.
        seed: of the random split.

    Raises:
        ValueError: if a listed subject has no image or stands in two parts, or fewer than two subjects are to be split.
    """
    subjects = sorted({item["subject_id"] for item in items})
    split = _listed_split(subjects, split_file) if split_file else _drawn_split(subjects, validation_share, seed)
    return {part: [item for item in items if item["subject_id"] in set(names)] for part, names in split.items()}


def _listed_split(subjects: Sequence[str], split_file: str | os.PathLike) -> dict[str, list[str]]:
    split = read_json(split_file)
    lists = list(split.values()) if isinstance(split, dict) else [None]
    if not isinstance(split, dict) or not all(
        isinstance(p, list) and all(isinstance(s, str) for s in p) for p in lists
    ):
        raise ValueError(f"{split_file}: expected an object of lists of subjects, each a text, found another content")
    listed = [subject for part in split.values() for subject in part]
    if len(set(listed)) < len(listed):
        double = Counter(listed).most_common(1)[0][0]
        raise ValueError(f"{split_file}: expected every subject once, found {double} twice; repair the split")
    if missing := set(listed) - set(subjects):
        raise ValueError(f"{split_file}: found no image of {len(missing)} subjects, such as {min(missing)}")
    return split


def _drawn_split(subjects: Sequence[str], validation_share: float, seed: int) -> dict[str, list[str]]:
    if len(subjects) < 2:
        raise ValueError(f"a split by subject needs at least 2 subjects, got {len(subjects)}")
    if not 0 <= validation_share < 1:
        raise ValueError(f"validation_share must be in [0, 1), got {validation_share}")
    order = np.random.default_rng(seed).permutation(np.array(subjects)).tolist()
    count = min(len(order) - 1, max(1, round(validation_share * len(order))))
    return {"validation": order[:count], "train": order[count:]}


def with_and_without_mask(items: Sequence[Item]) -> list[Item]:
    """Return every item whole and, where it has a mask, once more masked: whole-head and skull-stripped.

    `series` and `variant` keep the two apart, so that neighbouring slices come from one and the same.
    """
    whole: list[Item] = []
    for item in items:
        bare = item.copy()
        bare.pop("mask", None)
        whole.append({**bare, "series": item["id"], "variant": "whole"})
    return whole + [{**i, "series": i["id"] + "#masked", "variant": "masked"} for i in items if "mask" in i]


@dataclass(frozen=True)
class SubjectRule:
    """By which rule the subjects of a data set are told.

    Attributes:
        words: the rule.
        subjects: how many there are.
        examples: up to two of an image and its subject.
    """

    words: str
    subjects: int
    examples: tuple[tuple[str, str], ...]


def name_subjects(
    items: Sequence[Item],
    pattern: str | None,
    source: str | os.PathLike,
    warn: bool,
    patients: Sequence[str] | None = None,
) -> SubjectRule:
    """Set every item's `subject_id`, and return by which rule.

    The first that tells all items decides: the datalist's column; the pattern, if one is given; names of known data
    sets; the PatientID of DICOM files; a folder whose name is a person's; the file's name, less its contrast where
    scans have several.

    Args:
        items: all of a data set.
        pattern: regular expression with a group `subject`; None for none.
        source: of the items, for messages.
        warn: False where it does not matter whose the images are.
        patients: PatientID of each item, empty where there is none; None for no DICOM files.

    Raises:
        ValueError: if the pattern has no group `subject` or misses an item, only some items have a column's value, or
            files of one name in several folders might be one person or several.
    """
    words, names, guessed = _named(items, pattern, source, warn, patients)
    for item, name in zip(items, names):
        item["subject_id"] = name
    subjects = len(set(names))
    if warn:
        _check_folders([item for item, guess in zip(items, guessed) if guess], source)
        check_spelling(names, source)
    if warn and any(guessed) and subjects == len(items) > 1:
        logger.warning(
            "%s: no subject pattern matched, so each of the %d files counts as a subject of its own; if a person has "
            "several files, pass subject_pattern or a datalist with a column subject_id",
            source,
            len(items),
        )
    first = {name: item["id"] for item, name in reversed(list(zip(items, names)))}
    return SubjectRule(words, subjects, tuple((first[name], name) for name in list(dict.fromkeys(names))[:2]))


def _named(
    items: Sequence[Item], pattern: str | None, source: str | os.PathLike, warn: bool, patients: Sequence[str] | None
) -> tuple[str, list[str], Sequence[bool]]:
    """Return in words the rule that tells all items' subjects, the subjects, and which of them are files' names."""
    certain = [False] * len(items)
    listed: list[object] = [item.get("subject_id", item.get("participant_id")) for item in items]
    for item, known in zip(items, listed):
        if known is not None:
            _check_id(known, item["id"], source)
    if any(known is not None for known in listed):
        if None in listed:
            empty = items[listed.index(None)]["id"]
            raise ValueError(
                f"{source}: expected a subject for every image or for none, found none for {empty}; fill it in"
            )
        return "the list's column", [str(known) for known in listed], certain
    if pattern is not None:
        found = [search_subject(_checked(pattern), item["id"]) for item in items]
        if None in found:
            missed = items[found.index(None)]["id"]
            raise ValueError(
                f"{missed}: subject_pattern {pattern!r} does not match; change the pattern or exclude the file"
            )
        return "subject_pattern", [str(name) for name in found], certain
    for words, known_pattern in SUBJECT_PATTERNS.items():
        known_names = list(takewhile(bool, (known_subject(item["id"], known_pattern) for item in items)))
        if len(known_names) == len(items):
            return words, [str(name) for name in known_names], certain
    if patients is not None and all(patients) and (len(set(patients)) > 1 or len(items) == 1):
        return PATIENT_ID, list(patients), certain
    try:
        depth = depth_of_people([item["id"] for item in items], source)
    except ValueError:
        if warn:
            raise
        depth = None  # it does not matter whose they are
    if depth is not None:
        folders = [Path(item["id"]).parts[depth] for item in items]
        people = without_visit(folders)
        visits = len(set(people)) < len(set(folders))
        return ("the folder, less its visit", people, certain) if visits else ("the folder", folders, certain)
    found = [known_subject(item["id"]) for item in items]
    if warn and patients is not None and any(patients) and not all(patients):
        without = items[list(patients).index("")]["id"]
        raise ValueError(
            f"{source}: expected a PatientID in every header, or in none, found none for {patients.count('')} of "
            f"{len(items)} images, as {without}; exclude them, or pass subject_pattern or a datalist with a column "
            "subject_id"
        )
    scans = names_without_contrast([item["id"] for item in items])
    names = [name or scans.get(item["id"]) or _stem_of(item) for item, name in zip(items, found)]
    words = BY_NAME if any(found) else BY_SCAN if scans else BY_FILE
    return words, names, [name is None for name in found]


def _check_folders(items: Sequence[Item], source: str | os.PathLike) -> None:
    """Raise a ValueError where each file would be a subject and yet folders may hold one person's each."""
    stems: dict[str, str] = {}
    folders: dict[str, list[str]] = {}
    for item in items:
        first = stems.setdefault(item["subject_id"], item["id"])
        if Path(first).parent != Path(item["id"]).parent:
            raise ValueError(
                f"{source}: expected names that say whose images they are, found {first} and {item['id']}, which "
                "may be one person or two; pass subject_pattern or a datalist with a column subject_id"
            )
        folders.setdefault(str(Path(item["id"]).parent), []).append(item["id"])
    several = [files for files in folders.values() if len(files) > 1]
    if len(folders) >= MANY_FOLDERS and 2 * len(several) > len(folders):
        first, second = several[0][:2]
        raise ValueError(
            f"{source}: expected names that say whose images they are, found {first} and {second} in one of "
            f"{len(folders)} folders, each of which may be a person's; pass subject_pattern, such as "
            "'^(?P<subject>[^/]+)' for the first folder, or '(?P<subject>[^/]+)[.]' where each file is a person's"
        )


def check_spelling(subjects: Iterable[str], source: str | os.PathLike) -> None:
    """Raise a ValueError if two names look alike: one person would be two, or stand on both sides of a split."""
    spelt: dict[str, str] = {}
    for name in dict.fromkeys(subjects):
        other = spelt.setdefault(_seen(name), name)
        if other != name:
            raise ValueError(
                f"{source}: expected one spelling of a subject, found {ascii(other)} and {ascii(name)}; correct one"
            )


def _seen(name: str) -> str:
    """Return what one sees of a name: no forms of a letter, no characters without width, single spaces."""
    shown = (letter for letter in unicodedata.normalize("NFKC", name) if unicodedata.category(letter) != "Cf")
    return " ".join("".join(shown).split())


def _check_id(subject: object, image_id: str, source: str | os.PathLike) -> None:
    """Raise a ValueError if a datalist's value is nobody's id."""
    if isinstance(subject, bool) or not isinstance(subject, (str, int)):
        raise ValueError(
            f"{source}: expected a subject id, a text or a whole number, found {subject!r} for {image_id}; correct it"
        )
    text = str(subject)
    if _seen(text).casefold() in MISSING:
        raise ValueError(
            f"{source}: expected a subject for every image or for none, found {text!r} for {image_id}; fill it in"
        )
    if len(text) > LONGEST_ID or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        raise ValueError(
            f"{source}: expected a subject id of at most {LONGEST_ID} characters that can be printed, found "
            f"{ascii(text)[:80]} for {image_id}; correct it"
        )


def _checked(pattern: object) -> str:
    try:
        if isinstance(pattern, str) and "subject" in re.compile(pattern).groupindex:
            return pattern
    except (re.error, OverflowError, RecursionError) as error:
        why = "too many groups in each other" if isinstance(error, RecursionError) else error
        raise ValueError(f"subject_pattern: expected a regular expression, found {pattern!r} ({why})") from error
    raise ValueError(f"subject_pattern must have a group named subject, as in '(?P<subject>P[0-9]+)', got {pattern!r}")


def _stem_of(item: Item) -> str:
    """Return the name of a file without its suffix; of a part, also which one it is."""
    part = split_part(item.get("image", ""))[1]
    if part is None:
        return _stem(item["id"])
    return f"{_stem(item['id'].removesuffix(f'#{part}'))}#{part if part.isdecimal() else _stem(part)}"


def _stem(file: str) -> str:
    name = Path(file).name
    return name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else Path(name).stem


def starts_of_runs(numbers: NDArray) -> NDArray[np.int64]:
    """Return where the runs of equal values begin in (N,), as numpy's ``reduceat`` takes them.

    >>> starts_of_runs(np.array([3, 3, 5, 7, 7])).tolist()
    [0, 2, 3]
    """
    return np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]]) if len(numbers) else np.zeros(0, np.int64)


def numbered_subjects(ids: Sequence[str] | None, data: torch.Tensor, name: str) -> tuple[NDArray, NDArray[np.int64]]:
    """Return the distinct ids and each row's number among them."""
    if len(data) == 0:
        raise ValueError(f"{name} must hold at least one image, got none")
    if ids is None:
        return np.arange(len(data)).astype(str), np.arange(len(data))
    if len(ids) != len(data):
        raise ValueError(f"expected one subject id for each of the {len(data)} images of {name}, got {len(ids)}")
    return np.unique(np.asarray(ids, str), return_inverse=True)
