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

"""Find a data set's images and whose they are: a folder or a datalist in, a list of MONAI item dicts out."""

from __future__ import annotations

import fnmatch
import logging
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from .companions import without_masks
from .items import Item
from .layouts import laid_out
from .readers import (
    DICOM_SUFFIXES,
    check_key,
    check_layout,
    described_axes,
    format_of,
    image_suffixes,
    parts_of,
    series_of,
    split_part,
    suffix_of,
)
from .rows import DATALIST_SUFFIXES, Record, read_rows, sections_left_out
from .subjects import PATIENT_ID, SubjectRule, name_subjects

__all__ = ["FoundImages", "find_images", "scan_images"]

logger = logging.getLogger(__name__)


FILE_COLUMNS = ("image", "mask")
PATIENT = "#patient"  # of a record; no column of a list has this name, as it is taken out
PART = "#part"
OWN = ("correction", PATIENT, PART)  # the audit's own entries
NO_FILES = ("thumbs.db", "dicomdir")


@dataclass(frozen=True)
class FoundImages:
    """The images of a data set.

    Attributes:
        items: one dict for each, in the order of their ids.
        rule: by which the subjects are told.
        notes: in words, what files were taken for and which were left out.
    """

    items: list[Item]
    rule: SubjectRule
    notes: list[str]


def find_images(
    source: str | os.PathLike,
    subject_pattern: str | None = None,
    include: Sequence[str] | str | None = None,
    exclude: Sequence[str] | str | None = None,
    warn: bool = True,
    array_layout: str | None = None,
    array_key: str | Sequence[str] | None = None,
) -> list[Item]:
    """Return one item dict for each image of a folder or datalist, in the order of their ids.

    Every dict has `image` (absolute path, of a part of a file with ``#part``), `id` (path relative to the folder,
    unique), `subject_id`, and the datalist's other columns (`mask` becomes an absolute path; empty values are left
    out).

    Args:
        source: a folder, searched recursively, or a .json, .csv or .tsv datalist with a column `image` and optional
            `subject_id` (or BIDS `participant_id`), `mask`, `group`. A .json file holds a list of objects or paths, or
            such lists under keys. Relative paths are relative to the datalist. Stacks of samples give an item for each.
            Of a BIDS data set, or of INDI's folders, the anatomical images are taken, unless `include` is given.
        subject_pattern: regular expression with a group `subject`, searched in the relative path; None tries the names
            of known data sets, a DICOM file's PatientID, a folder that is named after a person, then takes the file's
            stem. A datalist's subject column wins.
        include, exclude: glob or globs on the relative path; an image is kept if it matches any of `include` and none
            of `exclude`.
        warn: say when no pattern matched and every file counts as a subject, and refuse names that may be one person's
            or several's; False where it does not matter whose the images are.
        array_layout: what the axes of arrays are, as ``NCHW``; None finds out.
        array_key: name of the array in a file of several, or names, of which the first that a file has is taken;
            None: the only one that may hold images.

    Raises:
        FileNotFoundError: if the source, or a file of a datalist, does not exist.
        ValueError: if there is no image, a column is missing, an id occurs twice, the pattern misses a file, or files
            of one name in several folders might be one person or several.
    """
    found = scan_images(source, subject_pattern, include, exclude, warn, array_layout, array_key=array_key)
    for note in found.notes:
        logger.info("%s: %s", source, note)
    return found.items


