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

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from monai.transforms import Orientation
from nibabel.affines import apply_affine
from scripts.embedder.embedder import content_key
from scripts.images.datalists import find_images
from scripts.images.loading import load_file
from scripts.images.readers import ImageRefused, doubts_of, files_of

VOXELS = np.random.default_rng(0).integers(0, 900, (9, 11, 13)).astype(np.int16)
AFFINE = np.array([[0, 0, 3, -7], [-2, 0, 0, 11], [0, 2.5, 0, 5], [0, 0, 0, 1.0]])  # axes swapped and mirrored


def as_itk() -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(VOXELS.T)
    lps = np.diag([-1, -1, 1, 1]) @ AFFINE
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(sizes)
    image.SetOrigin(lps[:3, 3])
    image.SetDirection((lps[:3, :3] / sizes).ravel())
    return image


def write_pair(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(VOXELS, AFFINE), path)


FORMATS = {
    "a.nii.gz": lambda path: nibabel.save(nibabel.Nifti1Image(VOXELS, AFFINE), path),
    "b.img": write_pair,
    "c.mgz": lambda path: nibabel.save(nibabel.MGHImage(VOXELS, AFFINE), path),
    "d.mgh": lambda path: nibabel.save(nibabel.MGHImage(VOXELS, AFFINE), path),
    "e.nrrd": lambda path: SimpleITK.WriteImage(as_itk(), path, useCompression=True),
    "f.nhdr": lambda path: SimpleITK.WriteImage(as_itk(), path),
    "g.mha": lambda path: SimpleITK.WriteImage(as_itk(), path),
    "h.mhd": lambda path: SimpleITK.WriteImage(as_itk(), path),
    "UPPER.NII": lambda path: nibabel.save(nibabel.Nifti1Image(VOXELS, AFFINE), path),
}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # nibabel leaves .mgh files open
@pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", FORMATS)
def test_a_volume_is_the_same_in_every_format(tmp_path, name):
    FORMATS[name](tmp_path / name)
    (item,) = find_images(tmp_path, warn=False)
    assert item["id"] == name
    image = load_file(item["image"])
    np.testing.assert_array_equal(image[0], VOXELS)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    ras = Orientation("RAS", labels=None)(image)
    # where a voxel lies in the head, worked out by hand
    place = apply_affine(AFFINE, (1, 2, 3))
    index = np.round(apply_affine(np.linalg.inv(np.asarray(ras.affine)), place)).astype(int)
    assert ras[0][tuple(index)] == VOXELS[1, 2, 3]


@pytest.mark.parametrize("name", ["b.img", "f.nhdr", "h.mhd"])
def test_a_change_of_either_file_of_a_pair_is_seen(tmp_path, name):
    FORMATS[name](tmp_path / name)
    (item,) = find_images(tmp_path, warn=False)
    files = files_of(item["image"])
    assert len(files) == 2
    keys = {content_key(item)}
    for file in files:
        with open(file, "ab") as more:
            more.write(b" ")
        keys.add(content_key(item))
    assert len(keys) == 3


def refused(path: Path) -> str:
    with pytest.raises(ImageRefused) as error:
        load_file(str(path))
    return str(error.value)


def test_a_header_may_not_name_a_file_of_another_folder(tmp_path):
    (tmp_path / "in").mkdir()
    SimpleITK.WriteImage(as_itk(), tmp_path / "in" / "a.mhd")
    (tmp_path / "in" / "a.raw").rename(tmp_path / "a.raw")
    header = tmp_path / "in" / "a.mhd"
    for name in ("../a.raw", str(tmp_path / "a.raw"), "LIST"):
        header.write_text(
            "\n".join(
                line if not line.startswith("ElementDataFile") else f"ElementDataFile = {name}"
                for line in header.read_text().splitlines()
            )
            + "\n"
        )
        assert refused(header).startswith(f"expected its data in one file beside it, found '{name}'"[:60])


def test_colours_and_damage_are_refused(tmp_path):
    rgb = SimpleITK.GetImageFromArray(np.zeros((9, 9, 9, 3), np.uint8), isVector=True)
    SimpleITK.WriteImage(rgb, tmp_path / "a.mha")
    assert refused(tmp_path / "a.mha").startswith("expected one channel and two or three axes, found 3 channels")
    (tmp_path / "b.nrrd").write_bytes(b"NRRD0004\nnothing")
    assert refused(tmp_path / "b.nrrd").startswith("no reader of .nrrd files takes it")


