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

"""Embeddings on disk, under the content of their files; what is damaged does not exist.

They lie in shards: whole files' images and vectors as arrays, and a table of what the rows are. A data set that is too
large for memory becomes one shard in its own order, whose arrays are then read from the disk where they are needed: few
open files, whatever the size.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from ..bundle.files import replacing
from .file_loader import LoadedImage

__all__ = ["EmbeddingCache", "Gathered", "Known", "Shard", "read_sealed", "write_sealed"]

logger = logging.getLogger(__name__)

SEAL = hashlib.sha256().digest_size  # bytes at a file's end
BLOCK = 1 << 20  # bytes read at a time
ROWS = 4096  # rows copied at a time
MOST_IN_MEMORY = 1 << 28  # bytes of a set's images; more stay on the disk
TABLE = np.dtype([("content", "S64"), ("slice", "<i8"), ("level", "<f8")])  # of each row, as LoadedImage has them
PARTS = ("rows", "vectors", "images")  # of a shard, a file each

File = tuple[str, int, int]  # its name, size and time


class Gathered(NamedTuple):
    """The rows of some contents, in their order: `counts` (F,) rows of each, and the rows' table, vectors and images,
    (N,), (N, D) and (N, H, W)."""

    counts: NDArray[np.int64]
    table: NDArray
    vectors: NDArray[np.float32]
    images: NDArray[np.float16]


@dataclass(frozen=True)
class Shard:
    """Rows (N,) of whole files: their `table`, and vectors and images in memory, or beside the table's file."""

    table: NDArray
    path: Path | None = None
    memory: tuple[NDArray[np.float32], NDArray[np.float16]] | None = None

    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
        """Return vectors (N, D) and images (N, H, W), which stay on the disk until they are used.

        Raises:
            FileNotFoundError: if another process has made one shard of several since this one was read.
        """
        if self.path is None:
            assert self.memory is not None
            return self.memory
        vectors, images = (np.load(_part(self.path, name), "r") for name in PARTS[1:])
        return np.asarray(vectors), np.asarray(images)  # as numpy's memmap, each slice would be a Python object of it

    def contents(self) -> Iterator[tuple[str, int, int]]:
        """Yield each content with its first row and the row after its last."""
        starts = np.flatnonzero(np.r_[True, self.table["content"][1:] != self.table["content"][:-1]])
        ends = np.r_[starts[1:], len(self.table)].tolist()
        for start, end in zip(starts.tolist(), ends):
            yield self.table["content"][start].decode(), start, end


@dataclass
class Known:
    """What shards hold, by content: which shard, its first row there and the row after its last."""

    shards: list[Shard] = field(default_factory=list)
    places: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def add(self, shard: Shard) -> None:
        """Let a shard count; of a content that is known already, the new rows."""
        number = len(self.shards)
        self.shards.append(shard)
        self.places.update((content, (number, start, end)) for content, start, end in shard.contents())

    def __contains__(self, content: str) -> bool:
        return content in self.places

    def whole(self, contents: Sequence[str]) -> Gathered | None:
        """Return the rows of contents that are one shard, in its order; None if they are not."""
        places = np.array([self.places[content] for content in contents])
        number, start, end = places.T
        shard = self.shards[number[0]]
        in_order = start[0] == 0 and (start[1:] == end[:-1]).all() and end[-1] == len(shard.table)
        if not (in_order and (number == number[0]).all()):
            return None
        return Gathered(end - start, shard.table, *shard.arrays())

    def fill(self, contents: Sequence[str], out: Gathered) -> None:
        """Fill the rows of contents, shard after shard, so that few files are open at a time."""
        places = np.array([self.places[content] for content in contents])
        counts = places[:, 2] - places[:, 1]
        shard = np.repeat(places[:, 0], counts)
        begins = np.cumsum(counts) - counts
        source = np.arange(counts.sum()) - np.repeat(begins - places[:, 1], counts)
        order = np.argsort(shard, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(shard[order])) + 1):
            of = self.shards[shard[rows[0]]]
            vectors, images = of.arrays()
            out.table[rows] = of.table[source[rows]]
            for first in range(0, len(rows), ROWS):
                some = rows[first : first + ROWS]
                out.vectors[some], out.images[some] = vectors[source[some]], images[source[some]]

    def shapes(self, contents: Sequence[str]) -> tuple[NDArray[np.int64], int, tuple[int, ...]]:
        """Return how many rows each of the contents has, (F,), and the shapes of a vector and of an image."""
        vectors, images = self.shards[self.places[contents[0]][0]].arrays()
        counts = np.array([end - start for _, start, end in map(self.places.__getitem__, contents)])
        return counts, vectors.shape[1], images.shape[1:]


