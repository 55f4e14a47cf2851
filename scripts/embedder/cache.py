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

"""Embeddings on disk, under the content of their files; what is damaged does not exist."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray

from ..bundle.files import replacing
from .embedding_set import EmbeddedImage

__all__ = ["EmbeddingCache"]

logger = logging.getLogger(__name__)

SEAL = hashlib.sha256().digest_size  # bytes at a file's end
BLOCK = 1 << 20  # bytes read at a time


class EmbeddingCache:
    """A folder of shards, each of whole files: their images and vectors as arrays, and a table of what the rows are.

    Several processes may write to one folder. A process that is killed leaves whole shards. Every file ends with a
    checksum of its name and content: one that was changed, cut or renamed is embedded again, with a warning.

    Args:
        folder: made when something is written; None keeps nothing.
    """

    def __init__(self, folder: str | os.PathLike | None) -> None:
        self.folder = None if folder is None else Path(folder)

    def read(self) -> dict[str, list[EmbeddedImage]]:
        """Return all images by content; the arrays stay on the disk until they are used."""
        known: dict[str, list[EmbeddedImage]] = {}
        for path in sorted(self.folder.glob("*.json")) if self.folder else []:
            try:
                known |= _read_shard(path)  # a volume never spans two shards
            except (ValueError, EOFError, FileNotFoundError) as error:  # a disk that lost power, or was tidied
                logger.warning("%s: damaged (%s); embedded again", path, error)
                with contextlib.suppress(OSError):  # it is said once
                    path.rename(path.with_suffix(".damaged"))
        return known

    def add(self, contents: Sequence[str], images: Sequence[EmbeddedImage]) -> None:
        """Write images and the content of each as one shard."""
        if self.folder is None or not images:
            return
        shard = self.folder / uuid.uuid4().hex
        _write_array(shard.with_suffix(".images.npy"), np.stack([row.image for row in images]))
        _write_array(shard.with_suffix(".vectors.npy"), np.stack([row.vector for row in images]))
        # the table comes last: a shard without one does not exist
        table = [{"content": key, "slice": row.slice, "level": row.level} for key, row in zip(contents, images)]
        _write_sealed(shard.with_suffix(".json"), lambda file: file.write(json.dumps(table).encode()))

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

    def _derived(self, images: NDArray[np.float16]) -> Path | None:
        if self.folder is None:
            return None
        name = hashlib.sha256(repr(images.shape).encode() + images.tobytes()).hexdigest()[:32]
        return self.folder / f"{name}.derived.npy"


def _read_shard(path: Path) -> dict[str, list[EmbeddedImage]]:
    _check_seal(path)
    rows = json.loads(path.read_bytes()[:-SEAL])
    vectors, images = (_read_array(path.with_suffix(suffix), "r") for suffix in (".vectors.npy", ".images.npy"))
    if not len(rows) == len(vectors) == len(images):
        raise ValueError("another number of rows")
    shard: dict[str, list[EmbeddedImage]] = {}
    for row, vector, image in zip(rows, vectors, images):
        shard.setdefault(row["content"], []).append(EmbeddedImage(image, row["slice"], row["level"], vector))
    return shard


def _read_array(path: Path, mmap_mode: Literal["r"] | None = None) -> NDArray:
    _check_seal(path)
    return np.load(path, mmap_mode)  # which does not look at what follows the array


def _write_array(path: Path, array: NDArray) -> None:
    _write_sealed(path, lambda file: np.save(file, array))


def _write_sealed(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file with its seal: the SHA-256 of its name and of what `write` wrote."""
    buffer = BytesIO()
    write(buffer)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(buffer.getbuffer())
        file.write(hashlib.sha256(path.name.encode() + buffer.getvalue()).digest())


def _check_seal(path: Path) -> None:
    """Raise a ValueError if the file is not as it was written."""
    with path.open("rb") as file:
        left = max(os.fstat(file.fileno()).st_size - SEAL, 0)
        digest = hashlib.sha256(path.name.encode())
        while left and (block := file.read(min(left, BLOCK))):
            digest.update(block)
            left -= len(block)
        if file.read() != digest.digest():
            raise ValueError("its checksum is another")
