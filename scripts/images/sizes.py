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

"""How many pixels the planar images of a set have: the one thing that surely tells files that were saved otherwise."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from PIL import Image

from .items import Item
from .loading import load_file
from .readers import split_part

__all__ = ["Size", "saved_sizes"]

Size = tuple[int, int]  # rows and columns, as a viewer shows them


def saved_sizes(
    items: Sequence[Item], array_layout: str | None = None, array_key: str | Sequence[str] | None = None
) -> list[Size | None]:
    """Return the rows and columns of planar images as their files have them; None of what is none or cannot be read.

    Args:
        items: the images.
        array_layout, array_key: what the axes of arrays are, and which array is meant; None: found out.

    Cost: the header of a picture, 0.1 ms; other files are read.
    """
    return [_size(item["image"], array_layout, array_key) for item in items]


def _size(path: str, array_layout: str | None, array_key: str | Sequence[str] | None) -> Size | None:
    if split_part(path)[1] is None:
        with contextlib.suppress(Exception), Image.open(path) as picture:
            return picture.height, picture.width
    try:
        shape = load_file(path, array_layout, array_key).shape[1:]
    except Exception:  # readers raise what they like; the audit says which file and why
        return None
    return (int(shape[1]), int(shape[0])) if len(shape) == 2 else None
