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

"""Data sets in the folders that they are distributed in: IXI's T2, and CoRR by INDI and as BIDS; small real files."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scripts.bundle.files import keep_private
from scripts.images.datalists import scan_images
from scripts.images.layouts import laid_out

SITES = {"IPCAS_1": ["0025493", "0025494"], "BNU_1": ["0025864"]}
TILT = np.deg2rad(12)
STRAIGHT = np.eye(3)
OBLIQUE = np.array([[1, 0, 0], [0, np.cos(TILT), -np.sin(TILT)], [0, np.sin(TILT), np.cos(TILT)]])


def write_scan(path: Path, volume: np.ndarray, voxel=(4.0, 4.0, 4.0), turn=STRAIGHT) -> None:
    """Write a head (x, y, z), to the left first, as scanners do, in planes that are turned against the room's."""
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(voxel) @ np.diag([-1, 1, 1])
    affine[:3, 3] = (100, -110, -70)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(volume[::-1].astype(np.int16), affine), path)


@pytest.fixture(scope="module")
def ixi(tmp_path_factory, head):
    """IXI's two contrasts as its archives hold them, T2 of 0.94 x 0.94 x 1.25 mm, coarser here by two, and oblique."""
    folder = tmp_path_factory.mktemp("ixi")
    for person in ("IXI002-Guys-0828", "IXI012-HH-1211"):
        write_scan(folder / "IXI-T1" / f"{person}-T1.nii.gz", head)
        fine = head.repeat(2, 0).repeat(2, 1).repeat(3, 2)
        write_scan(folder / "IXI-T2" / f"{person}-T2.nii.gz", fine, (1.875, 1.875, 1.25), OBLIQUE)
    write_scan(folder / "IXI-T2" / "straight.nii.gz", fine, (1.875, 1.875, 1.25))
    return folder


def test_ixi_t2_is_seen_as_it_lies(ixi):
    found = scan_images(ixi / "IXI-T2", exclude="straight*")
    assert [item["subject_id"] for item in found.items] == ["IXI002", "IXI012"]
    assert found.rule.words == "names of IXI"


def test_t1_and_t2_of_a_person_in_one_folder_are_one_subject(ixi):
    found = scan_images(ixi, exclude="*straight*")
    assert [item["subject_id"] for item in found.items] == ["IXI002", "IXI012", "IXI002", "IXI012"]
    assert found.rule.subjects == 2
    only = scan_images(ixi, include="*-T2.nii.gz")
    assert [item["id"] for item in only.items] == [
        "IXI-T2/IXI002-Guys-0828-T2.nii.gz",
        "IXI-T2/IXI012-HH-1211-T2.nii.gz",
    ]


def test_oblique_and_unequal_voxels_give_the_slices_of_the_planes_that_were_scanned(ixi, chain):
    oblique, straight = chain(ixi / "IXI-T2" / "IXI002-Guys-0828-T2.nii.gz"), chain(ixi / "IXI-T2" / "straight.nii.gz")
    assert len(oblique) == len(straight) > 20
    assert [s["level"] for s in oblique] == [s["level"] for s in straight]
    for one, other in zip(oblique, straight):
        np.testing.assert_allclose(one["image"], other["image"], atol=1e-4)
    shown = np.max([np.asarray(s["image"])[0] for s in oblique], axis=0) > 0.1
    sides = [np.ptp(np.nonzero(shown.any(axis))[0]) + 1 for axis in (1, 0)]
    # 56 x 2 voxels of 1.875 mm, 85 % of them head; 66 x 2, 90 %; pixels of 2 mm
    np.testing.assert_allclose(sides, [0.85 * 56 * 1.875, 0.9 * 66 * 1.875], atol=4)


def test_ixis_archive_is_read_as_it_is(ixi, tmp_path, chain):
    with tarfile.open(tmp_path / "IXI-T2.tar", "w") as archive:
        for path in sorted((ixi / "IXI-T2").glob("IXI*.nii.gz")):
            archive.add(path, path.name)
    found = scan_images(tmp_path)
    assert [item["subject_id"] for item in found.items] == ["IXI002", "IXI012"]
    assert found.items[0]["id"] == "IXI-T2.tar#IXI002-Guys-0828-T2.nii.gz"
    packed, loose = chain(found.items[0]["image"]), chain(ixi / "IXI-T2" / "IXI002-Guys-0828-T2.nii.gz")
    np.testing.assert_array_equal(packed[8]["image"], loose[8]["image"])
    os.umask(
        keep_private([item["image"] for item in found.items])
    )  # of a part the archive counts; the mode is given back


