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

"""Images in tar archives, as WebDataset writes them."""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Sequence
from os import PathLike
from pathlib import PurePosixPath

from monai.data import ImageReader
from numpy.typing import NDArray

from .registry import ImageRefused, parts_of, reads, remembered, suffix_of, whole_reader

__all__ = ["TarReader"]


@remembered
def _members(path: str) -> dict[str, tuple[int, int]]:
    """Return where the images of an archive lie: offset and length in bytes, by name."""
    found: dict[str, tuple[int, int]] = {}
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            image = suffix_of(member.name) not in (None, ".tar") and member.isreg() and not member.issparse()
            if image and not PurePosixPath(member.name).name.startswith("."):
                if member.name in found:
                    raise ImageRefused(f"expected every name once, found {member.name} twice; make the archive again")
                found[member.name] = member.offset_data, member.size
    return found


@reads(".tar")
class TarReader(ImageReader):
    """Read the images of an archive; a part is the name of a member.

    Nothing is unpacked under the name that it has in the archive.
    """

    def __init__(self, array_layout: str | None = None, array_key: str | tuple[str, ...] | None = None) -> None:
        self.array_layout, self.array_key = array_layout, array_key

    def verify_suffix(self, filename: Sequence[PathLike | str] | PathLike | str) -> bool:
        """Return whether this is an archive."""
        return suffix_of(str(filename)) == ".tar"

    def parts(self, path: str) -> Sequence[str]:
        """Return the names of the images."""
        return list(_members(path))

    def read_part(self, path: str, part: str) -> tuple[NDArray, dict]:
        """Return the image of a member, and its metadata."""
        members = _members(path)
        if part not in members:
            raise ImageRefused(f"expected an image {part} in the archive, found none of this name")
        offset, length = members[part]
        with open(path, "rb") as archive, tempfile.TemporaryDirectory() as folder:
            archive.seek(offset)
            copy = os.path.join(folder, f"member{suffix_of(part)}")
            with open(copy, "wb") as file:
                file.write(archive.read(length))
            if parts_of(copy, self.array_layout, self.array_key):
                raise ImageRefused("expected one image in each member, found a stack; save each sample by itself")
            reader = whole_reader(self.array_layout, self.array_key)
            return reader.get_data(reader.read(copy))

    def read(self, data: Sequence[PathLike | str] | PathLike | str, **kwargs: object) -> object:
        """Refuse: an archive is not one image."""
        raise ImageRefused("expected one image, found an archive")

    def get_data(self, img: tuple[NDArray, dict]) -> tuple[NDArray, dict]:
        """Return array and metadata."""
        return img
