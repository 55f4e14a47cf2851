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

import numpy as np
import pytest
import torch
from helpers import ROOT, grey_picture, reference_image, save_volume
from scripts.bundle.components import component
from scripts.images.slices import AxialSlicesd, PerDimensionalityd, PlanarSliced, ShrinkToFitd


def reason(caught) -> str:
    """The sentence below MONAI's exceptions, which say only which transform failed."""
    error = caught.value
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


def test_slices_of_a_volume_are_the_worked_out_ones(chain, head, tmp_path):
    slices = chain(save_volume(tmp_path / "a.nii.gz", head), group="g")
    steps = np.arange(len(slices))
    assert len(slices) > 5
    assert [s["level"] for s in slices] == (12.0 + 4 * steps).tolist()
    assert [s["slice"] for s in slices] == (slices[0]["slice"] - 2 * steps).tolist()
    for s in slices:
        assert s["id"] == f"scan#z={s['slice']}" and s["group"] == "g"
        assert type(s["image"]) is torch.Tensor and s["image"].dtype == torch.float32
        np.testing.assert_allclose(s["image"], reference_image(head[..., s["slice"]])[None], atol=1e-4)


@pytest.mark.parametrize("axcodes", ["LPS", "PSR", "IRP"])
def test_orientation_of_the_file_does_not_matter(chain, head, tmp_path, axcodes):
    expected = chain(save_volume(tmp_path / "ras.nii", head))
    got = chain(save_volume(tmp_path / "other.nii.gz", head, axcodes=axcodes))
    assert [s["slice"] for s in got] == [s["slice"] for s in expected]
    for a, b in zip(got, expected):
        torch.testing.assert_close(a["image"], b["image"])


@pytest.mark.parametrize(("factors", "voxel"), [((2, 2, 2), (1, 1, 1)), ((1, 2, 3), (2, 1, 2 / 3))])
def test_other_voxel_sizes_are_resampled_to_two_millimetres(chain, head, tmp_path, factors, voxel):
    expected = chain(save_volume(tmp_path / "a.nii", head))
    fine = head
    for axis, factor in enumerate(factors):
        fine = fine.repeat(factor, axis)
    got = chain(save_volume(tmp_path / "b.nii", fine, voxel))
    assert [s["level"] for s in got] == [s["level"] for s in expected]
    for a, b in zip(got, expected):
        assert abs(a["slice"] - b["slice"]) <= 1
        assert a["image"].shape == (1, 96, 112)
        assert torch.corrcoef(torch.stack([a["image"].ravel(), b["image"].ravel()]))[0, 1] > 0.98


def test_spacing_levels_and_least_area_choose_the_slices():
    volume = torch.zeros(1, 30, 30, 60)  # 1 mm; unit affine
    volume[:, 5:25, 5:25, 10:50] = 1
    volume[:, 15:] *= 0.99  # two tissues
    # above a tenth, the 3 x 3 x 3 mean is one voxel wider, without its corners: 4.8 cm2 at the ends, 4.84 from 11 to 48

    def cut(**conditions):
        return [(s["slice"], s["level"]) for s in AxialSlicesd("image", **conditions)({"image": volume})]

    assert cut(spacing=7, levels=(3, 24), min_foreground=1) == [(47, 3), (40, 10), (33, 17), (26, 24)]
    assert cut(spacing=10, levels=(0, 200), min_foreground=4.7) == [(50, 0), (40, 10), (30, 20), (20, 30), (10, 40)]
    assert cut(spacing=10, levels=(0, 200), min_foreground=4.82) == [(40, 10), (30, 20), (20, 30)]
    with pytest.raises(ValueError, match="no slice between 0 and 200 mm below the top has 5 cm2 of foreground; lower"):
        cut(levels=(0, 200), min_foreground=5)
    for wrong in ({"spacing": 0}, {"levels": (9, 8)}):
        with pytest.raises(ValueError, match="min_foreground must be 0 or more, got -1"):
            cut(min_foreground=-1)
        with pytest.raises(ValueError, match="spacing must be positive and levels ascending, got"):
            cut(**wrong)


