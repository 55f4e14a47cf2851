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

"""How paths name people: the names of known data sets, and folders that are somebody's."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..bundle.limits import time_limit

__all__ = ["SUBJECT_PATTERNS", "depth_of_people", "known_subject", "search_subject", "without_visit"]

SLOWEST = 5.0  # seconds that a pattern may search one name

# tried in this order when no pattern is given: how data sets name their people
SUBJECT_PATTERNS = {
    "names of BIDS": r"(?P<subject>sub-[A-Za-z0-9]+)",
    "names of IXI": r"(?P<subject>IXI\d{3})",
    "names of ADNI": r"(?<!\d)(?P<subject>\d{3}_S_\d{4,5})(?!\d)",
    "names of OASIS": r"(?P<subject>OAS[1-3]\d?_?\d{4})",
    "names of BraTS": r"(?P<subject>BraTS-[A-Za-z]+-\d{5})",
    "names of CoRR": r"(?:^|/)(?P<subject>\d{7})/session_\d+/",
    "names of MIMIC-CXR": r"(?:^|/)(?P<subject>p\d{8})/s\d+",
    "names of CheXpert": r"(?:^|/)(?P<subject>patient\d{5})/study",
    "names of ChestX-ray14": r"(?:^|/)(?P<subject>\d{8})_\d{3}[.]png$",
}

# words, then a number, that name a folder of something else than a person
NOBODY = re.compile(
    r"(?i)(ses(sion)?|scan|visit|run|anat|acq|rec|slices?|series|images?|imgs?|epoch|fold|batch|time(point)?|tp|day|week"
    r"|month|year|level|class|label|site|cent(er|re)|scanner|part|shard|chunk|group|set|seed|exp(eriment)?|version|v|t"
    r"|x|y|z|ds|data(set)?|samples?|train(ing)?|test|val(idation)?|hospital|clinic|vendor|field|grade|stage|age|birads|bi-rads|score"
    r"|checkpoint|ckpt|steps?|iter(ation)?s?|gpu|rank|node|worker|cfg|guidance|model|timesteps?|inference|lr|seed|temp"
    r"|(19|20)\d\d|[\d.]{12,})[-_ .=]?[\d.e+-]*$"
    r"|^\d$"  # of folders 0 to 9 most are classes
)
# what follows a person's name where a folder is one visit
VISIT = re.compile(
    r"(?i)[-_ .](ses(sion)?|visit|scan|run|tp|time(point)?|day|week|month|year|v|t)[-_]?\d+$"
    r"|[-_ .](19|20)\d\d[-_.]?\d\d[-_.]?\d\d$"
)


def known_subject(image_id: str, pattern: str | None = None) -> str | None:
    """Return what one of `SUBJECT_PATTERNS`, or the first of them that finds something, finds in a path."""
    # no limit of time, which costs more than these searches
    for known in SUBJECT_PATTERNS.values() if pattern is None else (pattern,):
        if found := re.search(known, image_id):
            return found["subject"]
    return None


def search_subject(pattern: str, image_id: str) -> str | None:
    """Return what the group `subject` of a pattern finds in a path, None for nothing.

    Raises:
        ValueError: if the search takes too long.
    """
    with time_limit(
        SLOWEST,
        f"subject_pattern: expected a regular expression that searches a name within {SLOWEST:g} s, found "
        f"{pattern!r}, which takes longer for {image_id}; take one without a repetition inside a repetition",
    ):
        found = re.search(pattern, image_id)
    return found["subject"] if found else None


def depth_of_people(image_ids: Sequence[str], source: str | os.PathLike) -> int | None:
    """Return the level of the folders that are named after people, None if there is none.

    Their names have a number and are not those of visits, scans, classes or sites, and there are several.

    Raises:
        ValueError: where two levels may be people's, and group the images differently, or a name stands in several
            folders.
    """
    parents = [Path(image_id).parent.parts for image_id in image_ids]
    levels = []
    for depth in range(min(map(len, parents), default=0)):
        names = {folders[depth] for folders in parents}
        if 1 < len(names) and all(re.search(r"\d", name) and not NOBODY.match(name) for name in names):
            levels.append(depth)
    groups = {len({folders[: depth + 1] for folders in parents}) for depth in levels}
    if len(groups) > 1:
        first, second = (parents[0][depth] for depth in (levels[0], levels[-1]))
        raise ValueError(
            f"{source}: expected folders that say whose images they hold, found {first} and in it {second}, either of "
            f"which may be a person; pass subject_pattern, as '^(?:[^/]+/){{{levels[-1]}}}(?P<subject>[^/]+)' for the "
            "inner one"
        )
    if not levels:
        return None
    places: dict[str, tuple[str, ...]] = {}
    for folders in parents:
        other = places.setdefault(folders[levels[0]], folders[: levels[0]])
        if other != folders[: levels[0]]:  # counted anew at each site, or seen at several visits
            name, depth = folders[levels[0]], levels[0]
            raise ValueError(
                f"{source}: expected folders that say whose images they hold, found {'/'.join([*other, name])} and "
                f"{'/'.join([*folders[:depth], name])}, which may be one person or two; pass subject_pattern, "
                f"'^(?:[^/]+/){{{depth}}}(?P<subject>[^/]+)' for one or '^(?P<subject>(?:[^/]+/){{{depth}}}[^/]+)' for "
                "two"
            )
    return levels[0]


def without_visit(names: Sequence[str]) -> list[str]:
    """Return folders' names without the visit that some end with, as P1_ses2 and P1_2020-01-31."""
    return [VISIT.sub("", name) or name for name in names]
