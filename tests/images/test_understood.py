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

"""What each row of the table of docs/inputs.md is taken for."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers import ROOT
from image_files import SAMPLES, write_series, write_tar
from PIL import Image
from scripts.images.datalists import scan_images
from scripts.images.understood import Understood, understand


def pictures(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(SAMPLES[0]).save(folder / name)
    return folder


def volumes(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        values = np.arange(8 * 9 * 10, dtype=np.int16).reshape(8, 9, 10)
        nibabel.save(nibabel.Nifti1Image(values, np.diag([-2, 2, 3, 1])), folder / name)
    return folder


def stack(folder: Path) -> Path:
    np.save(folder / "samples.npy", SAMPLES[:, None] / 127.5 - 1)
    return folder


def shard(folder: Path) -> Path:
    write_tar(folder / "shard-000.tar", SAMPLES)
    return folder


def decathlon(folder: Path) -> Path:
    pictures(folder, "a.png", "b.png", "c.png")
    rows = {"training": [{"image": "a.png"}, {"image": "./b.png"}], "test": ["c.png"]}
    (folder / "dataset.json").write_text(json.dumps(rows))
    return folder / "dataset.json"


def dicom(folder: Path) -> Path:
    write_series(folder / "one")
    write_series(folder / "two", PatientID="P8", SeriesInstanceUID="1.2.9")
    return folder


def medmnist(folder: Path) -> Path:
    np.savez(folder / "medmnist.npz", train_images=SAMPLES, test_images=SAMPLES // 2, train_labels=np.zeros((5, 1)))
    return folder


def anonymous(folder: Path) -> Path:
    write_series(folder / "one", PatientID="ANON")
    write_series(folder / "two", PatientID="ANON", SeriesInstanceUID="1.2.9")
    return folder


def masked_shard(folder: Path) -> Path:
    with tarfile.open(folder / "shard.tar", "w") as archive:
        for name in ("000.image.png", "000.mask.png", "001.image.png", "001.mask.png"):
            content = io.BytesIO()
            Image.fromarray(SAMPLES[0]).save(content, "png")
            entry = tarfile.TarInfo(name)
            entry.size = content.tell()
            archive.addfile(entry, io.BytesIO(content.getvalue()))
    return folder


def smooth_pages(folder: Path) -> Path:
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, side) for side in (30, 42, 20)), indexing="ij")
    pages = [Image.fromarray(page) for page in (100 * (1 + x - y * z)).astype(np.uint8).transpose(2, 1, 0)]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    return folder


PLANAR = "planar, 42 x 30 pixels (rows x columns)"
VOLUME = "volumes, 8 x 9 x 10 voxels of 2 x 2 x 3 mm, axes LAS"
# how the files are made; what is said of files, subjects and notes
ROWS: dict[str, tuple[Callable[[Path], Path], str, str, int, list[str]]] = {
    "pictures": (lambda f: pictures(f, "a.png", "b.jpg"), f"1 .png, 1 .jpg; {PLANAR}", "each file a subject", 2, []),
    "volumes": (
        lambda f: volumes(f, "a.nii.gz", "b.nii"),
        f"1 .nii.gz, 1 .nii; {VOLUME}; values 0 to 719",
        "each file a subject",
        2,
        [],
    ),
    "DICOM": (
        dicom,
        "2 DICOM; volumes, 9 x 11 x 7 voxels of 2 x 3 x 4 mm, axes LPS; values ",
        "PatientID of the DICOM header",
        2,
        ["one: 1 DICOM series of 7 files", "two: 1 DICOM series of 7 files"],
    ),
    "BIDS": (
        lambda f: volumes(f, "sub-1/anat/sub-1_T1w.nii.gz", "sub-1/func/sub-1_task-x_bold.nii.gz"),
        f"1 .nii.gz; {VOLUME}; values 0 to 719",
        "names of BIDS",
        1,
        ["a BIDS data set: 1 T1w taken, left out: 1 bold"],
    ),
    "samples": (
        stack,
        f"5 of .npy stacks; {PLANAR}; values -1 to 1",
        "each file a subject",
        5,
        ["samples.npy: 5 images, N x C x H x W = 5 x 1 x 42 x 30"],
    ),
    "WebDataset": (shard, f"5 of .tar stacks; {PLANAR}", "each file a subject", 5, ["shard-000.tar: 5 images"]),
    "Decathlon": (
        decathlon,
        f"2 .png; {PLANAR}",
        "each file a subject",
        2,
        ["section training taken, left out: 1 of test"],
    ),
    "several arrays, by array_key": (
        medmnist,
        f"5 of .npz stacks; {PLANAR}",
        "each file a subject",
        5,
        ["medmnist.npz: 5 images, N x H x W = 5 x 42 x 30"],
    ),
    "masks beside images": (
        lambda f: volumes(f, "p1_t1.nii", "p1_seg.nii", "p1_flair.nii"),
        f"2 .nii; {VOLUME}",
        "the file's name without its contrast",
        1,
        [
            "masks of images left out: 1, as p1_seg.nii; include takes them",
            "scans of several contrasts (1 flair, 1 t1), all taken; include takes one, as '*flair.*'",
        ],
    ),
    "DICOM of one PatientID for all": (
        anonymous,
        "2 DICOM; volumes",
        "each file a subject",
        2,
        [
            "one: 1 DICOM series of 7 files",
            "two: 1 DICOM series of 7 files",
            "PatientID, one of all images, ANON, was not used",
        ],
    ),
    "masks in an archive": (
        masked_shard,
        f"2 of .tar stacks; {PLANAR}",
        "each file a subject",
        2,
        ["shard.tar: masks of images left out: 2, as 000.mask.png; include takes them", "shard.tar: 2 images"],
    ),
    "a folder with its Decathlon list": (
        lambda f: decathlon(f).parent,
        f"3 .png; {PLANAR}",
        "each file a subject",
        3,
        [
            "dataset.json is not used; give its path, not the folder's, to take one of its lists",
            "passed over 1 files that are no images: 1 .json",
        ],
    ),
    "a folder a visit": (
        lambda f: pictures(f, "P0_ses1/a.png", "P0_ses2/a.png", "P1_2020-01-31/a.png"),
        f"3 .png; {PLANAR}",
        "the folder, less its visit",
        2,
        [],
    ),
    "pages that are slices": (
        smooth_pages,
        "1 .tif; volumes, 30 x 42 x 20 voxels of 1 x 1 x 1 mm, axes RAS",
        "each file a subject",
        1,
        [],
    ),
    "folders": (
        lambda f: pictures(f, "patient3/slice_1.png", "patient4/slice_1.png"),
        f"2 .png; {PLANAR}",
        "the folder",
        2,
        [],
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_what_is_said_of_each_kind_of_input(tmp_path, row):
    make, words, rule, subjects, notes = ROWS[row]
    key = "train_images" if make is medmnist else None
    found = scan_images(make(tmp_path), array_key=key)
    seen = understand(found, real=True, array_key=key)
    assert seen.words.startswith(words), seen.words
    assert (seen.rule, found.rule.subjects, seen.notes) == (rule, subjects, notes)
    assert seen.examples[0] == [found.items[0]["id"], found.items[0]["subject_id"]]
    assert understand(found, real=False).rule == ""
    hidden = repr(seen.hidden())
    assert not any(item["id"] in hidden or item["image"] in hidden for item in found.items)


def test_what_headers_leave_open_is_counted(tmp_path):
    volumes(tmp_path, "a.nii", "b.nii")
    for name in ("a.nii", "b.nii"):
        image = nibabel.load(tmp_path / name)
        image.set_sform(None, 0)
        image.set_qform(None, 0)
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), None, image.header), tmp_path / name)
    doubt = "its header has no orientation; axes are taken as right to left, back to front, up"
    assert understand(scan_images(tmp_path, warn=False), real=True).doubts == {doubt: 2}


def test_files_that_cannot_be_read_are_left_to_the_audit(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert understand(scan_images(tmp_path, warn=False), real=False) == Understood(formats={".png": 1})


def test_one_file_of_each_format_is_looked_at(tmp_path):
    pictures(tmp_path, *(f"{number}.png" for number in range(50)))
    volumes(tmp_path, "9.nii")
    words = understand(scan_images(tmp_path), real=True).words
    assert words.startswith(f"50 .png, 1 .nii; {PLANAR} or {VOLUME}, of 7 that were looked at; values 0 to 7")


def test_many_kinds_are_said_in_a_few_words():
    seen = Understood({".png": 9, ".tif": 1, ".npy": 1, ".jpg": 1}, {"a": 3, "b": 1, "c": 1, "d": 1}, (0.0, 1e6))
    assert seen.words == "9 .png, 1 .tif, 1 .npy; a or b and 2 other kinds, of 6 that were looked at; values 0 to 1e+06"


def test_the_rows_of_the_readme_are_those_of_the_page():
    rows = {
        page: [
            line
            for line in (ROOT / page)
            .read_text()
            .split("| what you have | what to type |")[1]
            .split("\n\n")[0]
            .splitlines()
            if line.startswith("| ")
        ]
        for page in ("README.md", "docs/inputs.md")
    }
    assert len(rows["README.md"]) == 10 and set(rows["README.md"]) < set(rows["docs/inputs.md"])
