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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["file_hashes", "read_table", "replacing", "sha256_of_file", "write_table"]


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


def read_table(path: str | os.PathLike) -> list[dict[str, str]]:
    """Return the rows of a .csv file with a header."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write_table(path: str | os.PathLike, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows as a .csv file whose columns are all their keys, in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
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
