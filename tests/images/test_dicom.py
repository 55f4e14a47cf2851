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
from image_files import AXIAL, OBLIQUE, VOXELS, a_slice, write_series
from monai.transforms import Orientation
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from scripts.embedder.embedder import content_key
from scripts.images.datalists import find_images, scan_images
from scripts.images.loading import load_file
from scripts.images.readers import ImageRefused


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE])
def test_a_series_is_the_volume_that_simpleitk_reads(tmp_path, orientation):
    folder = write_series(tmp_path / "a", orientation)
    (item,) = find_images(tmp_path, warn=False)
    assert item["id"] == "a" and item["subject_id"] == "P7" and item["image"] == str(folder)
    image = load_file(item["image"])
    np.testing.assert_array_equal(image[0], VOXELS)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    SimpleITK.WriteImage(reader.Execute(), tmp_path / "itk.nii.gz")
    itk = nibabel.load(tmp_path / "itk.nii.gz")
    turn = Orientation("RAS", labels=None)
    other = load_file(str(tmp_path / "itk.nii.gz"))
    np.testing.assert_array_equal(turn(image), turn(other))
    np.testing.assert_allclose(turn(image).affine, turn(other).affine, atol=1e-4)
    assert itk.shape == VOXELS.shape


def test_several_series_of_a_folder_are_told_apart(tmp_path):
    write_series(tmp_path / "a")
    write_series(tmp_path / "a", SeriesInstanceUID="1.2.4", PatientID="P8", start=10)
    a_slice(VOXELS[..., 0].T, None, Modality="CR", PatientID="P9").save_as(
        tmp_path / "a" / "x", enforce_file_format=True
    )
    (tmp_path / "a" / "Thumbs.db").touch()
    (tmp_path / "a" / "._IM000.dcm").touch()
    found = scan_images(tmp_path)
    # the X-ray has no place in space: an image of its own
    assert {item["id"]: item["subject_id"] for item in found.items} == {"a/x": "P9", "a#1": "P7", "a#2": "P8"}
    assert found.rule.words == "PatientID of the DICOM header" and found.rule.subjects == 3
    assert found.notes == ["a: 2 DICOM series of 7, 7 files", "passed over 1 files that are no images: 1 .db"]
    assert load_file(found.items[0]["image"]).shape == (1, 9, 11, 7)
    assert load_file(found.items[2]["image"]).shape == (1, 9, 11)
    assert len({content_key(item) for item in found.items}) == 3
    assert set(found.items[0]) == {"image", "id", "subject_id"}  # nothing else of the header goes on


def test_a_change_in_any_file_of_a_series_is_seen(tmp_path):
    folder = write_series(tmp_path)
    (item,) = find_images(tmp_path)
    assert item["id"] == "series"
    before = content_key(item)
    a_slice(VOXELS[..., 1].T, np.array([-20.0, 10.0, 5.0])).save_as(folder / "IM000.dcm", enforce_file_format=True)
    assert content_key(item) != before


def refused(path: Path) -> str:
    with pytest.raises(ImageRefused) as error:
        load_file(str(path))
    return str(error.value)


def test_what_is_no_whole_volume_is_refused(tmp_path):
    assert refused(write_series(tmp_path / "gap", skip=(3,))) == (
        "expected slices at equal distances, found 8 mm beside 4 mm; add the missing ones"
    )
    write_series(tmp_path / "twice")
    assert refused(write_series(tmp_path / "twice", start=20)).startswith("expected one slice at each place, found sev")
    write_series(tmp_path / "sizes")
    a_slice(VOXELS[..., 0].T, np.zeros(3), PixelSpacing=[1, 1]).save_as(
        tmp_path / "sizes" / "z", enforce_file_format=True
    )
    assert refused(tmp_path / "sizes").startswith("expected slices of one size and direction, found several")


def test_the_numbers_are_those_of_the_header(tmp_path):
    pixels = VOXELS[..., 0].T
    cases = {
        "plain": ({}, pixels),
        "rescaled": ({"RescaleSlope": 2, "RescaleIntercept": -1000}, 2.0 * pixels - 1000),
        "dark": ({"PhotometricInterpretation": "MONOCHROME1"}, pixels.max() - pixels),
        "padded": ({"PixelPaddingValue": int(pixels.max())}, np.where(pixels == pixels.max(), pixels.min(), pixels)),
    }
    for name, (tags, expected) in cases.items():
        path = tmp_path / f"{name}.dcm"
        a_slice(pixels, None, Modality="CR", **tags).save_as(path, enforce_file_format=True)
        np.testing.assert_array_equal(load_file(str(path))[0], expected.T)


