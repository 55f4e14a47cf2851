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

"""Which files of a BIDS data set are the images: anatomical ones of one contrast, no derivatives, no masks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from .rows import Record, read_rows_without_images

__all__ = ["anatomical", "participants", "sites"]

DESCRIPTION = "dataset_description.json"
NAME = re.compile(r"sub-[A-Za-z0-9]+(?:_[A-Za-z]+-[A-Za-z0-9+]+)*_(?P<suffix>[A-Za-z0-9]+)\.nii(?:\.gz)?")
ASIDE = ("derivatives", "sourcedata", "code", "stimuli")  # folders beside those of the subjects
PHASE = re.compile(r"_part-(phase|real|imag)_")  # of complex images; _part-mag is what one looks at
NO_IMAGES = ("mask", "dseg", "probseg", "defacemask")
FIRST = "T1w"  # which the weights know


def sites(root: Path, files: Sequence[str]) -> list[str] | None:
    """Return where below a folder BIDS data sets begin: ``['']`` for one, ``['BNU_1/', ...]`` for one a site, or None.

    CoRR is distributed as one a site, side by side. A data set says so in ``dataset_description.json``, or its images
    lie in ``sub-*`` and in the folders beside them, some in ``sub-*/[ses-*]/anat``.

    Args:
        files: paths below the root, with slashes.
    """
    if _is_bids(root, files):
        return [""]
    below: dict[str, list[str]] = {}
    for file in files:
        top, _, rest = file.partition("/")
        below.setdefault(top, []).append(rest)
    if below and all(all(rests) and _is_bids(root / top, rests) for top, rests in below.items()):
        return [f"{top}/" for top in sorted(below)]
    return None


def anatomical(files: Sequence[str], roots: Sequence[str] = ("",)) -> tuple[list[str], str]:
    """Return the images of BIDS data sets, paths below the folder, and in words what was left out, if anything.

    Files of ``anat`` of one contrast, the same at all sites: T1w, or where there is none the most frequent one. Where
    no name is that of an anatomical image, all but those of derivatives, stimuli and the like are taken.

    Args:
        files: paths below the folder.
        roots: of :func:`sites`.
    """
    inner = {file: file[len(next(root for root in roots if file.startswith(root))) :] for file in files}
    suffix = {file: _suffix(inner[file]) for file in files}
    counts = Counter(one for one in suffix.values() if one is not None and one not in NO_IMAGES)
    found = "a BIDS data set" if len(roots) == 1 else f"BIDS data sets of {len(roots)} sites"
    if not counts:
        kept = [file for file in files if _top(inner[file]) not in ASIDE]
        aside = Counter(top for top in map(_top, inner.values()) if top in ASIDE)
        note = ", ".join(f"{count} {kind}" for kind, count in aside.most_common())
        return (kept, f"{found}, left out: {note}") if kept and note else (list(files), "")
    chosen = FIRST if FIRST in counts else counts.most_common(1)[0][0]
    kept = [file for file in files if suffix[file] == chosen]
    others = Counter(_kind(inner[file], suffix[file]) for file in files if suffix[file] != chosen)
    left = ", ".join(f"{count} {kind}" for kind, count in others.most_common())
    return kept, f"{found}: {len(kept)} {chosen} taken{f', left out: {left}' if left else ''}"


def participants(root: Path) -> dict[str, Record]:
    """Return the rows of participants.tsv by participant_id, ``sub-0025493``; none where there is no such file.

    CoRR's tables leave ``sub-`` out, and some have a row a session, of which the first counts.
    """
    path = root / "participants.tsv"
    found: dict[str, Record] = {}
    for row in read_rows_without_images(path) if path.is_file() else []:
        if name := str(row.get("participant_id", "")):
            found.setdefault(name if name.startswith("sub-") else f"sub-{name}", row)
    return found


def _is_bids(root: Path, files: Sequence[str]) -> bool:
    if (root / DESCRIPTION).is_file():
        return True
    tops = {file.partition("/")[0] for file in files}
    ours = all(top in ASIDE or top.startswith("sub-") for top in tops)
    return ours and any(_suffix(file) is not None for file in files)


def _suffix(file: str) -> str | None:
    """Return the contrast of an anatomical file, None of any other."""
    path = PurePosixPath(file)
    found = NAME.fullmatch(path.name)
    if found is None or path.parent.name != "anat" or path.parts[0] in ASIDE or not path.parts[0].startswith("sub-"):
        return None
    return None if PHASE.search(path.name) else found["suffix"]


def _top(file: str) -> str:
    return PurePosixPath(file).parts[0]


def _kind(file: str, suffix: str | None) -> str:
    path = PurePosixPath(file)
    if path.parts[0] in ASIDE:
        return path.parts[0]
    found = NAME.fullmatch(path.name)
    part = PHASE.search(path.name)
    return suffix or (f"{found['suffix']}{f' ({part[1]})' if part else ''}" if found else "of other names")