def scan_images(
    source: str | os.PathLike,
    subject_pattern: str | None = None,
    include: Sequence[str] | str | None = None,
    exclude: Sequence[str] | str | None = None,
    warn: bool = True,
    array_layout: str | None = None,
    section: str | None = None,
    array_key: str | Sequence[str] | None = None,
) -> FoundImages:
    """Return what :func:`find_images` returns, and what it was taken for.

    Args:
        source, subject_pattern, include, exclude, warn, array_layout, array_key: as there.
        section: list of a .json datalist; None: ``training``, or the only one.

    Raises:
        FileNotFoundError, ValueError: as there, and if there is no such section.
    """
    globs = {"include": _globs("include", include), "exclude": _globs("exclude", exclude)}
    arrays = check_layout(array_layout), check_key(array_key)
    source = Path(source).expanduser()
    files = _Files(source, arrays, section, anatomical_only=not globs["include"])
    ids = {_image_id(record) for record in files.records}
    kept = {image_id for image_id in ids if _kept(image_id, globs["include"] or ["*"], globs["exclude"])}
    pairs = [(_item(record, files.root, source), record) for record in files.records if _image_id(record) in kept]
    pairs.sort(key=lambda pair: pair[0]["id"])
    items = [item for item, _ in pairs]
    found = ", ".join(f"{count} {suffix}" for suffix, count in files.others.most_common(5))
    if not items:
        beside = f", beside other files ({found})" if found else ""
        none = f"found {len(files.records)}, of which include and exclude keep none" if files.records else "found none"
        remedy = "check the folder and the globs" if files.records else "check the folder"
        if not files.records and Path(source).is_file():
            raise ValueError(f"{source}: expected a list with a row for each image, found no rows; add them")
        expected = " ".join(sorted(image_suffixes()))
        raise ValueError(f"{source}: expected images ({expected}), {none}{beside}; {remedy}")
    if len(kept) < len(items):
        double = Counter(item["id"] for item in items).most_common(1)[0][0]
        raise ValueError(f"{source}: expected every image once, found {double} more than once; remove the repetition")
    if found:
        logger.warning("%s: passed over %d files that are no images: %s", source, files.others.total(), found)
    patients = [str(record.get(PATIENT, "")) for _, record in pairs] if files.patients else None
    rule = name_subjects(items, subject_pattern, source, warn, patients)
    if warn and patients and rule.words != PATIENT_ID:
        of = f"one of all images, {patients[0]}" if len(set(patients)) == 1 and patients[0] else "of some images only"
        files.notes.append(f"PatientID, {of if any(patients) else 'empty'}, was not used")
    others = [f"passed over {files.others.total()} files that are no images: {found}"] if found else []
    return FoundImages(items, rule, files.notes + others)


class _Files:
    """What a folder or a datalist lists, before globs.

    Attributes:
        records: a row for each image.
        root: what their paths are relative to.
        others: suffixes of files that are no images.
        notes: what files were taken for.
        patients: DICOM files were among them.
    """

    def __init__(
        self, source: Path, arrays: tuple[str | None, tuple[str, ...]], section: str | None, anatomical_only: bool
    ) -> None:
        self.arrays, self.anatomical_only = arrays, anatomical_only
        self.others: Counter[str] = Counter()
        self.notes: list[str] = []
        self.patients = False
        self.records: list[Record] = []
        if source.is_dir():
            self.root = source
            if section is not None:
                raise ValueError(f"{source}: expected a .json datalist with a section {section!r}, found a folder")
            self._add_folder(source)
            return
        if source.suffix.lower() not in DATALIST_SUFFIXES or not source.is_file():
            raise FileNotFoundError(
                f"{source}: expected an existing folder or a {'/'.join(DATALIST_SUFFIXES)} datalist, found "
                f"{'another file; give the folder that it lies in' if source.exists() else 'nothing; check the path'}"
            )
        self.root = source.parent
        if note := sections_left_out(source, section):
            self.notes.append(note)
        for row in read_rows(source, section):
            self._add(row | {"image": _native(str(row["image"]), self.root)})

    def _add_folder(self, source: Path) -> None:
        names: list[str] = []
        series: dict[Path, list[Path]] = {}
        for path in _walk(source, frozenset()):
            kind = format_of(path) if path.name.lower() not in NO_FILES else None
            if kind is None:
                self.others["".join(path.suffixes[-1:]) or "no suffix"] += 1
            elif kind in DICOM_SUFFIXES:
                series.setdefault(path.parent, []).append(path)
            else:
                names.append(path.relative_to(source).as_posix())
        records, notes = laid_out(source, names, chosen=not self.anatomical_only)
        self.notes += notes
        for record in records:
            self._add(record)
        for folder in sorted(series):
            self._add_series(folder, len(series[folder]))

    def _add(self, record: Record) -> None:
        """Add an image, or those of a file of several."""
        name = str(record["image"])
        path = self.root / name
        part = split_part(path)[1]
        if part is not None:
            self.records.append(record | {PART: part})
            return
        parts = parts_of(path, *self.arrays)
        if not parts:  # one image, or none, of which its reader complains
            self.records.append(record)
            return
        if self.anatomical_only and suffix_of(path) == ".tar":
            parts, notes = without_masks(parts)
            self.notes += [f"{name}: {note}" for note in notes]
        self.records += [record | {"image": f"{name}#{part}", PART: part} for part in parts]
        axes = described_axes(path, *self.arrays)
        self.notes.append(f"{name}: {len(parts)} images{f', {axes}' if axes else ''}")

    def _add_series(self, folder: Path, files: int) -> None:
        """Add the images that the DICOM files of a folder make."""
        name, found = folder.relative_to(self.root).as_posix(), series_of(folder)
        self.patients = True
        for number, one in enumerate(found):
            place = name if len(found) == 1 else f"{name}#{number}"
            image = place if one.volume else Path(one.files[0]).relative_to(self.root).as_posix()
            part: Record = {PART: str(number)} if image.endswith(f"#{number}") and one.volume else {}
            self.records.append({"image": image, PATIENT: one.patient, **part})
        volumes = [one for one in found if one.volume]
        if volumes:
            slices = ", ".join(str(len(one.files)) for one in volumes[:3])
            self.notes.append(f"{name}: {len(volumes)} DICOM series of {slices} files")
        if (without := files - sum(len(one.files) for one in found)) > 0:
            self.others[".dcm without an image"] += without


