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

import numpy as np
from monai.data import NumpyReader, PILReader
from monai.utils import ensure_tuple
from numpy.typing import NDArray
from PIL import Image, ImageOps

from .arrays import one_image
from .layouts import check_layout, stack_or_volume
from .registry import ImageRefused, reads, remembered

__all__ = ["GreyImageReader"]

PAGES = (".tif", ".tiff")  # files that may hold several images
REDUCED, MASK = 1, 4  # bits of the tag NewSubfileType: a page is a smaller copy of another, or its mask
NEW_SUBFILE_TYPE = 254
HALF = (0.45, 0.55)  # of a page's sides, where pages are levels of a pyramid
PNG = b"\x89PNG\r\n\x1a\n"


@remembered
def _pages(path: str) -> tuple[list[int], set[tuple[int, int]]]:
    """Return the numbers of a file's images, smaller copies and masks of others left out, and their sizes."""
    with Image.open(path) as image:
        pages, sizes = [], []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            kind = image.tag_v2.get(NEW_SUBFILE_TYPE, 0) if hasattr(image, "tag_v2") else 0
            if number == 0 or not kind & (REDUCED | MASK):
                pages.append(number)
                sizes.append(image.size)
    halved = [HALF[0] <= b / a <= HALF[1] for first, second in zip(sizes, sizes[1:]) for a, b in zip(first, second)]
    if halved and all(halved):  # a pyramid that does not say so
        return pages[:1], set(sizes[:1])
    return pages, set(sizes)


class _Stack:
    """The pages of a file as an array (N, H, W), of which slices are read."""

    def __init__(self, path: str, pages: Sequence[int]) -> None:
        self.path, self.pages = path, pages
        self.shape = (len(pages), *self[:1].shape[1:])

    def __getitem__(self, which: slice) -> NDArray:
        with Image.open(BytesIO(Path(self.path).read_bytes())) as image:
            read = []
            for page in self.pages[which]:
                image.seek(page)
                read.append(np.asarray(GreyImageReader.one_page_to_grey(image)))
        return np.stack(read)


@reads(".png", ".jpg", ".jpeg", ".jp2", ".bmp", ".gif", ".webp", ".tif", ".tiff")
class GreyImageReader(PILReader):
    """Read PNG, JPEG, JPEG 2000, BMP, GIF, WebP and TIFF files as grey images of their own bit depth, upright.

    Colours become their luma; PILReader alone leaves colour channels and palettes as they are.

    Args:
        array_layout: what the pages of a TIFF file of several are: samples if it names N, else slices of a volume;
            None finds out as for arrays.
    """

    def __init__(self, array_layout: str | None = None) -> None:
        super().__init__(converter=self._to_grey)
        self.array_layout = check_layout(array_layout)

    def read(self, data: Sequence[PathLike | str] | PathLike | str, **kwargs: object) -> object:  # type: ignore[override]
        """Return the image. Its bytes are read first: Pillow 13.0 scrambles some turned TIFF files that it maps."""
        (path,) = map(str, ensure_tuple(data))
        if path.lower().endswith(PAGES):
            pages, _ = _pages(path)
            if len(pages) > 1:
                return one_image(_Stack(path, pages)[:], "DHW")
            return self._page(path, pages[0])
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
        pages, sizes = _pages(path)
        if len(pages) == 1:
            return None
        if self.array_layout is not None:
            samples = "N" in self.array_layout
        else:
            samples = len(sizes) > 1 or _is_stack(path)
        return list(map(str, pages)) if samples else None

    def read_part(self, path: str, part: str) -> Image.Image:
        """Return a page of a TIFF file."""
        parts = self.parts(path) or []
        if part not in parts:
            raise ImageRefused(f"expected a page {part}, found {max(1, len(parts))} pages, the first one 0")
        return self._page(path, int(part))

    def get_data(self, img: object) -> tuple[NDArray, dict]:
        """Return array and metadata of an image, or of a volume, whose slices a TIFF file holds, in voxels of 1 mm."""
        return NumpyReader().get_data(img) if isinstance(img, np.ndarray) else super().get_data(img)

    @classmethod
    def _page(cls, path: str, page: int) -> Image.Image:
        with Image.open(BytesIO(Path(path).read_bytes())) as image:
            image.seek(page)
            return cls.one_page_to_grey(image)

    @classmethod
    def _to_grey(cls, image: Image.Image) -> Image.Image:
        if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":  # a photo with its preview
            raise ImageRefused(f"expected one image, found a file of {frames}; save each as a file of its own")
        return cls.one_page_to_grey(image)

    @staticmethod
    def one_page_to_grey(image: Image.Image) -> Image.Image:
        """Return the present page, upright, in one channel of its own bit depth."""
        image = ImageOps.exif_transpose(image)  # as every viewer shows it
        if "A" in image.getbands() or "transparency" in image.info:  # what is transparent may hide any colour
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
        # 16-bit, 32-bit and float modes hold one channel already; convert("L") would clip them to 8 bit
        return image if image.mode in ("L", "F") or image.mode.startswith("I") else image.convert("RGB").convert("L")


@remembered
def _is_stack(path: str) -> bool:
    """Return whether the pages are samples; False where they are slices of a volume. Refuses what may be either."""
    stack = _Stack(path, _pages(path)[0])
    size = " x ".join(map(str, stack.shape))
    return stack_or_volume(stack, stack.shape, size, "NHW", "DHW") == "NHW"