def test_the_object_is_the_largest_part_with_its_holes():
    volume = torch.zeros(1, 30, 30, 40)
    volume[:, 5:25, 5:25, 5:25] = 1
    volume[:, 8:22, 8:22, 5:25] = 0  # a tube: 4 cm2 with the hole, 2 without
    volume[:, 26:29, 26:29, 34:37] = 3  # brighter and above, but small: not the top
    slices = AxialSlicesd("image", spacing=5, levels=(5, 10), min_foreground=4)({"image": volume, "id": "v"})
    assert [(s["id"], s["level"]) for s in slices] == [("v#z=20", 5), ("v#z=15", 10)]


@pytest.mark.parametrize("value", [0, -3])
def test_a_volume_without_an_object_is_an_error(chain, tmp_path, value):
    with pytest.raises(RuntimeError) as caught:
        chain(save_volume(tmp_path / "none.nii", np.full((40, 50, 45), value, np.float32)))
    assert "the volume shows no object (all voxels alike)" in reason(caught)


def test_a_mask_takes_everything_outside_away(chain, head, tmp_path):
    brain = np.zeros_like(head)
    brain[12:40, 15:55, 5:45] = 1
    path, mask = save_volume(tmp_path / "a.nii", head), save_volume(tmp_path / "mask.nii", brain)
    masked = component(ROOT / "configs" / "inference.yaml", "preprocessing", min_foreground=20)(
        {"image": str(path), "mask": str(mask), "id": "scan"}
    )
    for s in masked:
        assert "mask" not in s
        np.testing.assert_allclose(s["image"], reference_image((head * brain)[..., s["slice"]])[None], atol=1e-4)


def test_a_picture_larger_than_the_frame_is_shrunk_by_its_frame(chain, picture, tmp_path):
    frame = np.zeros((128, 128), int)
    frame[20:90, 30:120] = picture
    expected = reference_image(frame)
    for factor in (1, 2, 3):  # averaging over blocks of equal pixels gives the original back
        grey_picture(frame.repeat(factor, 0).repeat(factor, 1)).save(tmp_path / f"{factor}.png")
        np.testing.assert_allclose(chain(tmp_path / f"{factor}.png")["image"][0], expected, atol=1e-6)
    noise = torch.rand((1, 40, 64), generator=torch.Generator().manual_seed(0))
    wide = PlanarSliced("image", frame=32)({"image": noise, "level": "17.5"})
    torch.testing.assert_close(wide["image"].as_tensor(), noise.reshape(1, 20, 2, 32, 2).mean((2, 4)))
    assert wide["level"] == 17.5


def test_volumes_and_planes_take_their_own_path_and_nothing_else_passes():
    path = PerDimensionalityd("image", planar=[lambda d: "planar"], volume=[lambda d: "volume"])
    shapes = {(1, 4, 5): "planar", (1, 4, 5, 6): "volume", (1, 4, 5, 1): "volume"}
    assert {shape: path({"image": torch.zeros(shape)}) for shape in shapes} == shapes
    for shape in ((1, 4), (1, 4, 5, 6, 7)):
        with pytest.raises(ValueError, match="expected a 2-D image or a 3-D volume, found shape"):
            path({"image": torch.zeros(shape)})


@pytest.mark.parametrize(
    ("shape", "expected"), [((128, 128), (96, 96)), ((60, 200), (34, 112)), ((96, 112), (96, 112)), ((300, 1), (96, 1))]
)
def test_only_what_does_not_fit_is_scaled(shape, expected):
    y = torch.linspace(0, 1, shape[0])[None, :, None].expand(1, *shape)
    got = ShrinkToFitd("image", (96, 112))({"image": y, "id": "a"})
    assert got["image"].shape == (1, *expected) and got["id"] == "a"
    assert ShrinkToFitd("image", (96, 112))({"image": y, "slice": 3})["image"].shape == y.shape  # of a volume
    rows = torch.as_tensor(got["image"])[0].mean(1)
    assert (rows.diff() > 0).all() and rows.mean() == pytest.approx(0.5, abs=1e-4)  # a ramp stays one