def _native(image: str, root: Path) -> str:
    """Return a path of a list as this system writes it: ~ is the home, and backslashes are slashes where none is a
    name."""
    image = os.path.expanduser(image)
    if "\\" in image and not (root / split_part(root / image)[0]).exists():
        return image.replace("\\", "/")
    return image


def _walk(folder: Path, above: frozenset[str]) -> list[Path]:
    """Return the files below a folder, hidden ones left out, in order; links to folders are followed.

    Raises:
        ValueError: at a link to a folder that it stands in, or to nothing.
        OSError: at a folder that may not be read.
    """
    real = os.path.realpath(folder)
    if real in above:
        raise ValueError(f"{folder}: expected a folder, found a link to one that it stands in; remove the link")
    files: list[Path] = []
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        if path.is_dir():
            files += _walk(path, above | {real})
        elif path.is_file():
            files.append(path)
        elif path.is_symlink() and suffix_of(path):  # not fetched (git-annex), or moved away
            raise ValueError(f"{path}: expected an image, found a link to nothing; fetch the file or remove the link")
    return files


def _image_id(record: Record) -> str:
    file, part = _file_and_part(record, "image")
    name = Path(os.path.normpath(file)).as_posix()  # one spelling a file
    return ("series" if name == "." else name) + part  # DICOM files in the folder itself


def _file_and_part(record: Record, column: str) -> tuple[str, str]:
    """Return a path, and the part with its sign: a member's name in an archive is no path, whatever stands in it."""
    name = str(record[column])
    part = f"#{record[PART]}" if column == "image" and PART in record else ""
    return name[: len(name) - len(part)], part


def _item(record: Record, root: Path, source: str | os.PathLike) -> Item:
    # MONAI's spatial transforms take every key that starts with "image_" for metadata and fail on it
    item = {k: v for k, v in record.items() if not k.startswith("image_") and k not in OWN}
    for column in FILE_COLUMNS:
        if column in record:
            name, part = _file_and_part(record, column)
            path, file = root / name, os.path.abspath(root / name)
            if not os.path.isfile(file) and not (os.path.isdir(file) and format_of(file)):  # a DICOM series
                raise FileNotFoundError(
                    f"{path}: expected a file, as {source} lists it under {column!r}, found none; correct the list"
                )
            item[column] = file + part  # not resolved: the target of a link may lack the suffix
    item["id"] = _image_id(record)
    if "level" in record and not _is_level(record["level"]):
        raise ValueError(
            f"{source}: expected a level in mm, found {record['level']!r} for {item['id']}; correct it or leave it "
            "empty"
        )
    return cast(Item, item)  # the subject follows


def _is_level(value: object) -> bool:
    """Return whether a datalist's value is a level: a number, also as text, or NaN where it is unknown."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return False
    try:
        return not math.isinf(float(value))
    except ValueError:
        return False


def _globs(key: str, given: Sequence[str] | str | None) -> Sequence[str]:
    globs = [given] if isinstance(given, str) else given
    if globs is None:
        return []
    if not isinstance(globs, (list, tuple)) or not all(isinstance(glob, str) for glob in globs):
        raise ValueError(f"{key}: expected a glob or a list of globs, found {given!r}")
    return globs


def _kept(image_id: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    wanted, unwanted = (any(fnmatch.fnmatch(image_id, glob) for glob in globs) for globs in (include, exclude))
    return wanted and not unwanted
