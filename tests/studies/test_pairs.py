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
from helpers import COPY, slices
from scripts.decision.labels import Label
from scripts.images.augmentations import RandCopyd
from scripts.images.loading import SliceSet
from scripts.similarity.verification import Verifier
from scripts.studies.pairs import DegradedCopies, draw_pairs, duplicate_cap, moved


def test_pairs_are_what_their_labels_say():
    data, verifier = slices(), Verifier()
    copy = RandCopyd("image", elastic=(0.2, 0.5), blur=(0.0, 0.2))
    pairs = draw_pairs(data, 10, DegradedCopies(copy, verifier, 0.6), np.random.RandomState(0))
    assert np.bincount(pairs.label).tolist() == [10, 10, 10]

    def find(image) -> int:
        return int(np.flatnonzero((data.images == image).all((1, 2)))[0])

    for first, second, label, (a, b) in zip(pairs.first, pairs.second, pairs.label, pairs.subject):
        row = find(first)
        assert data.subject[row] == a
        if label == Label.DUPLICATE:
            assert a == b and not (data.images == second).all((1, 2)).any()
            assert verifier.align(second[None], first[None]).aligned_ssim[0] > 0.6
        else:
            other = find(second)
            assert data.subject[other] == b
            distance = abs(data.level[row] - data.level[other])
            assert (a == b and 2 <= distance <= 4) if label == Label.SIMILAR else (a != b and distance <= 2)
    with pytest.raises(ValueError, match="expected copies with an aligned SSIM above 1.000"):
        draw_pairs(data, 2, DegradedCopies(copy, verifier, 1.0), np.random.RandomState(0))
    with pytest.raises(ValueError, match="expected images with a partner for pairs of label similar"):
        draw_pairs(slices(2, 1), 2, DegradedCopies(copy, verifier, 0.5), np.random.RandomState(0))


def test_without_levels_any_other_image_of_a_subject_is_similar():
    data = slices()
    data = SliceSet(data.images, data.subject, np.full(len(data.subject), np.nan))
    pairs = draw_pairs(data, 10, DegradedCopies(RandCopyd("image"), Verifier()), np.random.RandomState(0))
    similar = pairs.label == Label.SIMILAR
    assert (pairs.subject[similar, 0] == pairs.subject[similar, 1]).all()
    assert (pairs.first[similar] != pairs.second[similar]).any((1, 2)).all()
    assert (pairs.subject[pairs.label == Label.DIFFERENT, 0] != pairs.subject[pairs.label == Label.DIFFERENT, 1]).all()


def test_the_cap_is_what_one_in_a_hundred_strangers_reach():
    data, verifier = slices(3, 2), Verifier()
    cap = duplicate_cap(data, verifier, np.random.RandomState(0), 200, 1.0)
    strangers = [
        verifier.align(data.images[[i]], data.images[[j]]).aligned_ssim[0]
        for i in range(6)
        for j in range(6)
        if i // 2 != j // 2 and i % 2 == j % 2
    ]
    assert np.sort(strangers)[-3] <= cap <= max(strangers) + 1e-6
    copies = DegradedCopies(RandCopyd("image", **{**COPY, "elastic": (0.1, 0.3)}), verifier, cap)
    kept = copies(data.images, np.random.RandomState(0))
    assert (verifier.align(kept, data.images).aligned_ssim > cap).all()


def test_equal_seeds_move_alike_and_no_transform_moves_nothing():
    images, blur = slices(2, 2).images, RandCopyd("image", elastic=(1.0, 2.0))
    np.testing.assert_array_equal(moved(images, blur, 3), moved(images, blur, 3))
    assert np.abs(moved(images, blur, 3) - moved(images, blur, 4)).max() > 0.01
    assert moved(images, None, 3) is images
