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

"""How the generated set differs from the training set, in words, with the remedy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..bundle.text import grouped
from ..images.correction import Correction

__all__ = ["ANOTHER_VIEW", "Finding", "OfSize", "SetFit", "findings", "findings_of_size"]


@dataclass(frozen=True)
class Finding:
    """A difference between the sets: what it is, whether the audit undid it, and what to do about it."""

    kind: str
    text: str
    undone: bool
    remedy: str


@dataclass(frozen=True)
class OfSize:
    """The generated files of one size in pixels, where most have another: what was undone on them alone."""

    rows: int
    columns: int
    files: int
    correction: Correction
    fits: bool


@dataclass(frozen=True)
class SetFit:
    """How the generated images fit the training images.

    `correction` is what was undone, `likeness` the generated images' median likeness to the training subjects after
    that, `expected` that of training images to the others', as soft and noisy as the generated ones. `fits` says
    whether the first is near enough to the second. Both are None, and the sets said to fit, where too few exist.
    `mixed` is the share of the generated files that do not fit as the others do; 0 for few. `of_size` are the files of
    other sizes in pixels than most have.
    """

    correction: Correction = Correction()
    likeness: float | None = None
    expected: float | None = None
    fits: bool = True
    findings: list[Finding] = field(default_factory=list)
    mixed: float = 0.0
    of_size: list[OfSize] = field(default_factory=list)


ACROSS = Finding(
    "orientation",
    "the generated images lie across the training images: turned by 90 degrees, or rows and columns swapped",
    True,
    "save both sets in one orientation",
)
INVERTED = Finding(
    "polarity", "the generated images are inverted: bright is dark", True, "save both sets with one polarity"
)
AROUND = Finding(
    "canvas",
    "the generated images show more than their object: a frame, text or a wide canvas",
    True,
    "cut both sets to one canvas and burn nothing in",
)
ANOTHER_VIEW = Finding(
    "view",
    "one set shows less than the other: skull or face removed, or cropped; the volumes are compared where both show "
    "something",
    True,
    "prepare both sets in one way",
)
DIRECTIONS = {"R": "right", "L": "left", "A": "anterior", "P": "posterior", "S": "superior", "I": "inferior"}
UNLIKE = Finding(
    "likeness",
    "the generated images do not resemble the training images as a set",
    False,
    "compare some of both by eye: organ, plane, contrast, field of view, and preparation such as skull stripping",
)


def findings(correction: Correction, fits: bool, mixed: float = 0.0) -> list[Finding]:
    """Return what was undone; or that the sets do not fit, whatever was tried.

    `mixed` is the share of files that lie in another way than the others, 0 for none.
    """
    text = f"about {mixed:.0%} of the generated images lie in another way than the others, or are inverted"
    remedy = "save all generated images in one way: no single correction fits them"
    two_kinds = [Finding("mixed", text, False, remedy)] if mixed else []
    if not fits:
        return [*two_kinds, UNLIKE]
    found = [
        finding
        for finding, undone in (
            (ACROSS, correction.transposed),
            (INVERTED, correction.inverted),
            (AROUND, correction.object_only),
        )
        if undone
    ]
    if correction.axes != "RAS":
        text = (
            "the generated volumes do not lie as their headers say: what these call right, anterior and superior is "
            f"{', '.join(DIRECTIONS[code] for code in correction.axes)}; left and right cannot be told apart"
        )
        found.append(Finding("axes", text, True, "save the volumes with the affine that fits their arrays"))
    if correction.stretch != (1.0, 1.0):
        by = " and ".join(f"{factor:.2f}" for factor in dict.fromkeys(correction.stretch))
        text = f"the objects of the generated images have another size or aspect: they were scaled by {by}"
        found.append(Finding("size", text, True, "save both sets at one resolution, with the right voxel size"))
    return [*found, *two_kinds]


def findings_of_size(some: OfSize) -> list[Finding]:
    """Return the same of the generated images of one size, where most have another."""
    which = f"{grouped(some.files)} generated image{'s'[: some.files > 1]} of {some.rows} x {some.columns} pixels"
    if not some.fits:
        text = f"{which} (rows x columns) resemble{'s'[some.files > 1 :]} no training image, whatever is tried"
        return [Finding("mixed", text, False, "save all generated images in one way, or leave these out")]
    return [replace(found, text=f"of {which} alone: {found.text}") for found in findings(some.correction, True)]