def test_what_a_header_leaves_open_is_said(tmp_path):
    def doubts(sform: np.ndarray | None, qform: np.ndarray | None) -> list[str]:
        image = nibabel.Nifti1Image(VOXELS, None)
        image.set_sform(sform, 0 if sform is None else 1)
        image.set_qform(qform, 0 if qform is None else 1)
        nibabel.save(image, tmp_path / "a.nii")
        return list(doubts_of(tmp_path / "a.nii"))

    mirrored = AFFINE @ np.diag([-1, 1, 1, 1])
    assert doubts(AFFINE, AFFINE) == doubts(AFFINE, None) == doubts(None, AFFINE) == []
    assert doubts(AFFINE, mirrored) == ["sform and qform differ by up to 32 mm; the sform is taken"]
    assert doubts(None, None) == ["its header has no orientation; axes are taken as right to left, back to front, up"]
    nibabel.save(nibabel.AnalyzeImage(VOXELS, AFFINE), tmp_path / "b.img")
    assert doubts_of(tmp_path / "b.img") == ["left and right are not told apart"]
    assert doubts_of(tmp_path / "missing.nii") == []


# offset in the header, what is written there, and what is said; 76: pixdim, 112: scl_slope
ODD = {
    "no size": (84, 0.0, "its header has a voxel size of 0; 1 mm is taken"),
    "a negative size": (80, -2.0, "its header has a voxel size below 0; the sign is left out"),
    "an infinite slope": (112, np.inf, "its header scales values by infinity; they are taken as they are stored"),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("file", ["a.nii", "a.img"])
def test_numbers_of_a_header_that_nibabel_puts_right_are_said(tmp_path, name, file):
    offset, value, said = ODD[name]
    kind = nibabel.Nifti1Image if file == "a.nii" else nibabel.Nifti1Pair
    image = kind(VOXELS, None)
    image.set_qform(np.diag([-2, 2, 3, 1.0]), 1)
    image.set_sform(None, 0)
    nibabel.save(image, tmp_path / file)
    assert doubts_of(tmp_path / file) == []
    header = tmp_path / file.replace(".img", ".hdr")
    content = bytearray(header.read_bytes())
    content[offset : offset + 4] = np.float32(value).tobytes()
    header.write_bytes(content)
    assert doubts_of(tmp_path / file) == [said]
    assert load_file(str(tmp_path / file)).shape == (1, *VOXELS.shape)


def test_numbers_that_are_none(tmp_path):
    image = nibabel.Nifti1Image(VOXELS, AFFINE)
    image.header["scl_slope"] = np.nan  # is no scale, by the standard
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_array_equal(load_file(str(tmp_path / "a.nii"))[0], VOXELS)
    affine = AFFINE.copy()
    affine[0, 1] = np.nan
    broken = nibabel.Nifti1Image(VOXELS, None)
    broken.header["srow_x"], broken.header["sform_code"] = affine[0], 1
    nibabel.save(broken, tmp_path / "b.nii")
    raw = bytearray((tmp_path / "b.nii").read_bytes())
    raw[254:256], raw[280:296] = np.int16(1).tobytes(), affine[0].astype(np.float32).tobytes()
    (tmp_path / "b.nii").write_bytes(raw)
    with pytest.raises(ImageRefused, match="expected an affine that says where the voxels lie, found none"):
        load_file(str(tmp_path / "b.nii"))


def test_axes_that_are_not_at_right_angles_are_said(tmp_path):
    sheared = np.diag([2, 2, 2, 1.0])
    sheared[0, 1] = 0.4
    nibabel.save(nibabel.Nifti1Image(VOXELS, sheared), tmp_path / "a.nii")
    assert doubts_of(tmp_path / "a.nii") == [
        "its axes are not at right angles, which other programs refuse or straighten"
    ]
    image = nibabel.Nifti1Image(VOXELS, sheared)
    image.set_qform(np.diag([-2, 2, 2, 1.0]), 1)
    nibabel.save(image, tmp_path / "b.nii")
    assert len(doubts_of(tmp_path / "b.nii")) == 2  # one does not hide the other


@pytest.mark.parametrize("unit", ["meter", "micron"])
def test_another_unit_than_mm_is_refused(tmp_path, unit):
    image = nibabel.Nifti1Image(VOXELS, AFFINE)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(ImageRefused, match=f"expected a header in mm, found one in units of a {unit}"):
        load_file(str(tmp_path / "a.nii"))
