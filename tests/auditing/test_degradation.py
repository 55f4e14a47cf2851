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

import dataclasses

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion, gaussian_filter
from scripts.auditing.degradation import BAND_SIGMAS, Degradation, RoundTrip, band_energies, match_degradation
from scripts.images.foreground import foreground
from skimage.filters import difference_of_gaussians

SHAPE = (64, 80)
INSIDE = np.hypot(*np.meshgrid(np.linspace(-1.2, 1.2, 64), np.linspace(-1.2, 1.2, 80), indexing="ij")) < 1


def generator() -> np.random.RandomState:
    return np.random.RandomState(0)


def textured(count: int, seed: int) -> np.ndarray:
    """Texture of several scales inside an ellipse, background 0."""
    noise = np.random.default_rng(seed).normal(size=(count, *SHAPE))
    texture = sum(s * gaussian_filter(noise, (0, s, s)) for s in (0.8, 2, 5))
    texture = 0.5 + 0.12 * texture / texture[:, INSIDE].std()
    return np.where(INSIDE, texture.clip(0.1, 1), 0).astype(np.float32)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return textured(6, seed=1)


def test_blur_equals_scipy_image_by_image(images):
    expected = [gaussian_filter(image.astype(float), 1.1) for image in images]
    np.testing.assert_allclose(Degradation(blur=1.1)(images, generator()), expected, atol=1e-5)


def test_noise_has_the_stated_deviation_and_values_stay_in_range():
    noisy = Degradation(noise=0.05)(np.full((4, *SHAPE), 0.5), generator())
    assert noisy.dtype == np.float32
    assert noisy.mean() == pytest.approx(0.5, abs=0.002) and noisy.std() == pytest.approx(0.05, rel=0.03)
    assert abs(np.corrcoef(noisy[0].ravel(), noisy[1].ravel())[0, 1]) < 0.05  # each image has its own noise
    extreme = Degradation(noise=0.1)(np.stack([np.zeros(SHAPE), np.ones(SHAPE)]), generator())
    assert extreme.min() == 0 and extreme.max() == 1


def test_noise_follows_the_blur(images):
    # blur after the noise would leave a fifth of its deviation
    both = Degradation(1.3, 0.05)(images, generator()) - Degradation(1.3)(images, generator())
    assert both[:, INSIDE].std() == pytest.approx(0.05, rel=0.05)


def test_same_generator_same_result_and_nothing_changes_nothing(images):
    degrade = Degradation(0.6, 0.03)
    np.testing.assert_array_equal(degrade(images, generator()), degrade(images, generator()))
    assert np.abs(degrade(images, np.random.RandomState(1)) - degrade(images, generator())).max() > 0.01
    assert Degradation().nothing and not Degradation(blur=0.1).nothing and not Degradation(noise=0.1).nothing
    np.testing.assert_array_equal(Degradation()(images, generator()), images)


def test_band_energies_equal_scikit_image(images):
    for image, got in zip(images, band_energies(images)):
        core = binary_erosion(foreground(torch.from_numpy(image)).numpy(), np.ones((5, 5)))
        assert 0.5 < core.sum() / INSIDE.sum() < 1
        bands = [difference_of_gaussians(image, *pair, mode="reflect") for pair in zip(BAND_SIGMAS, BAND_SIGMAS[1:])]
        energy = [(band[core].astype(float) ** 2).mean() for band in bands]
        np.testing.assert_allclose(got, np.log(energy[:-1]) - np.log(energy[-1]), atol=1e-3)


def test_band_energies_ignore_contrast_fall_with_blur_and_rise_with_noise(images):
    plain = band_energies(images)
    assert plain.shape == (6, 3)
    np.testing.assert_allclose(band_energies(0.5 * images), plain, atol=1e-3)
    np.testing.assert_allclose(band_energies(np.flip(images).copy())[::-1], plain, atol=1e-3)
    blurred = band_energies(Degradation(blur=0.9)(images, generator()))
    assert (blurred[:, 0] < plain[:, 0] - 1).all() and (blurred < plain).all()
    noisy = band_energies(Degradation(noise=0.08)(images, generator()))
    assert (noisy[:, 0] > plain[:, 0] + 0.5).all()


@pytest.mark.parametrize("truth", [Degradation(0.9, 0.0), Degradation(0.0, 0.05), Degradation(1.3, 0.03)])
def test_known_degradation_of_other_images_is_found(truth):
    real, other = textured(5, seed=2), textured(5, seed=3)
    found = match_degradation(real, truth(other, generator()), np.random.RandomState(1))
    assert found.blur == pytest.approx(truth.blur, abs=0.31) and found.noise == pytest.approx(truth.noise, abs=0.011)


def test_a_set_matches_itself_undegraded_and_the_sample_is_the_generators(images):
    images = images[:4]
    assert match_degradation(images, images, generator()).nothing
    degraded = Degradation(1.1, 0.02)(images, generator())
    matches = [match_degradation(images, degraded, generator(), sample=3) for _ in range(2)]
    assert matches[0] == matches[1] and not matches[0].nothing


def test_constant_and_no_images():
    constant = np.full((2, *SHAPE), 0.5)
    np.testing.assert_array_equal(band_energies(constant), 0)
    np.testing.assert_array_equal(band_energies(np.zeros((2, *SHAPE))), 0)
    assert band_energies(constant[:0]).shape == (0, 3)
    assert Degradation(1.0, 0.1)(constant[:0], generator()).shape == (0, *SHAPE)
    assert match_degradation(constant, constant, generator()).nothing


def test_a_single_plane_and_a_change_are_errors(images):
    with pytest.raises(ValueError, match=r"images must be \(N, H, W\) or \(N, X, Y, Z\), got \("):
        Degradation(blur=1.0)(images[0], generator())
    with pytest.raises(dataclasses.FrozenInstanceError):
        Degradation().blur = 1.0


class Halving(torch.nn.Module):
    """An autoencoder whose code is the image at half the size."""

    def reconstruct(self, images: torch.Tensor) -> torch.Tensor:
        assert not self.training
        small = torch.nn.functional.avg_pool2d(images, 2)
        return torch.nn.functional.interpolate(small, scale_factor=2)


def test_round_trip_is_the_autoencoders_reconstruction_in_batches(images):
    expected = images.reshape(6, 32, 2, 40, 2).mean((2, 4)).repeat(2, 1).repeat(2, 2)
    module = Halving().train()
    made = RoundTrip(module, batch_size=4)(images, generator())
    np.testing.assert_allclose(made, expected, atol=1e-6)
    assert module.training and RoundTrip(module)(images[:0], generator()).shape == (0, *SHAPE)
    with pytest.raises(ValueError, match="expected reconstructions of shape"):
        RoundTrip(Halving())(images[:, :-1], generator())


def test_a_known_autoencoder_leaves_nothing_to_match():
    trip = RoundTrip(Halving())
    real, other = textured(8, seed=2), trip(textured(8, seed=3), generator())
    blind = match_degradation(real, other, np.random.RandomState(1))
    told = match_degradation(real, other, np.random.RandomState(1), before=trip)
    assert blind.blur > 0.3 and told.blur == told.noise == 0 and not told.nothing
    np.testing.assert_array_equal(told(real, generator()), trip(real, generator()))
