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

import re

import nibabel
import numpy as np
import pytest
import torch
from helpers import run_config
from scipy.ndimage import affine_transform, gaussian_filter
from scipy.spatial.transform import Rotation
from scripts.bundle.files import read_table
from scripts.images.foreground import foreground
from scripts.similarity.volumes import align_volumes, start_from_slices
from skimage.metrics import structural_similarity

SHAPE = np.array([22, 48, 56])
SPACING = np.array([4.0, 2.0, 2.0])


def texture(seed: int) -> np.ndarray:
    """A head-like ellipsoid of random texture, background 0, at 4 x 2 x 2 mm."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 6 / SPACING)
    z, x, y = ((np.arange(n) - (n - 1) / 2)[(...,) + (None,) * k] * s for n, s, k in zip(SHAPE, SPACING, (2, 1, 0)))
    inside = (z / 40) ** 2 + (x / 42) ** 2 + (y / 48) ** 2 < 1
    low, high = noise[inside].min(), noise[inside].max()
    return np.where(inside, 0.15 + 0.8 * (noise - low) / (high - low), 0).astype(np.float32)


def moved(volume: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The volume whose points x (mm) come from matrix @ x of the given one."""
    centre = (SHAPE - 1) / 2
    linear = matrix[:, :3] * SPACING[None] / SPACING[:, None]  # in voxels
    offset = centre + matrix[:, 3] / SPACING - linear @ centre
    return affine_transform(volume, linear, offset, order=1)


def motion(degrees=(0.0, 0.0, 0.0), shift=(0.0, 0.0, 0.0), scale=1.0, flip=(1, 1, 1)) -> np.ndarray:
    linear = scale * Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ np.diag(flip)
    return np.column_stack([linear, shift])


@pytest.mark.parametrize(
    "truth",
    [
        motion(),
        motion((8, -4, 3), (3, -2, 4)),
        motion((-5, 6, 8), (0, 5, 0), 0.95),
        motion((4, 0, -6), (2, 2, -3), 1.05, flip=(1, -1, 1)),
    ],
)
def test_known_motions_are_recovered(truth):
    volume = texture(0)
    start = np.column_stack([np.diag(np.sign(np.diag(truth))), np.zeros(3)])
    found = align_volumes(moved(volume, truth) ** 1.3, volume, start, SPACING)
    np.testing.assert_allclose(found.matrix[:, :3], truth[:, :3], atol=0.01)
    np.testing.assert_allclose(found.matrix[:, 3], truth[:, 3], atol=0.5)
    other = align_volumes(moved(volume, truth) ** 1.3, texture(1), start, SPACING)
    assert found.ssim > 0.9 and 1 - found.ssim < 0.2 * (1 - other.ssim)


def test_score_of_a_volume_with_itself_is_one_and_that_of_others_is_scikit_images():
    volume, other = texture(2), texture(3)
    assert align_volumes(volume, volume, motion(), SPACING).ssim == pytest.approx(1, abs=1e-3)
    found = align_volumes(other, volume, motion(), SPACING)
    _, full = structural_similarity(other, found.aligned, data_range=1.0, full=True)
    inside = (foreground(torch.from_numpy(other)) | foreground(torch.from_numpy(found.aligned))).numpy()
    core = (slice(3, -3),) * 3
    assert found.ssim == pytest.approx(full[core][inside[core]].mean(), abs=0.01)


def test_start_is_what_the_slices_say():
    plane = np.array([[0.9, -0.1, 2.0], [0.1, 0.9, -1.0]])
    wrong = np.array([[-0.9, 0.1, 30.0], [0.1, 0.9, 9.0]])  # a slice that was mirrored by mistake
    start = start_from_slices(np.stack([plane] * 5 + [wrong]), np.arange(6), np.arange(6) + 3, (6, 10), SPACING)
    np.testing.assert_allclose(start[1:, 1:3], plane[:, :2])
    np.testing.assert_allclose(start[:, 3], [4.0, 4.0, -2.0])  # one slice up from the centre's; two pixels, one pixel
    assert start[0].tolist() == [1, 0, 0, 4]
    upside_down = start_from_slices(np.stack([plane] * 6), np.arange(6), 9 - np.arange(6), (6, 10), SPACING)
    assert upside_down[0].tolist() == [-1, 0, 0, 8]


def test_volumes_thinner_than_the_window_are_an_error():
    with pytest.raises(ValueError, match=r"at least 7 a side, got \(5, 48, 56\)"):
        align_volumes(texture(0)[:5], texture(0), motion(), SPACING)


@pytest.mark.slow
def test_page_of_an_audit_of_volumes_shows_three_planes_and_the_score_in_3d(tmp_path):
    def write(folder: str, name: str, volume: np.ndarray) -> None:
        (tmp_path / folder).mkdir(exist_ok=True)
        image = nibabel.Nifti1Image(volume.transpose(1, 2, 0), np.diag([2.0, 2, 4, 1]))
        nibabel.save(image, tmp_path / folder / f"{name}.nii.gz")

    for seed in range(12):
        write("train", f"sub-{seed:02d}", texture(seed))
    write(
        "generated", "copy", moved(texture(3), motion((8, 0, 0), (0, 3, -2), flip=(1, -1, 1))) ** 1.3
    )  # turned in plane
    write("generated", "new", texture(50))
    keys = ("--train_dir", "train", "--generated_dir", "generated", "--output_dir", "out", "--control_images", "4")
    keys += ("--volumes", "slices")
    result = run_config("detect.yaml", tmp_path, *keys)
    assert result.returncode == 0, result.stderr
    copy, new = read_table(tmp_path / "out" / "matches.csv")
    assert copy["generated_id"] == "copy.nii.gz" and copy["train_subject"] == "sub-03" and copy["memorized"] == "1"
    assert new["memorized"] == "0"
    page = (tmp_path / "out" / "report.html").read_text()
    score = re.search(r"in 3-D ([0-9.]+)", page)
    assert score is not None and float(score[1]) > 0.8
    figure = page[page.index("<figure") : page.index("in 3-D")]
    assert figure.count("data:image/png") == 3 * 3  # generated, aligned, difference, each in three planes
