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

import json
from pathlib import Path

import pytest
from scripts.images.bids import anatomical, sites
from scripts.images.datalists import find_images, scan_images

# as in the example data sets of the BIDS specification: ds001, ds114 (sessions), ds210, a derivative, field maps
TREE = [
    "sub-01/anat/sub-01_T1w.nii.gz",
    "sub-01/anat/sub-01_inplaneT2.nii.gz",
    "sub-01/func/sub-01_task-balloonanalogrisktask_run-01_bold.nii.gz",
    "sub-02/ses-test/anat/sub-02_ses-test_T1w.nii.gz",
    "sub-02/ses-retest/anat/sub-02_ses-retest_acq-highres_run-2_T1w.nii.gz",
    "sub-02/ses-test/dwi/sub-02_ses-test_dwi.nii.gz",
    "sub-03/anat/sub-03_T1w.nii.gz",
    "sub-03/anat/sub-03_T1w_label-brain_mask.nii.gz",
    "sub-03/anat/sub-03_label-brain_mask.nii.gz",
    "sub-03/fmap/sub-03_phasediff.nii.gz",
    "derivatives/fmriprep/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz",
    "sourcedata/sub-01/anat/sub-01_T1w.nii.gz",
]
T1W = [TREE[0], TREE[4], TREE[3], TREE[6]]


@pytest.fixture
def bids(tmp_path) -> Path:
    for name in TREE:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "dataset_description.json").write_text("{}")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\tsex\nsub-01\t31\tF\nsub-02\tn/a\tM\n")
    return tmp_path


def test_of_a_bids_data_set_the_t1_images_are_taken_and_the_rest_is_listed(bids):
    found = scan_images(bids)
    assert [item["id"] for item in found.items] == T1W
    assert [item["subject_id"] for item in found.items] == ["sub-01", "sub-02", "sub-02", "sub-03"]  # sessions
    assert (found.rule.words, found.rule.subjects) == ("names of BIDS", 3)
    assert found.rule.examples[0] == (TREE[0], "sub-01")
    assert [item.get("age") for item in found.items] == ["31", "n/a", "n/a", None]  # of participants.tsv
    assert found.notes == [
        "a BIDS data set: 4 T1w taken, left out: 1 derivatives, 1 sourcedata, 1 inplaneT2, 1 bold, 1 dwi, "
        "1 of other names, 1 mask, 1 phasediff",
        "passed over 2 files that are no images: 1 .json, 1 .tsv",
    ]


def test_globs_take_what_they_name_of_a_bids_data_set(bids):
    found = find_images(bids, include="*_bold.nii.gz")
    assert [item["id"] for item in found] == [TREE[2]]


def test_without_t1_the_most_frequent_contrast_is_taken():
    names = [f"sub-{n}/anat/sub-{n}_{kind}.nii.gz" for n in range(3) for kind in ("T2w", "dseg") if n or kind == "dseg"]
    assert anatomical(names) == (
        ["sub-1/anat/sub-1_T2w.nii.gz", "sub-2/anat/sub-2_T2w.nii.gz"],
        "a BIDS data set: 2 T2w taken, left out: 3 dseg",
    )
    assert anatomical(["sub-01/x.nii"]) == (["sub-01/x.nii"], "")  # says that it is BIDS, and has no such names


def test_where_no_name_is_an_anatomical_images_what_lies_aside_is_left_out():
    files = ["sub-1/micr/sub-1_sample-A_SEM.png", "stimuli/face.png", "stimuli/house.png", "sourcedata/x.png"]
    assert anatomical(files) == (files[:1], "a BIDS data set, left out: 2 stimuli, 1 sourcedata")
    assert anatomical(files[1:]) == (files[1:], "")  # nothing else is there


def test_of_complex_images_the_magnitude_is_taken():
    files = [f"sub-1/anat/sub-1_part-{part}_T1w.nii.gz" for part in ("mag", "phase")]
    assert anatomical(files) == (files[:1], "a BIDS data set: 1 T1w taken, left out: 1 T1w (phase)")


def test_a_folder_is_bids_only_where_all_of_it_is(tmp_path):
    assert sites(tmp_path, ["sub-01/anat/sub-01_T1w.nii", "derivatives/x.nii"]) == [""]
    assert sites(tmp_path, ["sub-01/anat/sub-01_T1w.nii", "more/x.nii"]) is None
    assert sites(tmp_path, ["sub-01/sub-01_T1w.nii"]) is None and sites(tmp_path, []) is None
    one = ["a/sub-01/anat/sub-01_T1w.nii", "b/sub-02/anat/sub-02_T1w.nii"]
    assert sites(tmp_path, one) == ["a/", "b/"] and sites(tmp_path, [*one, "more/x.nii"]) is None
    assert sites(tmp_path, [*one, "x.nii"]) is None


def named(folder: Path, *names: str) -> tuple[str, list[str]]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    found = scan_images(folder)
    return found.rule.words, [item["subject_id"] for item in found.items]


