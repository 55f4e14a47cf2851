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

"""Files: written so that nothing half-written looks finished, tables and slices."""

from __future__ import annotations

import csv
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["read_table", "replacing", "write_image", "write_table"]


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


def write_table(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a .csv file whose columns are all their keys, in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_image(image: NDArray, path: Path, pixel_mm: float = 2.0) -> None:
    """Write a slice (left-right, posterior-anterior) in [0, 1] as 8-bit PNG or as NIfTI, by the path's suffix."""
    if path.suffix == ".png":
        Image.fromarray((image.T * 255).round().astype(np.uint8)).save(path)
    else:
        affine = np.diag([pixel_mm, pixel_mm, pixel_mm, 1.0])
        nibabel.save(nibabel.Nifti1Image(image[..., None].astype(np.float32), affine), path)  # type: ignore
