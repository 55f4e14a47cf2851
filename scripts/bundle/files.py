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

"""Files, written so that nothing half-written looks finished; tables and hashes."""

from __future__ import annotations

import csv
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "file_hashes",
    "keep_private",
    "narrowed",
    "no_wider_than",
    "read_table",
    "table_rows",
    "replacing",
    "sha256_of_file",
    "write_table",
]


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it takes the name `path` once the block ends without an error.

    The folder is made. Two processes may write one file, the later wins. The temporary name keeps the suffixes, as
    writers choose a format by them, and begins with a dot, which searches for images pass over.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}{''.join(path.suffixes)}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def keep_private(inputs: Iterable[str | os.PathLike]) -> int:
    """Give files that this process creates from now on no permission that one of `inputs` lacks.

    A folder that keeps others out keeps them from all that lies in it. A group may read only where the inputs are of
    the group that new files will have, or where everybody may. The owner may always read and write. Of a part of a
    file, ``FILE#part``, the file counts. Returns the umask before, for who wants it back.

    Raises:
        OSError: if an input cannot be looked at.
    """
    mode, group, folders = 0o666, True, set()
    for path in {_whole(os.fspath(entry)) for entry in inputs}:
        state = os.stat(path)
        mode &= state.st_mode
        group &= state.st_gid == os.getegid()
        folders.add(os.path.dirname(os.path.realpath(path) if os.path.islink(path) else path) or ".")
    places = {Path(folder).resolve() for folder in folders}
    for place in places.union(*(place.parents for place in places)):
        mode &= 0o600 | (place.stat().st_mode & 0o011) * 0o6  # whoever may not enter it, reaches nothing in it
    if not group:
        mode &= ~0o060 | (mode & 0o006) << 3
    mode |= 0o600  # the owner of the output may have read-only input
    entered = mode | (mode & 0o444) >> 2
    previous = os.umask(0)
    os.umask(previous | ~entered & 0o777)
    return previous


def _whole(path: str) -> str:
    """Return the path of the file that a part, FILE#part, is of; a name may have the sign too."""
    while "#" in path and not os.path.lexists(path):
        path = path.rpartition("#")[0]
    return path


@contextmanager
def no_wider_than(inputs: Iterable[str | os.PathLike]) -> Iterator[None]:
    """Give files that this process creates within the context no permission that one of `inputs` lacks."""
    previous = keep_private(inputs)
    try:
        yield
    finally:
        os.umask(previous)


def narrowed(path: str | os.PathLike) -> None:
    """Take permissions from an existing file or folder that one created now would not have."""
    umask = os.umask(0)
    os.umask(umask)
    mode = os.stat(path).st_mode & 0o777
    if mode & umask:
        os.chmod(path, mode & ~umask)


def read_table(path: str | os.PathLike) -> list[dict[str, str]]:
    """Return the rows of a .csv file with a header."""
    return list(table_rows(path))


def table_rows(path: str | os.PathLike) -> Iterator[dict[str, str]]:
    """Yield the rows of a .csv file with a header."""
    with open(path, newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def write_table(path: str | os.PathLike, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows as a .csv file whose columns are all their keys, in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def sha256_of_file(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hashes(**files: str | Path) -> dict[str, str]:
    """Return the SHA-256 of each file, by name."""
    return {name: sha256_of_file(path) for name, path in files.items()}
