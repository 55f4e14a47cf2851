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

import nibabel
import numpy as np
import pytest
import torch
from helpers import write_volume
from monai.data import MetaTensor
from monai.transforms import Orientation
from PIL import Image
from scipy import ndimage
from scripts.images.correction import AXES, Correctd, Correction, Stretchd, ZeroBackgroundd, axes_matrix, largest_object


def image_of(array: np.ndarray, correction: Correction | None = None) -> dict:
    data = {"image": torch.from_numpy(np.asarray(array, np.float32))[None]}
    return data if correction is None else {**data, "correction": correction}


def test_what_begins_below_zero_begins_at_zero_and_the_rest_stays():
    ramp = np.linspace(-1, 1, 400).reshape(20, 20)
    lifted = ZeroBackgroundd("image")(image_of(ramp))["image"][0].numpy()
    np.testing.assert_allclose(lifted, (ramp - np.sort(ramp, axis=None)[1]).clip(0), atol=1e-6)  # 0.5 % of 400 is two
    for same in (ramp + 1, np.where(np.arange(400).reshape(20, 20) == 7, -0.1, ramp + 1)):  # an undershoot
        np.testing.assert_array_equal(ZeroBackgroundd("image")(image_of(same))["image"][0], np.float32(same))
    empty = {"image": torch.zeros(1, 0, 3)}
    assert ZeroBackgroundd("image")(empty)["image"].shape == (1, 0, 3)


@pytest.mark.parametrize(
    ("saved", "correction"),
    [
        (lambda p: p, Correction()),
        (lambda p: p.T, Correction(transposed=True)),
        (lambda p: p.max() - p, Correction(inverted=True)),
        (lambda p: p.max() - p.T, Correction(transposed=True, inverted=True)),
    ],
)
def test_a_correction_undoes_how_an_image_was_saved(picture, saved, correction):
    correct = Correctd("image")
    np.testing.assert_array_equal(correct(image_of(saved(picture), correction))["image"][0], np.float32(picture))
    np.testing.assert_array_equal(correct(image_of(picture))["image"][0], np.float32(picture))


def test_a_frame_and_text_around_the_object_are_cut_off(picture):
    rows, columns = (np.flatnonzero(largest_object(picture).any(axis)) for axis in (1, 0))
    box = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    framed = np.pad(picture, 12)
    framed[[0, -1]] = framed[:, [0, -1]] = 255
    framed[4:7, 9:30] = 255  # text
    found = Correctd("image")(image_of(framed, Correction(object_only=True)))["image"][0].numpy()
    np.testing.assert_array_equal(found, box)
    small = np.zeros((60, 60))
    small[[0, 1, 2, -3, -2, -1]] = small[:, [0, 1, 2, -3, -2, -1]] = 200  # a frame larger than its object
    small[20:32, 20:30] = 150
    assert largest_object(small)[22:30, 22:28].all() and not largest_object(small)[:8].any()
    nothing = np.zeros((9, 8), np.float32)
    assert not largest_object(nothing).any()
    np.testing.assert_array_equal(
        Correctd("image")(image_of(nothing, Correction(object_only=True)))["image"][0], nothing
    )


def test_the_largest_object_is_the_one_of_scipy_with_its_holes():
    image = np.zeros((60, 60))
    image[5:40, 5:40], image[15:30, 15:30], image[48:56, 48:56] = 1, 0, 1
    found = largest_object(image)
    assert found[10:36, 10:36].all() and not found[44:].any()
    assert ndimage.label(found)[1] == 1


def test_a_stretch_scales_each_axis(picture):
    found = Stretchd("image")(image_of(picture, Correction(stretch=(2.0, 0.5))))["image"]
    assert found.shape == (1, 140, 45)
    smooth = ndimage.gaussian_filter(picture.astype(float), 3)
    twice = Stretchd("image")(image_of(smooth, Correction(stretch=(2.0, 2.0))))["image"][0].numpy()
    np.testing.assert_allclose(twice.reshape(70, 2, 90, 2).mean((1, 3)), smooth, atol=2)
    same = image_of(picture, Correction(inverted=True))
    assert Stretchd("image")(same)["image"] is same["image"]


