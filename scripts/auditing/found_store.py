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

"""What was found for blocks of units, on disk: an audit that was stopped goes on, and several processes share one."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..embedder.cache import read_sealed, write_sealed
from ..embedder.fingerprint import fingerprint
from ..images.stacks import Images

if TYPE_CHECKING:
    from .search import Found, Search, Units

__all__ = ["FoundStore"]

logger = logging.getLogger(__name__)

ROWS = 4096  # images that are hashed at a time


class FoundStore:
    """Keeps the candidates of blocks of units under all that they depend on.

    That is the training set's vectors, images and subjects, the units' vectors and images, the subjects that they must
    not find, and how candidates are searched, aligned and scored, with the code of it. What is damaged, or of another
    set, does not exist.

    Args:
        folder: made when something is written.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self._searches: dict[int, tuple[Search, str]] = {}

    def read(self, search: Search, units: Units, barred: NDArray[np.int64] | None) -> dict[str, NDArray] | None:
        """Return the arrays of what was found, by the fields of :class:`Found`, None if that is not known."""
        path = self._path(search, units, barred)
        if not path.is_file():
            return None
        try:
            with np.load(BytesIO(read_sealed(path))) as arrays:
                return dict(arrays)
        except (ValueError, EOFError, OSError) as error:
            logger.warning("%s: damaged (%s); aligned again", path, error)
            return None

    def add(self, search: Search, units: Units, barred: NDArray[np.int64] | None, found: Found) -> None:
        """Write what was found."""
        buffer = BytesIO()
        np.savez(buffer, allow_pickle=False, **found.arrays)
        write_sealed(self._path(search, units, barred), buffer.getbuffer())

    def _path(self, search: Search, units: Units, barred: NDArray[np.int64] | None) -> Path:
        digest = hashlib.sha256(self._of_search(search).encode())
        _hash_arrays(digest, [units.vectors, units.unit])
        _hash_images(digest, units.images)
        if barred is not None:
            _hash_arrays(digest, [barred])
        return self.folder / f"{digest.hexdigest()[:32]}.found.npz"

    def _of_search(self, search: Search) -> str:
        """Return a hash of a search; of the last few it is known, as a training set is large."""
        if id(search) not in self._searches:
            how = fingerprint(search.verifier, search.statistic, type(search), search.k, search.whole_files)
            digest = hashlib.sha256(how.encode())
            _hash_arrays(digest, [search.vectors, search.subjects])
            _hash_images(digest, search.images)
            self._searches[id(search)] = search, digest.hexdigest()  # the search too: an id is its own while it lives
        return self._searches[id(search)][1]


def _hash_arrays(digest: hashlib._Hash, arrays: Sequence[NDArray]) -> None:
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)


def _hash_images(digest: hashlib._Hash, images: Images) -> None:
    digest.update(f"{images.shape}".encode())
    for start in range(0, len(images), ROWS):
        digest.update(np.ascontiguousarray(images[start : start + ROWS], np.float16).data)
