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

"""Read image files of every kind: one reader class a format."""

from __future__ import annotations

from monai.data import PILReader, is_supported_format
from PIL import Image

__all__ = ["GreyImageReader"]


class GreyImageReader(PILReader):
    """Read PNG, JPEG, BMP and TIFF files as grey images of their own bit depth; colours become their luma.

    PILReader alone leaves colour channels and palettes as they are and does not claim TIFF.
    """

    def __init__(self) -> None:
        super().__init__(converter=self._to_grey)

    def verify_suffix(self, filename) -> bool:
        return is_supported_format(filename, ["png", "jpg", "jpeg", "bmp", "tif", "tiff"])

    @staticmethod
    def _to_grey(image):
        if "A" in image.getbands() or "transparency" in image.info:  # what is transparent may hide any colour
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
        # 16-bit, 32-bit and float modes hold one channel already; convert("L") would clip them to 8 bit
        return image if image.mode in ("L", "F") or image.mode.startswith("I") else image.convert("RGB").convert("L")