def test_the_chain_makes_the_same_image_however_the_file_was_saved(chain, picture, tmp_path):
    """Files as PIL writes them: `picture` is (x, y), its file (rows, columns)."""
    plain, turned, framed = (tmp_path / f"{name}.png" for name in ("plain", "turned", "framed"))
    rows = picture.T.astype(np.uint8)
    Image.fromarray(rows).save(plain)
    Image.fromarray(255 - rows.T).save(turned)
    Image.fromarray(np.pad(rows, 3, constant_values=255)).save(framed)
    expected = chain(plain)["image"]
    found = chain(turned, correction=Correction(transposed=True, inverted=True))["image"]
    torch.testing.assert_close(found, expected)
    found = chain(framed, correction=Correction(object_only=True))["image"]
    assert (found - expected).abs().mean() < 0.01


def test_a_volume_of_the_wrong_voxel_size_or_polarity_is_as_the_right_one(chain, tmp_path):
    item = write_volume(tmp_path)
    right = chain(item["image"])
    volume = nibabel.Nifti1Image.from_filename(item["image"])
    array, affine = volume.get_fdata(dtype=np.float32), volume.affine
    nibabel.save(nibabel.Nifti1Image(array.max() - array, affine @ np.diag([0.5, 0.5, 0.5, 1])), tmp_path / "w.nii.gz")
    wrong = chain(tmp_path / "w.nii.gz", correction=Correction(inverted=True, stretch=(2.0, 2.0)))
    assert [slice_["level"] for slice_ in wrong] == [slice_["level"] for slice_ in right]
    for one, other in zip(right, wrong):
        torch.testing.assert_close(one["image"], other["image"], atol=2e-3, rtol=0)


def test_the_input_keeps_its_affine():
    volume = MetaTensor(torch.rand(1, 4, 5, 6), affine=torch.diag(torch.tensor([2.0, 2, 2, 1])))
    for _ in range(2):
        found = Correctd("image")({"image": volume, "correction": Correction(stretch=(3.0, 3.0))})["image"]
        assert found.affine.diag().tolist() == [6, 6, 6, 1] and volume.affine.diag().tolist() == [2, 2, 2, 1]
    assert Correctd("image")(image_of(np.ones((2, 3, 4)), Correction(stretch=(3.0, 3.0))))["image"].affine[0, 0] == 3


@pytest.mark.parametrize("axes", AXES)
def test_a_header_that_is_wrong_about_axes_is_set_right(axes):
    """A volume is written with right axes; its header is then made to say others, as by a lost or guessed affine."""
    lengths = {"R": 4, "A": 5, "S": 6}
    array = torch.rand(1, *lengths.values())
    truth = MetaTensor(array, affine=torch.eye(4))
    wrong = np.eye(4)
    wrong[:3, :3] = np.linalg.inv(axes_matrix(axes))
    volume = MetaTensor(array, affine=torch.as_tensor(wrong))
    found = Correctd("image")({"image": volume, "correction": Correction(axes=axes)})["image"]
    assert nibabel.aff2axcodes(found.affine.numpy()) == ("R", "A", "S")
    torch.testing.assert_close(Orientation("RAS", labels=None)(found), truth)
    # independent of the matrix: nibabel's words for what the header said
    said = nibabel.aff2axcodes(wrong)
    assert {said[i]: "RAS"[i] for i in range(3)} == {
        header if header in said else dict(zip("RASLPI", "LPIRAS"))[header]: (
            real if header in said else dict(zip("RASLPI", "LPIRAS"))[real]
        )
        for header, real in zip("RAS", axes)
    }


def test_the_axes_are_the_24_turns_of_a_cube_the_right_ones_first():
    matrices = [axes_matrix(axes) for axes in AXES]
    assert len(set(AXES)) == 24 and AXES[0] == "RAS"
    assert all(np.linalg.det(matrix) == 1 for matrix in matrices)
    mirrored = {(np.diag([-1, 1, 1]) @ matrix).tobytes() for matrix in matrices}
    assert len(mirrored | {matrix.tobytes() for matrix in matrices}) == 48


def test_changes_are_counted():
    assert Correction().changes == 0
    assert Correction(axes="LPS").changes == 1
    assert Correction(True, True, True, (1.0, 0.9)).changes == 4