@pytest.fixture
def indi(tmp_path, head):
    """CoRR as INDI distributes it: two sites, two sessions, a second anatomical scan, other scans beside."""
    small = head[::2, ::2, ::2]
    for site, people in SITES.items():
        for person in people:
            for session in (1, 2):
                folder = tmp_path / site / person / f"session_{session}"
                write_scan(folder / "anat_1" / "anat.nii.gz", small)
                write_scan(folder / "rest_1" / "rest.nii.gz", np.stack([small[:9, :9, :9]] * 3, -1))
                (folder / "dti_1").mkdir()
                (folder / "dti_1" / "dti.bval").touch()
    write_scan(tmp_path / "BNU_1" / "0025864" / "session_1" / "anat_2" / "anat.nii.gz", small)
    return tmp_path


def test_of_corr_by_indi_the_anatomical_scans_of_a_person_are_his(indi):
    found = scan_images(indi)
    assert [item["subject_id"] for item in found.items] == ["0025864"] * 3 + ["0025493"] * 2 + ["0025494"] * 2
    assert all(item["image"].endswith("anat.nii.gz") for item in found.items)
    assert "folders as INDI distributes them: 7 anat taken, left out: 6 rest" in found.notes
    first = scan_images(indi, include="*/session_1/anat_*")
    assert [item["subject_id"] for item in first.items] == ["0025864", "0025864", "0025493", "0025494"]
    site = scan_images(indi / "IPCAS_1", include="*/session_1/anat_*")
    assert [item["id"] for item in site.items] == [f"{name}/session_1/anat_1/anat.nii.gz" for name in SITES["IPCAS_1"]]


@pytest.fixture
def bids(tmp_path, head):
    """CoRR as BIDS: a data set a site, side by side, each with its participants, whose rows are sessions."""
    small = head[::2, ::2, ::2]
    for site, people in SITES.items():
        rows = ["participant_id\tsession\tage\tsex"]
        for person in people:
            for session in (1, 2):
                name = f"sub-{person}_ses-{session}"
                folder = tmp_path / site / f"sub-{person}" / f"ses-{session}"
                write_scan(folder / "anat" / f"{name}_run-1_T1w.nii.gz", small)
                write_scan(
                    folder / "func" / f"{name}_task-rest_run-1_bold.nii.gz", np.stack([small[:9, :9, :9]] * 3, -1)
                )
                rows.append(f"{person}\t{session}\t{20 + session}\tF")
        (tmp_path / site / "participants.tsv").write_text("\n".join(rows) + "\n")
        (tmp_path / site / "T1w.json").write_text("{}")
    return tmp_path


def test_of_corr_as_bids_the_t1_scans_of_all_sites_are_taken(bids):
    found = scan_images(bids)
    assert [item["subject_id"] for item in found.items] == [
        f"sub-{p}" for p in ("0025864", "0025493", "0025494") for _ in "12"
    ]
    assert found.rule.words == "names of BIDS"
    assert found.notes[0] == "BIDS data sets of 2 sites: 6 T1w taken, left out: 6 bold"
    assert {item.get("age") for item in found.items} == {"21"}  # of a person's first row


def test_the_first_session_is_chosen_by_a_glob_and_keeps_what_is_known_of_people(bids):
    for folder, count in ((bids, 3), (bids / "IPCAS_1", 2)):
        found = scan_images(folder, include="*_ses-1_*T1w.nii.gz")
        assert len(found.items) == count and all("ses-1" in item["id"] for item in found.items)
        assert {item.get("sex") for item in found.items} == {"F"}


def test_all_that_a_caller_chose_is_an_image(tmp_path):
    files = ["a.nii.gz", "a_seg.nii.gz"]
    assert laid_out(tmp_path, files, chosen=True) == ([{"image": name} for name in files], [])
    assert laid_out(tmp_path, files, chosen=False)[0] == [{"image": "a.nii.gz"}]