RULES = {
    "IXI": (["IXI012-HH-1211-T1.nii.gz", "IXI013-HH-1212-T1.nii.gz"], "names of IXI", ["IXI012", "IXI013"]),
    "CoRR": (
        [
            "0025427/session_1/anat_1/anat.nii.gz",
            "0025427/session_2/anat_1/anat.nii.gz",
            "0025428/session_1/anat_1/anat.nii.gz",
        ],
        "names of CoRR",
        ["0025427", "0025427", "0025428"],
    ),
    "MIMIC-CXR": (
        ["files/p10/p10000032/s50414267/a.jpg", "files/p11/p11000011/s1/b.jpg", "files/p11/p11000012/s1/b.jpg"],
        "names of MIMIC-CXR",
        ["p10000032", "p11000011", "p11000012"],
    ),
    "CheXpert": (
        ["train/patient00001/study1/v.jpg", "train/patient00002/study1/v.jpg"],
        "names of CheXpert",
        ["patient00001", "patient00002"],
    ),
    "hospitals": (
        ["hospital1/patient1/a.png", "hospital1/patient2/a.png", "hospital2/patient3/a.png"],
        "the folder",
        ["patient1", "patient2", "patient3"],
    ),
    "epochs": (["checkpoint-1000/a.png", "checkpoint-2000/b.png"], "each file a subject", ["a", "b"]),
    "dates": (["2024-01-01/a.png", "2024-01-02/b.png"], "each file a subject", ["a", "b"]),
    "CoRR below sites": (
        ["BNU_1/0025864/session_1/anat_1/anat.nii.gz", "BNU_1/0025865/session_1/anat_1/anat.nii.gz"],
        "names of CoRR",
        ["0025864", "0025865"],
    ),
    "slices": (
        ["patient003/slice_03.png", "patient003/slice_04.png", "patient010/slice_03.png"],
        "the folder",
        ["patient003", "patient003", "patient010"],
    ),
    "visits": (["visit1/ann.png", "visit2/bob.png"], "each file a subject", ["ann", "bob"]),
    "classes": (["NORMAL/7.png", "COVID/8.png"], "each file a subject", ["8", "7"]),
    "ADNI": (["002_S_0295/x.nii", "002_S_0413/x.nii"], "names of ADNI", ["002_S_0295", "002_S_0413"]),
    "OASIS": (["OAS1_0001_MR1.img", "OAS1_0001_MR2.img"], "names of OASIS", ["OAS1_0001", "OAS1_0001"]),
    "ChestX-ray14": (["00000001_000.png", "00000001_001.png"], "names of ChestX-ray14", ["00000001", "00000001"]),
    "BraTS": (
        ["BraTS-GLI-00005-100/t1n.nii", "BraTS-GLI-00005-101/t1n.nii"],
        "names of BraTS",
        ["BraTS-GLI-00005"] * 2,
    ),
}


@pytest.mark.parametrize("case", RULES)
def test_whose_an_image_is(tmp_path, case):
    names, words, subjects = RULES[case]
    assert named(tmp_path, *names) == (words, subjects)


def test_folders_in_folders_may_both_be_people(tmp_path):
    with pytest.raises(
        ValueError, match="found A01 and in it p1, either of which may be a person; pass subject_pattern"
    ):
        named(tmp_path, "A01/p1/a.png", "A01/p2/a.png", "A02/p3/a.png")
    found = find_images(tmp_path, "^(?:[^/]+/){1}(?P<subject>[^/]+)")
    assert [item["subject_id"] for item in found] == ["p1", "p2", "p3"]


def test_slices_that_folders_group_are_not_people(tmp_path):
    names = [f"{person}/{person}_{n}.png" for person in ("ann", "bob", "cid", "dan", "eve", "fay") for n in (1, 2)]
    with pytest.raises(
        ValueError, match="found ann/ann_1.png and ann/ann_2.png in one of 6 folders, each of which may"
    ):
        named(tmp_path, *names)
    assert len({item["subject_id"] for item in find_images(tmp_path, r"^(?P<subject>[^/]+)")}) == 6
    assert len({item["subject_id"] for item in find_images(tmp_path, r"(?P<subject>[^/]+)[.]")}) == 12


def test_lists_as_other_tools_write_them(tmp_path):
    for name in ("imagesTr/a_1.png", "imagesTr/a_2.png", "imagesTs/a_3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    decathlon = {
        "name": "Task",
        "numTraining": 2,
        "training": [{"image": f"./imagesTr/a_{n}.png", "label": f"./labelsTr/a_{n}.png"} for n in (1, 2)],
        "test": ["./imagesTs/a_3.png"],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(decathlon))
    ids = [item["id"] for item in find_images(tmp_path / "dataset.json", warn=False)]
    assert ids == ["imagesTr/a_1.png", "imagesTr/a_2.png"]
    (other,) = scan_images(tmp_path / "dataset.json", warn=False, section="test").items
    assert other["id"] == "imagesTs/a_3.png"
    with pytest.raises(ValueError, match="expected a list 'validation', found training, test; correct section"):
        scan_images(tmp_path / "dataset.json", section="validation")
    with pytest.raises(ValueError, match="expected a .json datalist with a section 'test', found a folder"):
        scan_images(tmp_path, section="test")
    (tmp_path / "list.csv").write_bytes("\ufeffimage;subject_id\r\nimagesTr\\a_1.png;007\r\n".encode())
    with pytest.raises(ValueError, match="expected a .json datalist with a section 'test', found a table"):
        scan_images(tmp_path / "list.csv", section="test")
    (item,) = find_images(tmp_path / "list.csv")
    assert item["id"] == "imagesTr/a_1.png" and item["subject_id"] == "007"


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.png").touch()
    (tmp_path / "list.csv").write_text("image\n~/scans/a.png\n")
    assert find_images("~/scans", warn=False)[0]["image"] == str(tmp_path / "scans" / "a.png")
    assert find_images("~/list.csv", warn=False)[0]["image"] == str(tmp_path / "scans" / "a.png")
