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
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..embedder.cache import read_sealed, write_sealed
from ..images.stacks import Images

__all__ = ["FoundStore", "digest_of"]

logger = logging.getLogger(__name__)

ROWS = 4096  # images that are hashed at a time


class FoundStore:
    """Keeps arrays by name under a key, of all that they depend on; what is damaged does not exist.

    Args:
        folder: made when something is written.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)

    def read(self, key: str) -> dict[str, NDArray] | None:
        """Return the arrays that were kept under a key, None if that is not known."""
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            with np.load(BytesIO(read_sealed(path))) as arrays:
                return dict(arrays)
        except (ValueError, EOFError, OSError) as error:
            logger.warning("%s: damaged (%s); aligned again", path, error)
            return None

    def add(self, key: str, arrays: Mapping[str, NDArray]) -> None:
        """Keep arrays under a key."""
        buffer = BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        write_sealed(self._path(key), buffer.getbuffer())

    def _path(self, key: str) -> Path:
        return self.folder / f"{key[:32]}.found.npz"


def digest_of(text: str, images: Images, *arrays: NDArray) -> str:
    """Return the SHA-256 of a text, of images, some at a time, and of arrays, in hexadecimal."""
    digest = hashlib.sha256(f"{text} {images.shape}".encode())
    for start in range(0, len(images), ROWS):
        digest.update(np.ascontiguousarray(images[start : start + ROWS], np.float16).data)
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
