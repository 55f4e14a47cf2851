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

import functools
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.data import DataLoader, Dataset
from numpy.typing import NDArray

from ..bundle.errors import expected_cause, sentence
from ..bundle.files import sha256_of_file
from ..images.items import Item, Prepared, Preprocessing
from ..images.readers import files_of, split_part
from .workers import MOST_CHOSEN, Workers, checked_workers, worker_count

__all__ = ["File", "FileLoader", "ImageError", "Loaded", "LoadedImage", "Unreadable", "UnreadableFiles", "content_key"]


class ImageError(ValueError):
    """A file that cannot be audited; the sentence names the file, the reason and what to do."""


@dataclass(frozen=True)
class File:
    """A file to load, and its content's key."""

    content: str
    item: Item


@dataclass(frozen=True)
class LoadedImage:
    """An image of a file as the network sees it.

    Attributes:
        image: (H, W) float16 in [0, 1].
        slice: index in its volume, -1 for a planar image.
        level: mm below the top of the object, NaN where unknown.
    """

    image: NDArray[np.float16]
    slice: int
    level: float


@dataclass(frozen=True)
class Loaded:
    """The images of one content."""

    content: str
    images: list[LoadedImage]


@dataclass(frozen=True)
class Unreadable:
    """A content that gives no images, and why."""

    content: str
    reason: str


class FileLoader:
    """Loads files through a transform chain, one file at a time and each for itself.

    Args:
        preprocessing: item in, one prepared item or a list of them out.
        num_workers: processes that load; 0 loads in this one, `auto` chooses by cores and files.
        most: that `auto` chooses.
        unchanged: the files' keys are those of :func:`content_key`; a file of which that changed is unreadable.

    Raises:
        ValueError: for another number of processes than :func:`checked_workers` takes.
    """

    def __init__(
        self, preprocessing: Preprocessing, num_workers: Workers = 0, most: int = MOST_CHOSEN, unchanged: bool = False
    ) -> None:
        self.preprocessing, self.num_workers = preprocessing, checked_workers(num_workers)
        self.most, self.unchanged = most, unchanged

    def __call__(self, files: Mapping[str, Item]) -> Iterator[Loaded | Unreadable]:
        """Yield what each file holds, in order; the keys are their contents."""
        yield from DataLoader(
            Dataset([File(content, item) for content, item in files.items()], transform=self.load),
            batch_size=1,
            num_workers=worker_count(self.num_workers, len(files), self.most),
            collate_fn=_only_element,
        )

    def load(self, file: File) -> Loaded | Unreadable:
        """Return the images of one file."""
        try:
            prepared = self.preprocessing(file.item.copy())
            entries = prepared if isinstance(prepared, list) else [prepared]
            images = [_checked(entry) for entry in entries]
            if self.unchanged and content_key(file.item) != file.content:
                # its pixels would be kept under another content
                raise ValueError("expected a file that stays as it is, found it changed meanwhile")
            return Loaded(file.content, images)
        except Exception as error:  # readers raise what they like
            return Unreadable(file.content, _reason(error, file.item))


def _only_element(batch: list[Loaded | Unreadable]) -> Loaded | Unreadable:
    return batch[0]


def _checked(entry: Prepared) -> LoadedImage:
    image = np.asarray(torch.as_tensor(entry["image"]).cpu())[0]
    if not np.isfinite(image).all():
        raise ValueError("expected finite values, found NaN or infinite ones")
    if image.min() < 0 or image.max() > 1:  # what percentile scaling leaves where nearly all pixels are background
        raise ValueError("expected an object that covers at least 0.5 % of the image, found a smaller one")
    if image.min() == image.max():
        raise ValueError("expected an image, found a constant one")
    level = entry.get("level")
    return LoadedImage(
        image.astype(np.float16), int(entry.get("slice", -1)), float("nan") if level is None else float(level)
    )


def _reason(error: Exception, item: Item) -> str:
    """Return the first line of what went wrong, in words for someone who has only the file."""
    cause: BaseException = error
    while cause.__cause__ is not None:  # MONAI's last exception says only which transform failed
        cause = cause.__cause__
    if not isinstance(cause, (ValueError, OSError)) and expected_cause(cause):
        return sentence(cause)  # the memory ran out
    reason = (str(cause).strip() or type(cause).__name__).splitlines()[0].removeprefix(f"{item['id']}: ")
    return reason if isinstance(cause, ValueError) else f"damaged or of another format: {reason}"


def content_key(item: Item) -> str:
    """Return a hash of all that makes an item's image.

    Of the bytes of its files and of its mask's, of the suffix, which says how it is read, of which part of a file it
    is, of a level that the datalist gives, and of a correction.
    """
    path, part = split_part(item["image"])
    of_file = sha256_of_file if part is None else _hash
    parts = ["".join(map(of_file, files_of(item["image"]))) + Path(path).suffix.lower()]
    parts += [f"part {part}"] if part is not None else []
    parts += ["mask " + "".join(map(sha256_of_file, files_of(item["mask"])))] if "mask" in item else []
    parts += [f"level {item['level']}"] if "level" in item else []
    parts += [repr(item["correction"])] if "correction" in item else []
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


def _hash(path: str) -> str:
    state = os.stat(path)
    return _hash_of(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=256)
def _hash_of(path: str, changed: int, size: int) -> str:
    """Return a file's SHA-256; a stack of samples is read once, not once a sample."""
    return sha256_of_file(path)


class UnreadableFiles:
    """Why files are left out, by content; ends the audit where none may be, or with too many.

    Args:
        files: all files of the data set, by content.
        on_error: `raise` at the first, or `skip`.
        max_skipped: greatest share of the files that `skip` may leave out.
    """

    def __init__(self, files: Mapping[str, Sequence[Item]], on_error: str, max_skipped: float) -> None:
        self.files, self.on_error, self.max_skipped = files, on_error, max_skipped
        self.reasons: dict[str, str] = {}

    def add(self, file: Unreadable) -> None:
        """Note the reason.

        Raises:
            ImageError: where the audit ends with it. A data set of which nothing can be read is left to the caller.
        """
        self.reasons[file.content] = file.reason
        path = self.files[file.content][0]["image"]
        if self.on_error == "raise":
            raise ImageError(
                f"{path}: cannot be audited ({file.reason}); repair or exclude the file, or pass --on_error skip"
            )
        unreadable, total = sum(len(self.files[key]) for key in self.reasons), sum(map(len, self.files.values()))
        if self.max_skipped * total < unreadable < total:
            raise ImageError(
                f"{path}: cannot be audited ({file.reason}), and with it more than {self.max_skipped:.0%} of {total} "
                "files; repair the files or raise max_skipped"
            )
