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

from __future__ import annotations

import pytest
from scripts.images.indi import is_indi, without_other_scans

PERSON = "IPCAS_1/0025493/session_{}/{}_1/{}.nii.gz"
TREE = [PERSON.format(n, kind, kind) for n in (1, 2) for kind in ("anat", "rest", "dti")]


def test_of_corrs_folders_the_anatomical_scans_are_taken():
    assert is_indi(TREE)
    assert without_other_scans(TREE) == (
        [TREE[0], TREE[3]],
        "folders as INDI distributes them: 2 anat taken, left out: 2 rest, 2 dti",
    )
    site = [name.removeprefix("IPCAS_1/") for name in TREE]
    assert is_indi(site) and without_other_scans(site)[0] == [site[0], site[3]]


@pytest.mark.parametrize("other", ["more.nii.gz", "0025493/anat_1/anat.nii.gz", "a/25493/session_1/anat_1/anat.nii.gz"])
def test_folders_that_lie_otherwise_are_not_indis(other):
    assert not is_indi([*TREE, other])


def test_without_an_anatomical_scan_nothing_is_chosen():
    assert not is_indi([TREE[1]]) and not is_indi([])
