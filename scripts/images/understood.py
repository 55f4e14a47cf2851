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

"""What the files of a data set were taken for, in words: the first thing that a reader of an audit should check."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from monai.data import MetaTensor
from nibabel.affines import voxel_sizes
from nibabel.orientations import aff2axcodes

from ..bundle.text import grouped
from .datalists import FoundImages
from .loading import load_file
from .readers import doubts_of, split_part, suffix_of

__all__ = ["Understood", "understand"]

LOOKED_AT = 6  # files that are read
HEADERS = 200  # files whose headers are read


@dataclass(frozen=True)
class Understood:
    """What the files of a data set were taken for.

    Attributes:
        formats: files by format, as ``.png``.
        looks: what those that were looked at are, in words, and how many are so.
        values: least and largest value in these, None where none could be read.
        rule: by which subjects are told; empty where it does not matter.
        examples: up to two of an image and its subject.
        notes: what files were taken for and which were left out.
        doubts: what headers leave open, and how many.
    """

    formats: dict[str, int] = field(default_factory=dict)
    looks: dict[str, int] = field(default_factory=dict)
    values: tuple[float, float] | None = None
    rule: str = ""
    examples: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    doubts: dict[str, int] = field(default_factory=dict)

    def hidden(self) -> Understood:
        """Return the same without names of people and files."""
        return replace(self, examples=[], notes=[])

    @property
    def words(self) -> str:
        """The files and what they show, in a few words."""
        files = ", ".join(f"{grouped(count)} {suffix}" for suffix, count in Counter(self.formats).most_common(3))
        looks = [look for look, _ in Counter(self.looks).most_common(2)]
        seen, total = sum(self.looks.values()), sum(self.formats.values())
        of = f", of {seen} that were looked at" if looks and seen < total else ""
        more = f" and {len(self.looks) - 2} other kinds" if len(self.looks) > 2 else ""
        values = [f"values {self.values[0]:.4g} to {self.values[1]:.4g}"] if self.values else []
        return "; ".join([files, *([" or ".join(looks) + more + of] if looks else []), *values])


def understand(
    found: FoundImages, real: bool, array_layout: str | None = None, array_key: str | Sequence[str] | None = None
) -> Understood:
    """Return what the files of a data set were taken for.

    Args:
        found: the images.
        real: their subjects matter.
        array_layout, array_key: what the axes of arrays are, and which array is meant; None: found out.

    Cost: six files are read, one at least of each format, and up to two hundred headers.
    """
    items = found.items
    looks: Counter[str] = Counter()
    low, high = np.inf, -np.inf
    first = {_format(item["image"]): number for number, item in reversed(list(enumerate(items)))}  # of each format
    spread = np.linspace(0, len(items) - 1, LOOKED_AT).round().astype(int).tolist()
    for number in sorted({*spread, *first.values()}):
        with contextlib.suppress(Exception):  # readers raise what they like; the audit says which file and why
            image = load_file(items[number]["image"], array_layout, array_key)
            looks[_look(image)] += 1
            low, high = min(low, float(image.min())), max(high, float(image.max()))
    sample = np.unique(np.linspace(0, len(items) - 1, HEADERS).round().astype(int)).tolist()
    doubts = Counter(doubt for number in sample for doubt in doubts_of(items[number]["image"]))
    return Understood(
        formats=dict(Counter(_format(item["image"]) for item in items).most_common()),
        looks=dict(looks.most_common()),
        values=(low, high) if np.isfinite([low, high]).all() else None,
        rule=found.rule.words if real else "",
        examples=[list(example) for example in found.rule.examples] if real else [],
        notes=found.notes,
        doubts=dict(doubts.most_common()),
    )


def _look(image: MetaTensor) -> str:
    """Return what an image (1, H, W) or (1, X, Y, Z) is; rows and columns as a viewer shows them."""
    shape = tuple(image.shape[1:])
    if len(shape) == 2:
        return f"planar, {shape[1]} x {shape[0]} pixels (rows x columns)"
    affine = np.asarray(image.affine, float)
    size, voxels = (" x ".join(f"{side:.3g}" for side in sides) for sides in (shape, voxel_sizes(affine)))
    return f"volumes, {size} voxels of {voxels} mm, axes {''.join(str(code) for code in aff2axcodes(affine))}"


def _format(image: str) -> str:
    path, part = split_part(image)
    suffix = suffix_of(path)
    if suffix is None:  # a series, or a file that is known by its mark
        return "DICOM"
    return suffix if part is None else f"of {suffix} stacks"
