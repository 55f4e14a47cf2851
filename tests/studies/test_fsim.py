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
from scripts.studies.fsim import FSIM, features, phase_congruency

NOISE = np.random.default_rng(0).random((2, 3, 96, 112)).astype(np.float32)

# of piqa 1.3.2, whose package asks for torchvision, so that it is no requirement of the tests:
#   x, y = (torch.from_numpy(i).double()[:, None].expand(-1, 3, -1, -1) for i in (first, second))
#   piqa.FSIM(chromatic=False, reduction="none").double()(x, y)
PIQA = {
    "noise": (NOISE[0], NOISE[1], [0.77136431, 0.77234419, 0.77827929]),
    "other subjects": (slices().images[:3], slices().images[5:8], [0.73165038, 0.7275834, 0.72083327]),
    "next slices": (slices().images[:3], slices().images[1:4], [0.96481823, 0.96052976, 0.96422982]),
}


@pytest.mark.parametrize("name", PIQA)
def test_it_is_that_of_another_implementation(name):
    first, second, expected = PIQA[name]
    np.testing.assert_allclose(FSIM().pairs(first, second), expected, atol=3e-5)


def test_an_image_is_most_like_itself_and_order_is_no_matter():
    images, method = slices().images, FSIM()
    matrix = method.matrix(images, images)
    np.testing.assert_allclose(matrix.diagonal(), 1, atol=1e-5)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
    assert matrix.argmax(1).tolist() == list(range(len(images))) and matrix.min() > 0


def test_large_images_are_compared_at_about_256_pixels():
    images = slices(2, 1).images
    for factor, height, width in ((7, 336, 392), (8, 192, 224), (17, 272, 317)):  # as they are, in halves, in thirds
        large = np.kron(images, np.ones((1, factor, factor), np.float32))
        assert features(large).gradient.shape == (2, height * width)


def test_contrast_changes_the_gradient_but_hardly_the_phase():
    """Phase congruency knows no contrast, but for the threshold of its noise, which goes with it."""
    image = 255 * slices().images[:1]
    np.testing.assert_allclose(phase_congruency(image / 4), phase_congruency(image), atol=0.01)
    assert features(image / 1020).gradient.max() == pytest.approx(features(image / 255).gradient.max() / 4, rel=1e-4)


def test_constant_images_show_nothing_that_could_be_alike():
    blank = np.full((2, 32, 40), 0.3, np.float32)
    assert phase_congruency(blank).max() == 0 and FSIM().pairs(blank, blank).tolist() == [0, 0]


def test_images_of_two_sizes_are_an_error():
    with pytest.raises(ValueError, match="one size to compare, found 480 and 512 pixels"):
        FSIM().pairs(NOISE[0, :1, :24, :20], NOISE[0, :1, :32, :16])
