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
from pathlib import Path
from typing import cast

from .items import Item
from .readers import image_suffixes
from .rows import DATALIST_SUFFIXES, Record, read_rows
from .subjects import name_subjects

__all__ = ["find_images"]

logger = logging.getLogger(__name__)


FILE_COLUMNS = ("image", "mask")


def find_images(
    source: str | os.PathLike,
    subject_pattern: str | None = None,
    include: Sequence[str] | str | None = None,
    exclude: Sequence[str] | str | None = None,
    warn: bool = True,
) -> list[Item]:
    """Return one item dict for each image of a folder or datalist, in the order of their ids.

    Every dict has `image` (absolute path), `id` (path relative to the folder, unique), `subject_id`, and the datalist's
    other columns (`mask` becomes an absolute path; empty values are left out).

    Args:
        source: a folder, searched recursively, or a .json, .csv or .tsv datalist with a column `image` and optional
            `subject_id` (or BIDS `participant_id`), `mask`, `group`. A .json file holds a list of objects, or one such
            list under `training` or another single key. Relative paths are relative to the datalist.
        subject_pattern: regular expression with a group `subject`, searched in the relative path; None tries BIDS
            `sub-*` and `IXInnn`, then takes the file's stem. A datalist's subject column wins.
        include, exclude: glob or globs on the relative path; an image is kept if it matches any of `include` and none
            of `exclude`.
        warn: say when no pattern matched and every file counts as a subject, and refuse names that may be one person's
            or several's; False where it does not matter whose the images are.

    Raises:
        FileNotFoundError: if the source, or a file of a datalist, does not exist.
        ValueError: if there is no image, a column is missing, an id occurs twice, the pattern misses a file, or files
            of one name in several folders might be one person or several.
    """
    globs = {"include": _globs("include", include), "exclude": _globs("exclude", exclude)}
    records, root, others = _records(Path(source))
    ids = {_image_id(record) for record in records}
    kept = {image_id for image_id in ids if _kept(image_id, globs["include"] or ["*"], globs["exclude"])}
    items = [_item(record, root, source) for record in records if _image_id(record) in kept]
    found = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
    if not items:
        raise ValueError(
            f"{source}: expected images ({' '.join(image_suffixes())}), found {len(records)}, of which include and "
            f"exclude keep none{f', beside other files ({found})' if found else ''}; check the folder and the globs"
        )
    if len(kept) < len(items):
        double = Counter(item["id"] for item in items).most_common(1)[0][0]
        raise ValueError(f"{source}: expected every image once, found {double} more than once; remove the repetition")
    if found:
        logger.warning("%s: passed over %d files that are no images: %s", source, others.total(), found)
    name_subjects(items, subject_pattern, source, warn)
    return sorted(items, key=lambda item: item["id"])


def _records(source: Path) -> tuple[list[Record], Path, Counter[str]]:
    """Return the rows of a folder or datalist, what their paths are relative to, and the suffixes of other files."""
    if source.is_dir():
        files = _walk(source, frozenset())
        records: list[Record] = [{"image": str(path.relative_to(source))} for path in files if _is_image(path)]
        return records, source, Counter("".join(p.suffixes[-1:]) or "no suffix" for p in files if not _is_image(p))
    if source.suffix.lower() not in DATALIST_SUFFIXES or not source.is_file():
        raise FileNotFoundError(
            f"{source}: expected an existing folder or a {'/'.join(DATALIST_SUFFIXES)} datalist, found "
            f"{'another file' if source.exists() else 'nothing'}; check the path"
        )
    return read_rows(source), source.parent, Counter()


def _is_image(path: Path) -> bool:
    return path.name.lower().endswith(image_suffixes())


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
        elif path.is_symlink() and _is_image(path):  # not fetched (git-annex), or moved away
            raise ValueError(f"{path}: expected an image, found a link to nothing; fetch the file or remove the link")
    return files


def _image_id(record: Record) -> str:
    return Path(os.path.normpath(str(record["image"]))).as_posix()  # one spelling a file


def _item(record: Record, root: Path, source: str | os.PathLike) -> Item:
    # MONAI's spatial transforms take every key that starts with "image_" for metadata and fail on it
    item = {k: v for k, v in record.items() if not k.startswith("image_") and k != "correction"}  # the audit's own
    for column in FILE_COLUMNS:
        if column in record:
            path = root / str(record[column])
            if not os.path.isfile(path):  # Path.is_file fails on names that are too long
                raise FileNotFoundError(
                    f"{path}: expected a file, as {source} lists it under {column!r}, found none; correct the list"
                )
            item[column] = os.path.abspath(path)  # not resolved: the target of a link may lack the suffix
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