class EmbeddingCache:
    """A folder of shards. Several processes may write to one folder. A process that is killed leaves whole shards.

    Every file ends with a checksum of its name and content: one that was changed, cut or renamed is embedded again,
    with a warning.

    Args:
        folder: made when something is written; None keeps nothing.
        checked: files whose checksum was seen to be right, which are not read again; None: a new set.
    """

    def __init__(self, folder: str | os.PathLike | None, checked: set[File] | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.checked = set() if checked is None else checked

    def read(self) -> Known:
        """Return all that is known; vectors and images stay on the disk."""
        known = Known()
        for path in sorted(self.folder.glob("[!.]*.rows.npy")) if self.folder else []:
            base = path.with_name(path.name.removesuffix(".rows.npy"))
            try:
                known.add(self._shard(base))  # a volume never spans two shards
            except FileNotFoundError as error:
                if path.exists():  # else another process has just made one shard of several
                    _set_aside(path, error)
            except (ValueError, EOFError) as error:  # a disk that lost power, or was tidied
                _set_aside(path, error)
        return known

    def add(self, contents: Sequence[str], images: Sequence[LoadedImage], vectors: NDArray[np.float32]) -> Shard:
        """Keep images, the content of each and its vector (N, D) as a shard, on the disk if there is a folder."""
        table = np.array([(key, row.slice, row.level) for key, row in zip(contents, images)], TABLE)
        pixels = np.stack([row.image for row in images])
        if self.folder is None:
            return Shard(table, memory=(vectors, pixels))
        base = self.folder / uuid.uuid4().hex
        _write_array(_part(base, "images"), pixels)
        _write_array(_part(base, "vectors"), vectors)
        _write_array(_part(base, "rows"), table)  # last: a shard without a table does not exist
        return Shard(table, base)

    def gather(self, known: Known, contents: Sequence[str]) -> Gathered:
        """Return the rows of contents, at least one and all known, in their order; a content may stand twice.

        Many images stay on the disk. There they are written as one shard in this order, and shards that hold nothing
        else are removed.

        Raises:
            FileNotFoundError: if another process removed a shard meanwhile; read again.
        """
        counts, dimension, shape = known.shapes(contents)
        total = int(counts.sum())
        bytes_of_images = total * int(np.prod(shape)) * np.dtype(np.float16).itemsize
        table, vectors = np.empty(total, TABLE), np.empty((total, dimension), np.float32)
        if self.folder is None or bytes_of_images <= MOST_IN_MEMORY:
            out = Gathered(counts, table, vectors, np.empty((total, *shape), np.float16))
            known.fill(contents, out)
            return out
        if (whole := known.whole(contents)) is not None:
            return whole
        with FileLock(self.folder / ".gather.lock"):
            base = self.folder / uuid.uuid4().hex
            with replacing(_part(base, "images")) as temporary:
                images = np.lib.format.open_memmap(temporary, "w+", np.float16, (total, *shape))
                known.fill(contents, Gathered(counts, table, vectors, images))
                images.flush()
                del images
                _seal(temporary, _part(base, "images").name)
            _write_array(_part(base, "vectors"), vectors)
            _write_array(_part(base, "rows"), table)
            new = Shard(table, base)
            self.checked |= {_file(_part(base, name)) for name in PARTS}
            self._remove_held(known, set(contents))
        known.add(new)
        return Gathered(counts, table, vectors, new.arrays()[1])

    def read_derived(self, images: NDArray[np.float16]) -> NDArray[np.float32] | None:
        """Return the vectors (N, D) of images (N, H, W) that come from no file, None if these are not known."""
        path = self._derived(images)
        if path is None or not path.is_file():
            return None
        try:
            return _read_array(path)
        except (ValueError, EOFError) as error:
            logger.warning("%s: damaged (%s); embedded again", path, error)
            return None

    def add_derived(self, images: NDArray[np.float16], vectors: NDArray[np.float32]) -> None:
        """Write the vectors (N, D) of images (N, H, W) that come from no file."""
        if (path := self._derived(images)) is not None:
            _write_array(path, vectors)

    def _shard(self, base: Path) -> Shard:
        for name in PARTS:
            path = _part(base, name)
            if (file := _file(path)) not in self.checked:
                _check_seal(path)
                self.checked.add(file)
        shard = Shard(np.load(_part(base, "rows")), base)
        if shard.table.dtype != TABLE:
            raise ValueError("another kind of table")
        if {len(part) for part in shard.arrays()} != {len(shard.table)}:
            raise ValueError("another number of rows")
        return shard

    def _remove_held(self, known: Known, contents: set[str]) -> None:
        """Remove the shards all of whose contents stand in a new one."""
        for shard in known.shards:
            if shard.path is not None and contents.issuperset(content for content, _, _ in shard.contents()):
                for name in PARTS:  # the table first: without it a shard does not exist
                    with contextlib.suppress(OSError):  # where another process reads it and the system minds
                        _part(shard.path, name).unlink()

    def _derived(self, images: NDArray[np.float16]) -> Path | None:
        if self.folder is None:
            return None
        name = hashlib.sha256(repr(images.shape).encode() + images.tobytes()).hexdigest()[:32]
        return self.folder / f"{name}.derived.npy"


def _part(base: Path, name: str) -> Path:
    return base.with_name(f"{base.name}.{name}.npy")


def _file(path: Path) -> File:
    state = path.stat()
    return str(path), state.st_size, state.st_mtime_ns


def _set_aside(path: Path, error: Exception) -> None:
    """Say that a shard is damaged, once."""
    logger.warning("%s: damaged (%s); embedded again", path, error)
    with contextlib.suppress(OSError):
        path.rename(path.with_suffix(".damaged"))


def _read_array(path: Path) -> NDArray:
    _check_seal(path)
    return np.load(path)  # which does not look at what follows the array


def _write_array(path: Path, array: NDArray) -> None:
    buffer = BytesIO()
    np.save(buffer, array)
    write_sealed(path, buffer.getbuffer())


def write_sealed(path: Path, content: bytes | memoryview) -> None:
    """Write a file with its seal: the SHA-256 of the file's name and of what stands before it."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        digest = hashlib.sha256(path.name.encode())
        digest.update(content)
        file.write(digest.digest())


def read_sealed(path: Path) -> bytes:
    """Return the content of a file that :func:`write_sealed` wrote.

    Raises:
        ValueError: if the file is not as it was written.
    """
    _check_seal(path)
    return path.read_bytes()[:-SEAL]


def _seal(path: Path, name: str) -> None:
    """Add the seal to a file that will have this name."""
    with path.open("r+b") as file:
        digest = _digest(file, name, os.fstat(file.fileno()).st_size)
        file.write(digest)


def _check_seal(path: Path) -> None:
    """Raise a ValueError if the file is not as it was written."""
    with path.open("rb") as file:
        digest = _digest(file, path.name, max(os.fstat(file.fileno()).st_size - SEAL, 0))
        if file.read() != digest:
            raise ValueError("its checksum is another")


def _digest(file: IO[bytes], name: str, size: int) -> bytes:
    """Return the seal of a file's first bytes, and stand behind them."""
    digest = hashlib.sha256(name.encode())
    while size and (block := file.read(min(size, BLOCK))):
        digest.update(block)
        size -= len(block)
    return digest.digest()
