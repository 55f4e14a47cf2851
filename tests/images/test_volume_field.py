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
from heads import FIELD, head, write_heads
from monai.data import MetaTensor
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from scripts import component
from scripts.images.datalists import find_images
from scripts.images.slices import ShrinkToFitd
from scripts.images.volume_field import VolumeFieldd, whole_volumes

CONFIGS = ["configs/inference.yaml", "configs/inference_3d.yaml"]


def on_field(volume: np.ndarray, mm: float = 4.0, size=FIELD) -> np.ndarray:
    image = MetaTensor(torch.from_numpy(volume[None]), affine=torch.diag(torch.tensor([mm, mm, mm, 1.0])))
    return VolumeFieldd("image", size, 4.0)({"image": image, "id": "x"})["image"].numpy()[0]


def test_the_field_begins_above_the_object_and_lies_about_its_middle():
    volume = np.zeros((60, 70, 60), np.float32)
    volume[10:40, 20:60, 5:45] = 1
    volume[10:25] *= 0.9  # two tissues
    got = on_field(volume)
    shown = [np.flatnonzero(got.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    assert got.shape == FIELD
    for axis, size in ((0, 30), (1, 40)):
        low, high = shown[axis][0], FIELD[axis] - 1 - shown[axis][-1]
        assert abs(low - high) <= 1 and len(shown[axis]) == size
    assert FIELD[2] - 1 - shown[2][-1] in (2, 3)  # voxels above the top; what is too far down is cut off


def test_a_volume_smaller_than_the_field_is_padded():
    volume = np.zeros((20, 20, 12), np.float32)
    volume[4:16, 4:16, 2:10] = 1
    volume[4:10] *= 0.9  # two tissues
    assert on_field(volume).sum() == pytest.approx(volume.sum())


def test_small_voxels_are_averaged_not_skipped():
    rng = np.random.default_rng(0)
    volume = np.zeros((96, 112, 80), np.float32)
    volume[16:80, 16:96, 10:70] = rng.uniform(0.5, 1, (64, 80, 60))
    inside = on_field(volume, 2.0)[14:34, 16:40, 14:30]
    assert inside.std() < 0.4 * volume[20:60, 20:60, 20:60].std()


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "AIL", "SRA"])
def test_all_orientations_of_one_volume_give_one_image(codes, tmp_path, in_root):
    volume = head(3)
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    affine = np.diag([4.0, 4, 4, 1]) @ inv_ornt_aff(turn, volume.shape)
    nibabel.save(nibabel.Nifti1Image(apply_orientation(volume, turn), affine), tmp_path / "a.nii.gz")
    write_heads(tmp_path, {"b": volume})
    chain = component(CONFIGS, "preprocessing")
    first, second = (chain(item)["image"] for item in find_images(tmp_path, warn=False))
    torch.testing.assert_close(first, second, atol=1e-4, rtol=0)


def test_longer_voxels_than_asked_for_are_refused():
    image = MetaTensor(torch.from_numpy(head(1)[None]), affine=torch.diag(torch.tensor([2.0, 4.0, 6.0, 1.0])))
    with pytest.raises(ValueError, match="x: expected voxels of at most 5 mm, found 6 mm; take a finer scan"):
        VolumeFieldd("image", FIELD, 4.0, most_mm=5.0)({"image": image, "id": "x"})
    assert VolumeFieldd("image", FIELD, 4.0, most_mm=6.0)({"image": image, "id": "x"})["image"].shape == (1, *FIELD)


@pytest.mark.parametrize("mm", [1.0, 2.0, 4.0])
def test_a_volume_without_structure_is_refused(mm):
    """Constant volumes of finer voxels, and masks, were called likenesses of somebody."""
    sides = [round(160 / mm)] * 3
    place = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in sides], indexing="ij"))
    ball = 5 * ((place**2).sum(0) < 0.6).astype(np.float32)
    with pytest.raises(ValueError, match=r"x: the volume shows no object \(all voxels alike\)"):
        on_field(np.full(sides, 5.0, np.float32), mm)
    with pytest.raises(ValueError, match="x: expected a scan, found a volume whose object has the value 5 everywhere"):
        on_field(ball, mm)
    ball[sides[0] // 2 :] *= 0.98  # two tissues, if hardly
    assert on_field(ball, mm).max() > 0


def test_planes_empty_volumes_and_several_channels_are_one_sentence():
    with pytest.raises(ValueError, match="x: expected a volume, found a plane of 30 x 40 x 1 voxels"):
        on_field(np.ones((30, 40, 1), np.float32))
    with pytest.raises(ValueError, match=r"x: the volume shows no object \(all voxels alike\)"):
        on_field(np.zeros((30, 40, 30), np.float32))
    two = MetaTensor(torch.ones((2, 9, 9, 9)))
    with pytest.raises(ValueError, match="expected a volume of one channel, found 2"):
        VolumeFieldd("image", FIELD, 4.0)({"image": two, "id": "x"})


class Files:
    array_layout = array_key = None

    def __init__(self, **folders) -> None:
        self.folders = folders

    def items(self):
        return {name: find_images(folder, warn=False) for name, folder in self.folders.items()}


def test_volumes_are_taken_whole_where_all_sets_hold_some(tmp_path):
    volumes = write_heads(tmp_path / "volumes", {"a": head(0)[::2, ::2, ::2]}, 8.0)
    thin = write_heads(tmp_path / "thin", {"a": head(0)[:, :, 10:14]})
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    np.save(pictures / "a.npy", head(0)[:, :, 20])
    assert whole_volumes("auto", Files(train=volumes, generated=volumes))
    for other in (thin, pictures):
        assert not whole_volumes("auto", Files(train=volumes, generated=other))
        assert whole_volumes("whole", Files(train=volumes, generated=other))
    assert not whole_volumes("auto", Files(train=volumes, generated=volumes), own_choice=True)
    assert not whole_volumes("slices", Files(train=volumes, generated=volumes))
    assert not whole_volumes("auto", Files(train=volumes, generated=volumes), planar="flat")
    with pytest.raises(
        ValueError, match="volumes: expected auto or slices, as network flat embeds images, found whole"
    ):
        whole_volumes("whole", Files(train=volumes, generated=volumes), planar="flat")
    (volumes / "a.nii.gz").write_bytes(b"no volume")
    assert not whole_volumes("auto", Files(train=volumes, generated=volumes))
    with pytest.raises(ValueError, match="volumes must be auto, whole or slices, got 'all'"):
        whole_volumes("all", Files(train=volumes))


def test_one_picture_among_volumes_is_told(tmp_path, caplog):
    volumes = write_heads(tmp_path / "volumes", {"a": head(0)[::2, ::2, ::2]}, 8.0)
    mixed = write_heads(tmp_path / "mixed", {"a": head(0)[::2, ::2, ::2]}, 8.0)
    np.save(mixed / "b.npy", head(0)[:, :, 20])
    assert whole_volumes("auto", Files(train=volumes, generated=volumes)) and not caplog.records
    assert not whole_volumes("auto", Files(train=volumes, generated=mixed))
    (said,) = caplog.messages
    assert said.startswith("generated holds volumes, as a.nii.gz, and other files, as b.npy: all volumes are cut into")


def test_a_field_of_two_sides_and_slices_of_three_are_an_error():
    with pytest.raises(ValueError, match=r"spatial_size: expected three sides for whole volumes, found \[96, 112\]"):
        VolumeFieldd("image", (96, 112), 2.0)
    with pytest.raises(ValueError, match=r"spatial_size: expected two sides for planar images, found \[48, 56, 40\]"):
        ShrinkToFitd("image", FIELD)
