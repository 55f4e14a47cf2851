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
from helpers import slices
from scripts.similarity.verification import Verifier
from scripts.studies.rivals import SSIM, AlignedSSIM, CalibratedL2, Correlation, Method, SearchMethod

RNG = np.random.default_rng(5)


@pytest.mark.parametrize(
    "method",
    [SSIM(), SSIM("foreground"), Correlation(), CalibratedL2(nearest=3)],
    ids=lambda method: type(method).__name__,
)
def test_pairs_and_matrix_agree(method):
    images = slices().images
    method = method.fit(images)
    matrix = method.matrix(images[:4], images[5:10])
    for i in range(4):
        np.testing.assert_allclose(method.pairs(images[5:10], images[[i] * 5]), matrix[i], rtol=1e-4, atol=1e-5)


def test_l2_keeps_its_digits_between_images_that_are_nearly_alike():
    """By squares in float32 the distance of the nearest image would come from its last digits."""
    references = 0.9 + 1e-4 * RNG.random((60, 32, 40)).astype(np.float32)
    query = references[:1] + 1e-5 * RNG.random((1, 32, 40)).astype(np.float32)
    flat, one = (x.reshape(len(x), -1).astype(float) for x in (references, query))
    distance = np.sort(np.linalg.norm(flat - one, axis=1))
    method = CalibratedL2(nearest=10).fit(references)
    expected = -distance[0] / (0.5 * distance[:10].mean())
    assert method.matrix(query, references).max() == pytest.approx(expected, rel=1e-4)
    assert method.pairs(references[:1], query)[0] == pytest.approx(expected, rel=1e-4)


def test_correlation_is_pearsons():
    a, b = RNG.random((2, 3, 8, 9)).astype(np.float32)
    expected = [np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(a, b)]
    np.testing.assert_allclose(Correlation().pairs(a, b), expected, atol=1e-6)


def test_l2_is_calibrated_on_the_nearest_references():
    references, query = RNG.random((6, 4, 4)).astype(np.float32), RNG.random((1, 4, 4)).astype(np.float32)
    distance = np.sort([np.linalg.norm(query[0] - r) for r in references])
    got = CalibratedL2(nearest=2, alpha=0.5).fit(references).matrix(query, references)
    assert got.max() == pytest.approx(-distance[0] / (0.5 * distance[:2].mean()), rel=1e-4)
    with pytest.raises(ValueError, match="expected fit"):
        CalibratedL2().pairs(query, query)


def test_alignment_sees_through_a_flip():
    image = slices().images[:1]
    assert (
        AlignedSSIM(Verifier()).pairs(image, image[:, ::-1].copy())[0] > 0.95 > SSIM().pairs(image, image[:, ::-1])[0]
    )


def test_fitting_makes_another_method_and_changes_none():
    references, others = RNG.random((2, 6, 4, 4)).astype(np.float32)
    first = CalibratedL2(nearest=2).fit(references)
    before = first.pairs(others[:2], others[2:4])
    assert (first.fit(others).pairs(others[:2], others[2:4]) != before).any()
    np.testing.assert_array_equal(first.pairs(others[:2], others[2:4]), before)


def test_a_method_without_scores_is_none():
    with pytest.raises(TypeError, match="pairs"):
        Method()
    assert not isinstance(AlignedSSIM(Verifier()), SearchMethod)  # far too slow to search with


def test_what_ssim_is_meant_to_equal():
    images = slices().images
    np.testing.assert_allclose(SSIM().truth(images[:3], images[3:6]), SSIM().pairs(images[:3], images[3:6]), atol=1e-6)
    assert Correlation().truth(images[:3], images[3:6]) is None
