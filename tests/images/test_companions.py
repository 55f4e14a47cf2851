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

import fnmatch
from pathlib import Path

import pytest
from scripts.images.companions import contrasts, names_without_contrast, without_masks
from scripts.images.datalists import scan_images

# how public data sets lay out their files: which are masks
LAYOUTS = {
    "BraTS": {
        "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz": False,
        "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t2f.nii.gz": False,
        "BraTS-GLI-00000-000/BraTS-GLI-00000-000-seg.nii.gz": True,
    },
    "Medical Segmentation Decathlon": {
        "imagesTr/BRATS_001.nii.gz": False,
        "imagesTs/BRATS_485.nii.gz": False,
        "labelsTr/BRATS_001.nii.gz": True,
    },
    "nnU-Net": {
        "imagesTr/case_01_0000.nii.gz": False,
        "imagesTr/case_01_0001.nii.gz": False,
        "labelsTr/case_01.nii.gz": True,
    },
    "ACDC": {"patient001/patient001_frame01.nii.gz": False, "patient001/patient001_frame01_gt.nii.gz": True},
    "pairs of pictures": {"image_001.png": False, "mask_001.png": True, "image_002.png": False, "mask_002.png": True},
    "a folder a patient": {"p1/ct.nii.gz": False, "p1/mask.nii.gz": True, "p1/Labels/ct.nii.gz": True},
    "FreeSurfer": {"mri/T1.mgz": False, "mri/aparc+aseg.mgz": True},
    "a mask of a tool": {"p1.png": False, "p1_brain_mask.png": True, "p2.png": False, "p2Mask.png": True},
    "classes, which are no masks": {"label_0_001.png": False, "label_3_002.png": False, "plain_9.png": False},
    "a folder of masks, which are to be audited": {"masks/a.png": False, "masks/b.png": False},
    "words within words": {"masked_1.png": False, "segway_1.png": False, "x_1.png": False},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_mask_is_told_by_its_name_and_its_image(name):
    files = LAYOUTS[name]
    kept, notes = without_masks(list(files))
    assert kept == sorted(file for file, mask in files.items() if not mask)
    masks = [file for file, mask in files.items() if mask]
    said = [f"masks of images left out: {len(masks)}, as {masks[0]}; include takes them"] if masks else []
    assert notes[: len(said)] == said


def test_contrasts_are_counted_where_most_scans_have_several():
    scans = [f"p{n}/p{n}_{kind}.nii.gz" for n in range(3) for kind in ("t1", "FLAIR")]
    assert contrasts([*scans, "p9/p9_t1.nii.gz"]) == {"t1": 4, "flair": 3}
    assert names_without_contrast(scans)["p1/p1_FLAIR.nii.gz"] == "p1"
    channels = [f"imagesTr/case_{n}_000{channel}.nii.gz" for n in range(3) for channel in range(2)]
    assert contrasts(channels) == {"0000": 3, "0001": 3}
    assert names_without_contrast(["p7/t1.nii", "p7/t2.nii"]) == {"p7/t1.nii": "p7", "p7/t2.nii": "p7"}


@pytest.mark.parametrize(
    "files",
    [
        [],
        ["p0_t1.nii.gz", "p1_t1.nii.gz"],  # one contrast
        ["p0_t1.nii.gz", "p0_t2.nii.gz", "p1_t1.nii.gz"],  # of half of the scans
        [f"site_{n}_000{i}.nii.gz" for n in range(3) for i in range(4)],  # numbers of people
        ["a_t1.png", "a_t2.png", "b.png", "c.png", "d.png"],  # most files have none
    ],
)
def test_what_may_mean_something_else_is_no_contrast(files):
    assert contrasts(files) == {} and names_without_contrast(files) == {}


def test_the_glob_of_a_contrast_takes_it_alone():
    files = [f"p{n}_{kind}.nii.gz" for n in range(3) for kind in ("FLAIR", "FLAIR2", "T1ce", "T1")]
    files = [*files, "p7_T1.nii.gz"]
    (note,) = without_masks(files)[1]
    glob = note.rpartition("as '")[2].rstrip("'")
    assert fnmatch.filter(files, glob) == [f"p{n}_T1.nii.gz" for n in (0, 1, 2, 7)]


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_contrasts_of_one_scan_are_one_persons_and_masks_are_left_out_unless_named(tmp_path):
    names = [f"case{n}_{kind}.nii.gz" for n in "ab" for kind in ("t1", "t2", "seg")]
    found = scan_images(touched(tmp_path, *names))
    assert [item["subject_id"] for item in found.items] == ["casea", "casea", "caseb", "caseb"]
    assert found.rule.words == "the file's name without its contrast"
    assert found.notes == [
        "masks of images left out: 2, as casea_seg.nii.gz; include takes them",
        "scans of several contrasts (2 t1, 2 t2), all taken; include takes one, as '*t1.*'",
    ]
    assert [item["id"] for item in scan_images(tmp_path, include="*seg*").items] == [names[2], names[5]]
