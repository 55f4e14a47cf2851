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

"""Load files as network inputs, or say in one sentence why not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..bundle.files import sha256_of_file

__all__ = ["ImageError", "Preparation", "content_key", "only_element"]


class ImageError(ValueError):
    """A file that cannot be audited; the sentence names the file, the reason and what to do."""


class Preparation:
    """A file's dict in, (content key, its slices as plain dicts, or one sentence on what is wrong) out."""

    def __init__(self, preprocessing: Callable) -> None:
        self.preprocessing = preprocessing

    def __call__(self, data: dict[str, Any]):
        item = data["item"]
        try:
            prepared = self.preprocessing(dict(item))
            prepared = prepared if isinstance(prepared, list) else [prepared]
            return data["content"], [self._slice(entry) for entry in prepared]
        except Exception as error:  # readers raise what they like
            cause: BaseException = error
            while cause.__cause__ is not None:  # MONAI's last exception says only which transform failed
                cause = cause.__cause__
            reason = (str(cause).strip() or type(cause).__name__).splitlines()[0].removeprefix(f"{item['id']}: ")
            if reason.startswith("LoadImage cannot find a suitable reader"):
                kind = "".join(Path(item["image"]).suffixes[-1:])
                reason = f"no reader of {kind} files takes it; it is damaged or of another format"
            elif not isinstance(cause, ValueError):
                reason = f"damaged or of another format: {reason}"
            return data["content"], reason

    @staticmethod
    def _slice(entry: dict[str, Any]) -> dict[str, Any]:
        image = np.asarray(torch.as_tensor(entry["image"]).cpu())[0]
        if not np.isfinite(image).all():
            raise ValueError("expected finite values, found NaN or infinite ones")
        if image.min() < 0 or image.max() > 1:  # what percentile scaling leaves where nearly all pixels are background
            raise ValueError("expected an object that covers at least 0.5 % of the image, found a smaller one")
        if image.min() == image.max():
            raise ValueError("expected an image, found a constant one")
        level = entry.get("level")
        return {
            "image": image.astype(np.float16),
            "slice": int(entry.get("slice", -1)),
            "level": float("nan") if level is None else float(level),
        }


def only_element(batch: list) -> Any:
    return batch[0]


def content_key(item: Mapping[str, Any]) -> str:
    """Hash of the image's and mask's bytes, and of a level that the datalist gives."""
    parts = [sha256_of_file(item["image"])]
    parts += [sha256_of_file(item["mask"])] if "mask" in item else []
    parts += [f"level {item['level']}"] if "level" in item else []
    return hashlib.sha256("|".join(parts).encode()).hexdigest()
