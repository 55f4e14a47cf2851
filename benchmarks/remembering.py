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

"""Verifiers that align the same images once: random splits of the same people ask for them again and again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scripts.images.stacks import Images
from scripts.similarity.verification import Alignment, Pairs, Verifier
from scripts.similarity.volume_verification import VolumeVerifier

__all__ = ["RememberingVerifier", "RememberingVolumeVerifier"]


class _Known:
    """What was aligned, by the images' content."""

    def __init__(self) -> None:
        self.rows: dict[bytes, tuple] = {}

    def __call__(
        self, align: Callable[..., Alignment], queries: Images, references: Images, pairs: Pairs | None
    ) -> Alignment:
        """Return what a verifier's `align` returns."""
        first, second = (np.arange(len(queries)),) * 2 if pairs is None else pairs
        names = [
            {row: _hash(images[row]) for row in np.unique(rows).tolist()}
            for images, rows in ((queries, first), (references, second))
        ]
        several = second.reshape(len(second), -1).tolist()
        keys = [
            b" ".join([names[0][q], *(names[1][r] if r >= 0 else b"none" for r in rows)])
            for q, rows in zip(first.tolist(), several)
        ]
        new = [place for place, key in enumerate(keys) if key not in self.rows]
        if new:
            found = align(queries, references, (first[new], second[new]))
            self.rows.update(zip((keys[place] for place in new), zip(*found)))
        return Alignment(*(np.stack(values) for values in zip(*(self.rows[key] for key in keys))))


class RememberingVerifier(Verifier):
    """Aligns images once."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.known = _Known()

    def align(
        self, queries: Images, references: Images, pairs: Pairs | None = None, start: NDArray | None = None
    ) -> Alignment:
        """Return what :class:`Verifier` returns."""
        if self.window:  # the squares of a part are too many to be remembered
            return super().align(queries, references, pairs, start)
        return self.known(super().align, queries, references, pairs)


class RememberingVolumeVerifier(VolumeVerifier):
    """Aligns volumes once."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.known = _Known()

    def align(
        self, queries: Images, references: Images, pairs: Pairs | None = None, start: NDArray | None = None
    ) -> Alignment:
        """Return what :class:`VolumeVerifier` returns."""
        return self.known(super().align, queries, references, pairs)


def _hash(image: NDArray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=12).digest()
