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

"""Grey pictures: PNG, JPEG, BMP, TIFF."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from io import BytesIO
from os import PathLike
from pathlib import Path

from monai.data import PILReader
from monai.utils import ensure_tuple
from PIL import Image, ImageOps

from .registry import ImageRefused, reads

__all__ = ["GreyImageReader"]

PAGES = (".tif", ".tiff")  # files that may hold several images
PNG = b"\x89PNG\r\n\x1a\n"


@reads(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
class GreyImageReader(PILReader):
    """Read PNG, JPEG, BMP and TIFF files as grey images of their own bit depth, upright; colours become their luma.

    PILReader alone leaves colour channels and palettes as they are.
    """

    def __init__(self) -> None:
        super().__init__(converter=self._to_grey)

    def read(self, data: Sequence[PathLike | str] | PathLike | str, **kwargs: object) -> object:  # type: ignore[override]
        """Return the image. Its bytes are read first: Pillow 13.0 scrambles some turned TIFF files that it maps."""
        content = [Path(path).read_bytes() for path in ensure_tuple(data)]
        for png in content:
            if png.startswith(PNG):
                self._check(png)
        return super().read(list(map(BytesIO, content)), **kwargs)  # type: ignore[arg-type]

    @staticmethod
    def _check(png: bytes) -> None:
        """Compare the checksums of all chunks: Pillow passes over those of the pixels."""
        start, kind = len(PNG), b""
        while kind != b"IEND":
            length, kind = int.from_bytes(png[start : start + 4]), png[start + 4 : start + 8]
            stop = start + 8 + length
            if len(png) < stop + 4:
                raise OSError("the file is cut off")
            if zlib.crc32(png[start + 4 : stop]) != int.from_bytes(png[stop : stop + 4]):
                raise OSError("a checksum differs")
            start = stop + 4

    def parts(self, path: str) -> Sequence[str] | None:
        """Return the numbers of the pages of a TIFF file of several, None for other files."""
        if not path.lower().endswith(PAGES):
            return None
        with Image.open(path) as image:
            pages = getattr(image, "n_frames", 1)
        return list(map(str, range(pages))) if pages > 1 else None

    def read_part(self, path: str, part: str) -> Image.Image:
        """Return a page of a TIFF file."""
        parts = self.parts(path) or []
        if part not in parts:
            raise ImageRefused(f"expected a page {part}, found {max(1, len(parts))} pages, the first one 0")
        with Image.open(BytesIO(Path(path).read_bytes())) as image:
            image.seek(int(part))
            return self._one_page_to_grey(image)

    @classmethod
    def _to_grey(cls, image: Image.Image) -> Image.Image:
        if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":  # a photo with its preview
            raise ImageRefused(f"expected one image, found a file of {frames}; save each as a file of its own")
        return cls._one_page_to_grey(image)

    @staticmethod
    def _one_page_to_grey(image: Image.Image) -> Image.Image:
        image = ImageOps.exif_transpose(image)  # as every viewer shows it
        if "A" in image.getbands() or "transparency" in image.info:  # what is transparent may hide any colour
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
        # 16-bit, 32-bit and float modes hold one channel already; convert("L") would clip them to 8 bit
        return image if image.mode in ("L", "F") or image.mode.startswith("I") else image.convert("RGB").convert("L")
