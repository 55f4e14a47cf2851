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
from scripts.similarity.rendering import MOST_SHADING, SHRINKAGE, fit_gains, monotone_gain, render
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import Ridge
from textures import moved, similarity, textured


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return textured(0)


@pytest.mark.parametrize("exponent", [1.0, 0.5, 2.0])
def test_render_equals_scipy_up_to_the_gain(image, exponent):
    matrix = similarity(7, (2.5, -3.25), 1.04, (1, -1))
    plain = moved(image, matrix, order=1)
    warped, union = render((plain**exponent)[None], image[None], matrix[None])
    # the gain has 32 bins: on the rim, where the power is steep, they are coarse
    assert np.abs(warped[0] - plain**exponent)[plain > 0.15].max() < 0.03
    assert ((plain > 0.3) <= union[0]).all() and not union[0, :4].any()


def test_render_never_inverts_contrast(image):
    inverted = np.where(image > 0, 1.1 - image, 0).astype(np.float32)
    warped, union = render(inverted[None], image[None], np.eye(2, 3)[None], shading=False)
    order = np.argsort(image[union[0]])
    assert (np.diff(warped[union][order]) >= -1e-6).all()
    shaded, _ = render(inverted[None], image[None], np.eye(2, 3)[None])
    assert abs(np.corrcoef(shaded[union], inverted[union[0]])[0, 1]) < 0.5


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
    shown, union = render(query[None], image[None], matrix)
    spread = shown[0][union[0]].std() / image[union[0]].std()
    assert bool(spread < 0.5) is taken


def test_where_nothing_weighs_nothing_changes():
    image = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_allclose(monotone_gain(1 - image, image, np.zeros(image.shape, bool)), image)


def places(shape):
    """Rows and columns of pixels, from -1 to 1."""
    return np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")


@pytest.mark.parametrize("share", [(0.2, -0.15, 0.1, 0.05, -0.1), (0.0,) * 5, (-0.1, 0.0, 0.0, 0.2, 0.15)])
def test_shading_of_the_second_degree_is_undone(image, share):
    y, x = places(image.shape)
    factor = 1 + sum(a * b for a, b in zip(share, (x, y, x * x, x * y, y * y)))
    query = (0.7 * image * factor).astype(np.float32)
    union = image > 0.2
    plain, shaded = (fit_gains(query[None], image[None], union[None], shading)[0] for shading in (False, True))
    errors = [np.abs(found - query)[union].mean() for found in (plain, shaded)]
    assert errors[1] < 0.01
    assert not any(share) or errors[1] < 0.5 * errors[0]


def test_the_shading_is_a_ridge_regression():
    """Of an image on its query's contrast already, but for noise, against scikit-learn's."""
    rng = np.random.default_rng(0)
    image = ((rng.integers(32, size=(40, 50)) + 0.5) / 32).astype(np.float32)
    y, x = places(image.shape)
    query = (image * (1 + 0.2 * x - 0.1 * y * y) + 0.05 * rng.normal(size=image.shape)).astype(np.float32)
    union = rng.random(image.shape) < 0.8
    mapped = fit_gains(query[None], image[None], union[None])[0]
    terms = np.stack([mapped * a for a in (x, y, x * x, x * y, y * y)])[:, union].T
    power = float((mapped[union].astype(float) ** 2).sum())
    ridge = Ridge(SHRINKAGE * power, fit_intercept=False).fit(terms, (query - mapped)[union])
    factor = 1 + sum(a * b for a, b in zip(ridge.coef_, (x, y, x * x, x * y, y * y)))
    expected = np.where(union, mapped * factor.clip(1 / MOST_SHADING, MOST_SHADING), mapped).astype(np.float32)
    expected = monotone_gain(query, expected, union)
    found = fit_gains(query[None], image[None], union[None], shading=True)[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_shading_is_limited_and_leaves_a_flat_query_alone(image):
    union = image > 0.2
    y, _ = places(image.shape)
    steep = (image * np.where(y > 0, 1.0, 0.05)).astype(np.float32)
    found = fit_gains(steep[None], image[None], union[None], shading=True)[0]
    assert np.isfinite(found).all() and found.min() >= 0
    blank = np.full_like(image, 0.4)
    np.testing.assert_array_equal(fit_gains(blank[None], image[None], union[None], shading=True)[0], image)
