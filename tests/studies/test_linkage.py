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
from scipy.stats import gaussian_kde
from scripts.studies.linkage import Linkage, log_tail, match_histogram, mutual_information, similarities
from scripts.studies.rivals import SearchMethod
from skimage.exposure import match_histograms
from skimage.metrics import normalized_mutual_information

RNG = np.random.default_rng(2)
IMAGES = slices().images


def test_histograms_are_matched_as_scikit_image_does():
    values, wanted = RNG.random(200), RNG.integers(0, 5, 300) / 5
    np.testing.assert_allclose(match_histogram(values, wanted), match_histograms(values, wanted), atol=1e-12)
    assert (np.diff(match_histogram(np.sort(values), RNG.random(70))) >= 0).all()


def test_mutual_information_is_that_of_scikit_image():
    first, second = RNG.random((2, 30, 20))
    for other in (second, first + 0.1 * second, first):
        expected = normalized_mutual_information(first, other, bins=32) - 1
        assert mutual_information(first, other) == pytest.approx(expected, abs=1e-9)
    assert mutual_information(first, first) == pytest.approx(1)
    assert mutual_information(first, second) == pytest.approx(mutual_information(second, first))
    assert mutual_information(np.ones((3, 3)), np.ones((3, 3))) == 0


def test_the_tail_is_that_of_scipys_density():
    null, values = RNG.normal(size=80), np.array([-2.0, 0.0, 2.5])
    density = gaussian_kde(null)
    expected = [np.log(density.integrate_box_1d(value, np.inf)) for value in values]
    np.testing.assert_allclose(log_tail(values, null), expected, rtol=1e-6)
    far = log_tail(np.array([50.0, 60.0]), null)  # where a share would be 0
    assert np.isfinite(far).all() and far[1] < far[0] < -1000
    assert np.isfinite(log_tail(values, np.ones(5))).all()


def test_turning_and_contrast_are_undone():
    moved = np.clip(IMAGES[:4, ::-1] ** 1.4, 0, 1)
    same, other = similarities(IMAGES[:4], moved), similarities(IMAGES[[5, 10, 15, 6]], moved)
    assert same.shape == (4, 3) and same.min() > 0.6 and (same > other).all()
    method = Linkage(unrelated=30).fit(IMAGES)
    assert method.pairs(IMAGES[:4], moved).min() > method.pairs(IMAGES[[5, 10, 15, 6]], moved).max()


def test_blocks_change_no_score(monkeypatch):
    expected = similarities(IMAGES[:5], IMAGES[5:10])
    monkeypatch.setattr("scripts.studies.linkage.BLOCK", 2)
    np.testing.assert_array_equal(similarities(IMAGES[:5], IMAGES[5:10]), expected)


def test_black_images_are_like_none():
    black = np.zeros((1, 48, 56), np.float32)
    assert np.isfinite(similarities(black, IMAGES[:1])).all()
    assert similarities(black, black)[0, 1] == 0
    score = Linkage(unrelated=30).fit(IMAGES).pairs(np.concatenate([black, IMAGES[:1]]), IMAGES[[0, 0]])
    assert score[0] < score[1]


def test_fitting_changes_no_method_and_what_it_needs():
    method = Linkage(unrelated=5)
    fitted = method.fit(IMAGES)
    assert method.null is None and fitted.null.shape == (5, 3)
    np.testing.assert_array_equal(method.fit(IMAGES).null, fitted.null)
    assert not isinstance(method, SearchMethod)  # far too slow to search with
    with pytest.raises(ValueError, match="expected fit"):
        method.pairs(IMAGES[:1], IMAGES[:1])
    with pytest.raises(ValueError, match="unrelated must be at least 2 pairs, for a density, got 1"):
        Linkage(unrelated=1)
    with pytest.raises(ValueError, match="at least 2 training images to make unrelated pairs of, got 1"):
        method.fit(IMAGES[:1])
