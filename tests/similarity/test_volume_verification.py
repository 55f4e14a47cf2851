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
from heads import FIELD, copy, head
from scripts.images.foreground import foreground
from scripts.similarity.verification import Verifier
from scripts.similarity.volume_deformation import deform_volumes
from scripts.similarity.volume_sampling import resample_volumes
from scripts.similarity.volume_verification import VolumeVerifier
from skimage.metrics import structural_similarity

HEADS = np.stack([head(seed) for seed in range(4)])
ANSWER = np.array([2, 0, 3, 1])


def test_a_copy_that_was_turned_mirrored_and_bent_is_nearer_to_its_source_than_to_anybody():
    copies = np.stack([copy(HEADS[source], 10 + place) for place, source in enumerate(ANSWER)])
    first, second = np.repeat(np.arange(4), 4), np.tile(np.arange(4), 4)
    found = VolumeVerifier().align(copies, HEADS, (first, second))
    score = found.aligned_ssim.reshape(4, 4)
    assert (score.argmax(1) == ANSWER).all()
    own = score[np.arange(4), ANSWER]
    score[np.arange(4), ANSWER] = -1
    assert own.min() > 0.9 and (1 - own).max() < 0.5 * (1 - score.max(1)).min()


def test_the_maps_say_how_a_copy_was_moved():
    matrix = np.column_stack([1.05 * np.diag([-1.0, 1, 1]), [6.0, -4.0, 3.0]])  # mm
    mm = np.full(3, 4.0)
    moved = resample_volumes(HEADS[:1], np.zeros(1, int), matrix[None], FIELD, (mm, mm))
    found = VolumeVerifier(bend=False).align(moved**1.3, HEADS[:1])
    np.testing.assert_allclose(found.matrix[0], matrix, atol=0.25)
    assert found.mirrored.tolist() == [True]


def test_pairs_are_what_each_alone_is_whatever_the_block():
    pairs = (np.array([0, 0, 1]), np.array([1, 2, 0]))
    together = VolumeVerifier(block=2).align(HEADS, HEADS, pairs)
    for place, (query, reference) in enumerate(zip(*pairs)):
        alone = VolumeVerifier().align(HEADS[[query]], HEADS[[reference]])
        for got, expected in zip(together, alone):
            np.testing.assert_allclose(got[place], expected[0], atol=1e-4)


def test_of_several_volumes_of_a_person_the_one_that_was_copied_is_taken():
    copies = np.stack([copy(HEADS[1], 5), copy(HEADS[3], 6)])
    several = np.array([[0, 1], [3, -1]])
    found = VolumeVerifier().align(copies, HEADS, (np.arange(2), several))
    assert found.column.tolist() == [1, 0]
    alone = VolumeVerifier().align(copies, HEADS, (np.arange(2), np.array([1, 3])))
    np.testing.assert_allclose(found.aligned_ssim, alone.aligned_ssim, atol=0.02)


def test_the_score_is_scikit_images_where_both_show_something():
    verifier = VolumeVerifier(smoothing=0.0)
    found = verifier.align(HEADS[:1], HEADS[1:2])
    shown = verifier.show(HEADS[:1], HEADS[1:2], found.matrix)[0]
    _, full = structural_similarity(HEADS[0], shown, data_range=1.0, full=True)
    mm = np.full(3, 4.0)
    lain = resample_volumes(HEADS[1:2], np.zeros(1, int), found.matrix, FIELD, (mm, mm))
    both = (foreground(torch.from_numpy(HEADS[:1]), dims=3) & foreground(torch.from_numpy(lain), dims=3)).numpy()[0]
    core = (slice(3, -3),) * 3
    assert found.aligned_ssim[0] == pytest.approx(full[core][both[core]].mean(), abs=2e-3)


def test_what_only_one_of_two_shows_does_not_count():
    """A head whose lower front was removed, as faces are, is the whole head's copy all the same."""
    defaced = HEADS[:1].copy()
    defaced[:, :, 38:, :16] = 0
    assert VolumeVerifier().align(defaced, HEADS[:1]).aligned_ssim[0] > 0.93


def test_bends_are_undone_but_other_people_stay_other_people():
    bent = np.stack([copy(volume, 3, bend=0.6, turn=0.0) for volume in HEADS[:2]])
    stiff, free = (VolumeVerifier(bend=bend).align(bent[[0, 0]], HEADS[[0, 1]]).aligned_ssim for bend in (False, True))
    assert (1 - free[0]) / (1 - free[1]) < 0.6 * (1 - stiff[0]) / (1 - stiff[1])


def test_detail_is_that_of_the_source_and_not_of_others():
    soft = copy(HEADS[0], 5, bend=0.1)
    verifier = VolumeVerifier()
    found = verifier.align(np.stack([soft, soft]), HEADS[:2])
    same, other = verifier.detail(np.stack([soft, soft]), HEADS[:2], found.matrix)
    assert same > 0.96 > 0.9 > other


def test_empty_volumes_and_none_are_no_error():
    empty = np.zeros((1, *FIELD), np.float32)
    found = VolumeVerifier().align(np.concatenate([empty, HEADS[:1]]), np.concatenate([empty, empty]))
    assert np.isfinite(found.aligned_ssim).all() and found.aligned_ssim[1] < 0.5
    assert [len(part) for part in VolumeVerifier().align(empty[:0], empty[:0])] == [0] * 6


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"smoothing": 21.0}, "smoothing must be 0 to 20 voxels, got 21.0"),
        ({"voxel_mm": 0.0}, "voxel_mm must be positive and block 1 or more, got 0.0 and 64"),
        ({"block": 0}, "voxel_mm must be positive and block 1 or more, got 4.0 and 0"),
    ],
)
def test_arguments_out_of_range_are_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        VolumeVerifier(**arguments)


def test_volumes_of_two_sizes_and_planes_are_an_error():
    with pytest.raises(ValueError, match="of one size"):
        VolumeVerifier().align(HEADS, HEADS[:, :40])
    with pytest.raises(ValueError, match="of one size"):
        VolumeVerifier().align(HEADS[:, 0], HEADS[:, 0])


def test_the_planar_verifier_takes_pairs_too():
    images = HEADS[:, :, :, 20]
    pairs = (np.array([0, 1]), np.array([2, 3]))
    for got, expected in zip(Verifier().align(images, images, pairs), Verifier().align(images[:2], images[2:])):
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_volume_bent_onto_itself_or_without_a_mask_stays_as_it_is():
    inside = HEADS[:1] > 0.1
    np.testing.assert_allclose(deform_volumes(HEADS[:1], HEADS[:1], inside), HEADS[:1], atol=1e-3)
    np.testing.assert_allclose(deform_volumes(HEADS[:1], HEADS[1:2], inside & False), HEADS[1:2], atol=1e-3)


def test_a_known_bend_is_found():
    bent = copy(HEADS[0], 1, bend=0.5, turn=0.0)
    still = np.asarray(bent[None])
    straight = HEADS[:1] if np.abs(bent - HEADS[0]).mean() < np.abs(bent - HEADS[0][::-1]).mean() else HEADS[:1, ::-1]
    straight = np.ascontiguousarray(straight)
    found = deform_volumes(still, straight, straight > 0.1)
    before, after = (np.abs(a - still)[straight > 0.1].mean() for a in (straight, found))
    assert after < 0.6 * before
