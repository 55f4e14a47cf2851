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

"""Stacks of images that need not lie in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Images", "Rows"]


class Images(Protocol):
    """Images (N, H, W) or (N, X, Y, Z) of which rows can be read: an array, one on a disk, or :class:`Rows` of it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As an array's."""

    @property
    def ndim(self) -> int:
        """As an array's."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> NDArray: ...


@dataclass(frozen=True)
class Rows:
    """Rows (N,) of images, read when they are asked for: a part of a set costs no copy of it."""

    images: Images
    rows: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """As that of the array of these rows."""
        return len(self.rows), *self.images.shape[1:]

    @property
    def ndim(self) -> int:
        """As that of the array of these rows."""
        return len(self.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> NDArray:
        """Return rows of these rows, as an array is indexed along its first axis."""
        return self.images[self.rows[index]]
