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

"""Which files of a folder are the images to audit, by the layout of the data set that they make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .bids import anatomical, participants, sites
from .companions import without_masks
from .indi import is_indi, without_other_scans
from .rows import Record

__all__ = ["laid_out"]

DECATHLON = "dataset.json"
NOT_OF_PEOPLE = ("participant_id", "image", "mask")  # columns of participants.tsv that say nothing of a person


def laid_out(root: Path, files: Sequence[str], chosen: bool) -> tuple[list[Record], list[str]]:
    """Return a row for each image of a folder, and in words what was left out.

    Of a BIDS data set, or one a site, the anatomical images of one contrast; of INDI's folders the anatomical scans;
    elsewhere all but masks of other images. Images of BIDS data sets have the columns of participants.tsv.

    Args:
        root: the folder.
        files: paths below it, with slashes.
        chosen: by the caller's globs: all files are images.
    """
    if (roots := sites(root, files)) is not None:
        names, note = (list(files), "") if chosen else anatomical(files, roots)
        rows = []
        for top in roots:
            people = participants(root / top)
            for name in (name for name in names if name.startswith(top)):
                person = people.get(name[len(top) :].partition("/")[0], {})
                rows.append({"image": name, **{k: v for k, v in person.items() if k not in NOT_OF_PEOPLE}})
        return rows, [note] if note else []
    if chosen:
        return [{"image": name} for name in files], []
    if is_indi(files):
        names, note = without_other_scans(files)
        names, notes = without_masks(names)
        notes = [note, *notes]
    else:
        names, notes = without_masks(files)
    if (root / DECATHLON).is_file():
        notes.append(f"{DECATHLON} is not used; give its path, not the folder's, to take one of its lists")
    return [{"image": name} for name in names], notes