def frames_of(volume: NDArray, step: float = 4.0) -> Dataset:
    data = a_slice(volume.transpose(2, 1, 0).reshape(-1, volume.shape[0]), None)
    data.Rows, data.NumberOfFrames = volume.shape[1], volume.shape[2]
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness, plane.ImageOrientationPatient = [3, 2], 4, list(AXIAL)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    frames = []
    for number in range(volume.shape[2]):
        frame, place, values = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [-20, 10, 5 - step * number]
        values.RescaleSlope, values.RescaleIntercept = number + 1, 0
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [place], [values]
        frames.append(frame)
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = [shared], frames
    return data


def test_a_file_of_many_frames_is_a_volume(tmp_path):
    frames_of(VOXELS).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    (item,) = find_images(tmp_path)
    assert item["id"] == "a.dcm" and item["subject_id"] == "P7"
    image = load_file(item["image"])
    # the last frame is the lowest
    np.testing.assert_array_equal(image[0], (VOXELS * np.arange(1, 8))[..., ::-1])
    np.testing.assert_allclose(image.affine, [[-2, 0, 0, 20], [0, -3, 0, -10], [0, 0, 4, -19], [0, 0, 0, 1]])
    data = frames_of(VOXELS)
    del data.PerFrameFunctionalGroupsSequence
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert refused(tmp_path / "a.dcm").startswith("expected places of 7 frames, found none; save each frame")


PACKAGED = {  # pydicom's own odd files: the shape that is read, or the reason
    "CT_small.dcm": (1, 128, 128, 1),
    "MR_small_bigendian.dcm": (1, 64, 64, 1),
    "MR_small_RLE.dcm": (1, 64, 64, 1),
    "MR_small_implicit.dcm": (1, 64, 64, 1),
    "ExplVR_BigEnd.dcm": (1, 80, 60),
    "SC_rgb_rle.dcm": (1, 100, 100),
    "SC_rgb_dcmtk_+eb+cy+s4.dcm": (1, 100, 100),
    "SC_ybr_full_422_uncompressed.dcm": (1, 100, 100),
    "examples_palette.dcm": (1, 800, 350),
    "MR_truncated.dcm": "damaged or of another format: The number of bytes of pixel data is less than expected",
    "no_meta.dcm": "expected an image, found a DICOM file without pixels",
    "rtplan.dcm": "expected an image, found a DICOM file without pixels",
    "badVR.dcm": "no reader of .dcm files takes it",
    "SC_rgb_rle_2frame.dcm": "expected places of 2 frames, found none",
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of what is odd in them
@pytest.mark.parametrize("name", PACKAGED)
def test_odd_files_are_read_or_refused_with_a_reason(name):
    path, expected = get_testdata_file(name, download=False), PACKAGED[name]
    assert path, "a file that comes with pydicom"
    if isinstance(expected, tuple):
        assert load_file(path).shape == expected
    else:
        assert refused(Path(path)).startswith(expected)


def test_reports_and_segmentations_are_no_images(tmp_path):
    write_series(tmp_path)
    a_slice(VOXELS[..., 0].T, None, Modality="SEG").save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    report = a_slice(VOXELS[..., 0].T, None, Modality="SR")
    del report.Rows, report.PixelData
    report.save_as(tmp_path / "sr.dcm", enforce_file_format=True)
    found = scan_images(tmp_path)
    assert [item["id"] for item in found.items] == ["series"]
    assert "passed over 2 files that are no images: 2 .dcm without an image" in found.notes


def test_a_list_may_name_the_folder_of_a_series(tmp_path):
    write_series(tmp_path / "deep" / "a")
    (tmp_path / "list.csv").write_text("image,subject_id\ndeep/a,someone\n")
    (item,) = find_images(tmp_path / "list.csv")
    assert item["subject_id"] == "someone" and load_file(item["image"]).shape == (1, 9, 11, 7)
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.csv").write_text("image\nempty\n")
    with pytest.raises(FileNotFoundError, match="empty: expected a file, as .* lists it under 'image', found none"):
        find_images(tmp_path / "list.csv")
