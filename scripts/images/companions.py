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

"""Files that belong to others: masks beside their images, and several contrasts of one scan; told by their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

__all__ = ["contrasts", "names_without_contrast", "without_masks"]

MASKS = frozenset(
    "seg segs segm segmentation segmentations dseg mask masks brainmask label labels labelmap gt groundtruth parc "
    "aparc aseg parcellation annotation annotations contour contours".split()
)
MASK_FOLDERS = MASKS | {"labelstr", "labelsts", "labelsval"}  # of nnU-Net and the Medical Segmentation Decathlon
CONTRASTS = frozenset(
    "t1 t1w t1n t1c t1ce t1gd t1post t2 t2w t2f t2star flair pd pdw mra dwi adc swi phase mag ct cbct pet".split()
)
CHANNEL = re.compile(r"000\d")  # of nnU-Net: imagesTr/case_0000.nii.gz, imagesTr/case_0001.nii.gz
CHANNEL_FOLDERS = frozenset({"imagestr", "imagests"})  # elsewhere such a number may count people
SUFFIX = re.compile(r"(?i)(\.nii)?(\.[a-z0-9]{1,5})$")
GLUED = re.compile(r"(?i)(\d)(mask|seg|label)$")  # as in 001Mask.png
MOST = 8  # contrasts of one scan

Words = tuple[str, ...]


def without_masks(files: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the files that are images, and in words which are masks of others, and of what contrasts images are.

    A mask says so by a word of its name or by its folder, and what is left of the name is that of an image here:
    ``p1_seg.nii.gz`` beside ``p1_t1.nii.gz``, ``labelsTr/p1.nii.gz`` beside ``imagesTr/p1_0000.nii.gz``. Without such
    an image it is taken for one, as its name may mean something else.

    Args:
        files: paths below the folder, with slashes.
    """
    marked = {file: _is_marked(file) for file in files}
    images = [file for file in files if not marked[file]]
    names = {_words(file) for file in images}
    beside = {(str(PurePosixPath(file).parent), _words(file)) for file in images}
    starts = {name[:length] for name in names for length in range(1, len(name) + 1)}
    ends = {name[-length:] for name in names for length in range(1, len(name) + 1)}
    folders = {str(PurePosixPath(file).parent) for file in images}

    def has_image(mask: str) -> bool:
        rest = tuple(word for word in _words(mask) if word not in MASKS)
        if not rest:  # mask.nii.gz in the folder of its image
            return str(PurePosixPath(mask).parent) in folders
        if rest in starts or rest in ends:
            return True
        # p1_brain_mask.png beside p1.png
        return any((str(PurePosixPath(mask).parent), rest[:length]) in beside for length in range(1, len(rest)))

    masks = [file for file in files if marked[file] and has_image(file)]
    kept = sorted(set(files) - set(masks))
    notes = [f"masks of images left out: {len(masks)}, as {masks[0]}; include takes them"] if masks else []
    if several := contrasts(kept):
        counts = ", ".join(f"{count} {contrast}" for contrast, count in several.items())
        notes.append(
            f"scans of several contrasts ({counts}), all taken; include takes one, as '{_glob(kept, several)}'"
        )
    return kept, notes


def contrasts(files: Sequence[str]) -> dict[str, int]:
    """Return how many files there are of each contrast, where most scans have several; else nothing.

    A contrast is a word of the name, as in ``p1_t1.nii.gz`` and ``p1_flair.nii.gz``, or nnU-Net's number of a channel.
    """
    found = _contrasts_of(files)
    scans: dict[tuple[str, Words], set[str]] = {}
    for file, (rest, contrast) in found.items():
        scans.setdefault((str(PurePosixPath(file).parent), rest), set()).add(contrast)
    several = sum(1 < len(one) <= MOST for one in scans.values())
    if not scans or 2 * several <= len(scans) or 2 * len(found) < len(files):
        return {}
    return dict(Counter(contrast for _, contrast in found.values()).most_common())


def names_without_contrast(files: Sequence[str]) -> Mapping[str, str]:
    """Return the name, less its suffix and contrast, of each file that has one; nothing where :func:`contrasts` finds
    none."""
    if not contrasts(files):
        return {}
    return {file: "_".join(rest) or PurePosixPath(file).parent.name for file, (rest, _) in _contrasts_of(files).items()}


def _contrasts_of(files: Sequence[str]) -> dict[str, tuple[Words, str]]:
    """Return each file's name without its contrast, and the contrast; only of files that have one."""
    found: dict[str, tuple[Words, str]] = {}
    for file in files:
        words = _words(file)
        named = [word for word in words if word in CONTRASTS]
        if named:
            found[file] = tuple(word for word in words if word != named[-1]), named[-1]
        elif len(words) > 1 and CHANNEL.fullmatch(words[-1]) and _folders(file) & CHANNEL_FOLDERS:
            found[file] = words[:-1], words[-1]
    return found


def _glob(files: Sequence[str], several: Mapping[str, int]) -> str:
    """Return a glob for the most frequent contrast, spelt as in a name, and with what follows: t1 is not t1ce."""
    word = next(iter(several))
    name = next(PurePosixPath(file).name for file in files if word in _words(file))
    spelt = re.search(rf"(?i)(?<![a-z0-9]){word}[^a-z0-9]", name)
    return f"*{spelt[0] if spelt else word}*"


def _is_marked(file: str) -> bool:
    return bool(_folders(file) & MASK_FOLDERS) or not MASKS.isdisjoint(_words(file))


def _folders(file: str) -> set[str]:
    return {folder.lower() for folder in PurePosixPath(file).parts[:-1]}


def _words(file: str) -> Words:
    """Return the words of a file's name in lower case, its suffix left out."""
    stem = GLUED.sub(r"\1_\2", SUFFIX.sub("", PurePosixPath(file).name))
    return tuple(word for word in re.split(r"[^A-Za-z0-9]+", stem.lower()) if word)
