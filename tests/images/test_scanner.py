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

"""The simulated scanner: one scan a person, the order of what is shown, a barrel worked out by hand."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
from helpers import ROOT, write_volume
from monai.data import MetaTensor
from monai.transforms import Compose, RandGaussianNoised
from scripts import component
from scripts.images.scanner import Barreld, SeededBySubjectd

CONFIGS = [ROOT / "configs" / "planted_copies.yaml", ROOT / "configs" / "planted_scanner.yaml"]
SCANNERS = ("t1_other", "t2_like")


@pytest.mark.parametrize("scanner", SCANNERS)
def test_a_persons_scan_is_the_same_at_each_reading_and_nobody_elses(tmp_path, scanner):
    item = write_volume(tmp_path)
    acquisition = component(CONFIGS, "acquisition", scanner=scanner)
    first = acquisition(dict(item))["image"]
    other = acquisition({**item, "subject_id": "other"})["image"]
    assert torch.equal(acquisition(dict(item))["image"], first)
    assert torch.equal(component(CONFIGS, "acquisition", scanner=scanner)(dict(item))["image"], first)
    assert not torch.allclose(other, first)
    another_visit = component(CONFIGS, "acquisition", scanner=scanner, scanner_seed=1)
    assert not torch.allclose(another_visit(dict(item))["image"], first)


def test_the_scan_lies_where_the_person_lay_and_the_mask_with_it(tmp_path):
    item = write_volume(tmp_path)
    whole = nibabel.load(item["image"])
    ball = (whole.get_fdata() > 0).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(7 * ball, whole.affine), tmp_path / "mask.nii.gz")  # a region's number
    scan = component(CONFIGS, "acquisition")({**item, "mask": str(tmp_path / "mask.nii.gz")})
    assert scan["image"].shape == scan["mask"].shape
    assert torch.equal(scan["image"].affine, scan["mask"].affine)
    mask, shown = np.asarray(scan["mask"]), np.asarray(scan["image"]) > 350  # about half of what the ball shows
    assert set(np.unique(mask)) == {0, 1}
    assert abs(mask.sum() / ball.sum() - 1) < 0.1
    assert (shown & (mask > 0)).sum() > 0.95 * max(shown.sum(), mask.sum())


def test_gain_and_window_keep_the_order_of_what_lies_within():
    values = torch.linspace(0, 1.5, 4 * 5 * 6).reshape(1, 4, 5, 6)
    display = Compose(component(CONFIGS, "display"))
    for seed in range(5):
        display.set_random_state(seed)
        shown = np.asarray(display({"image": values.clone()})["image"]).ravel()
        within = (shown > 0) & (shown < 1000)
        assert within.sum() > 50
        assert (np.diff(shown[within]) > 0).all() and (np.diff(shown) >= 0).all()


def test_t1_other_keeps_the_order_of_tissues_and_t2_like_shows_fluid_brightest():
    contrasts = {scanner: component(CONFIGS, "one", scanner=scanner)["contrast"] for scanner in SCANNERS}
    assert (np.diff(contrasts["t1_other"]["shown"]) > 0).all()
    volume = MetaTensor(torch.linspace(0, 1, 101).reshape(1, 101, 1, 1))
    tissue = Compose(component(CONFIGS, "tissue", scanner="t2_like")[1:])
    shown = tissue({"image": volume})["image"]
    air, fluid, grey, white = (float(shown[0, number, 0, 0]) for number in (0, 25, 60, 80))
    assert air == 0 and fluid == 1 and fluid > grey > white > 0
    assert torch.equal(shown.affine, volume.affine)


def test_a_barrel_by_hand():
    line = torch.arange(11.0).expand(1, 3, 11)  # the value is the place, 5 at the centre
    shown = Barreld("image", strength=0.1, radius=5)({"image": line})["image"][0, 1]
    assert shown[5] == 5
    # 4 voxels out it shows what lies at 4 (1 + 0.1 * 16 / 25)
    assert shown[9] == pytest.approx(5 + 4 * 1.064, abs=1e-5)
    assert shown[1] == pytest.approx(5 - 4 * 1.064, abs=1e-5)


def test_no_barrel_changes_nothing_and_keeps_the_affine():
    volume = MetaTensor(torch.rand(1, 4, 5, 6), affine=torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])))
    shown = Barreld(["image", "mask"], 0.0, 5.0, allow_missing_keys=True)({"image": volume})["image"]
    assert torch.allclose(shown, volume, atol=1e-6)
    assert torch.equal(shown.affine, volume.affine)


def test_draws_follow_from_the_name_and_the_seed():
    image = torch.zeros(1, 4, 4)
    noise = [RandGaussianNoised("image", prob=1.0)]
    first, again, other = (
        SeededBySubjectd(noise, seed)({"image": image.clone(), "subject_id": "a"})["image"] for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_dict_without_a_person_is_refused():
    with pytest.raises(ValueError, match="expected a subject_id"):
        SeededBySubjectd([])({"id": "a.nii", "image": torch.zeros(1, 4, 4)})
