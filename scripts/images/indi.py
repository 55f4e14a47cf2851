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

"""Which files are images where folders lie as INDI distributes them, as CoRR: PERSON/session_1/anat_1/anat.nii.gz."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

__all__ = ["is_indi", "without_other_scans"]

# the Consortium for Reliability and Reproducibility (Zuo et al. 2014), whole or one of its sites: seven digits are a
# person, who may be scanned several times in a session
PLACE = re.compile(r"(?:[^/]+/)*\d{7}/session_\d+/(?P<kind>[A-Za-z0-9]+)_\d+/[^/]+")
ANATOMICAL = "anat"


def is_indi(files: Sequence[str]) -> bool:
    """Return whether all files, paths below a folder, lie as CoRR's do, and some of them are anatomical."""
    kinds = [_kind(file) for file in files]
    return None not in kinds and ANATOMICAL in kinds


def without_other_scans(files: Sequence[str]) -> tuple[list[str], str]:
    """Return the anatomical files, of all sessions, and in words what was left out.

    >>> without_other_scans(["0025493/session_1/anat_1/anat.nii.gz", "0025493/session_1/rest_1/rest.nii.gz"])
    (['0025493/session_1/anat_1/anat.nii.gz'], 'folders as INDI distributes them: 1 anat taken, left out: 1 rest')
    """
    kept = [file for file in files if _kind(file) == ANATOMICAL]
    others = Counter(kind for file in files if (kind := _kind(file)) != ANATOMICAL)
    left = ", ".join(f"{count} {kind}" for kind, count in others.most_common())
    return kept, f"folders as INDI distributes them: {len(kept)} anat taken{f', left out: {left}' if left else ''}"


def _kind(file: str) -> str | None:
    """Return what a file's folder holds, as anat, rest or dti; None where it lies elsewhere."""
    found = PLACE.fullmatch(file)
    return found["kind"] if found else None
