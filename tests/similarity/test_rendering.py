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
from scripts.similarity.rendering import monotone_gain, render
from sklearn.isotonic import IsotonicRegression
from textures import moved, similarity, textured


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return textured(0)


@pytest.mark.parametrize("exponent", [1.0, 0.5, 2.0])
def test_render_equals_scipy_up_to_the_gain(image, exponent):
    matrix = similarity(7, (2.5, -3.25), 1.04, (1, -1))
    plain = moved(image, matrix, order=1)
    warped, union, _ = render((plain**exponent)[None], image[None], matrix[None])
    # the gain has 32 bins: on the rim, where the power is steep, they are coarse
    assert np.abs(warped[0] - plain**exponent)[plain > 0.15].max() < 0.02
    assert ((plain > 0.3) <= union[0]).all() and not union[0, :4].any()


def test_render_never_inverts_contrast(image):
    inverted = np.where(image > 0, 1.1 - image, 0).astype(np.float32)
    warped, union, _ = render(inverted[None], image[None], np.eye(2, 3)[None])
    order = np.argsort(image[union[0]])
    assert (np.diff(warped[union][order]) >= -1e-6).all()


def test_the_gain_is_an_isotonic_regression():
    """Of values that lie at the centres of the 32 bins, where ours and scikit-learn's are the same function."""
    rng = np.random.default_rng(0)
    warped = ((rng.integers(32, size=(40, 50)) + 0.5) / 32).astype(np.float32)
    query = (warped**2 + 0.2 * rng.normal(size=warped.shape)).astype(np.float32)
    weight = rng.random(warped.shape) < 0.7
    expected = IsotonicRegression().fit(warped[weight], query[weight]).predict(warped[weight])
    got = monotone_gain(query, warped, weight)
    # pools are joined linearly between their centres, so that within one of several bins they differ
    assert np.abs(got[weight] - expected).mean() < 0.03 and np.corrcoef(got[weight], expected)[0, 1] > 0.98
    ordered = got[weight][np.argsort(warped[weight], kind="stable")]
    assert (np.diff(ordered) >= -1e-6).all()


@pytest.mark.parametrize(("contrast", "taken"), [(0.0, False), (0.2, False), (0.3, True)])
def test_a_map_that_flattens_the_reference_is_not_taken(image, contrast, taken):
    """A blank query would be everybody's copy: below a quarter of the contrast the reference stays as it is."""
    query = (0.6 + contrast * (image - 0.5)).astype(np.float32)
    matrix = np.eye(2, 3, dtype=np.float32)[None]
    shown, union, _ = render(query[None], image[None], matrix)
    spread = shown[0][union[0]].std() / image[union[0]].std()
    assert bool(spread < 0.5) is taken


def test_where_nothing_weighs_nothing_changes():
    image = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_allclose(monotone_gain(1 - image, image, np.zeros(image.shape, bool)), image)
