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

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scripts.similarity.verification import Verifier
from skimage.metrics import structural_similarity
from textures import CENTRE, SHAPE, moved, similarity, textured


def align_one(query, reference, **arguments):
    return Verifier(**arguments).align(query[None], reference[None])


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return textured(0)


@pytest.fixture(scope="module")
def unrelated(image) -> float:
    """The best score of `image` among twelve images that have only its outline."""
    others = np.stack([textured(seed) for seed in range(1, 13)])
    return float(Verifier().align(others, np.repeat(image[None], 12, 0)).aligned_ssim.max())


@pytest.mark.parametrize(
    ("matrix", "mirrored"),
    [
        (similarity(), False),
        (similarity(degrees=10), False),
        (similarity(degrees=-17), False),
        (similarity(shift=(5.5, -4.25)), False),
        (similarity(scale=1.1), False),
        (similarity(scale=0.9), False),
        (similarity(flip=(-1, 1)), True),
        (similarity(flip=(1, -1)), True),
        (similarity(flip=(-1, -1)), False),
        (similarity(-8, (3, -2.5), 1.05, (1, -1)), True),
        (similarity(12, (-4, 1), 0.95, (-1, -1)), False),
    ],
)
@pytest.mark.parametrize("exponent", [1.0, 0.6, 1.5])
def test_moved_copies_are_recovered(image, unrelated, matrix, mirrored, exponent):
    found = align_one(moved(image, matrix) ** exponent, image)
    np.testing.assert_allclose(found.matrix[0, :, :2], matrix[:, :2], atol=0.006)
    np.testing.assert_allclose(found.matrix[0, :, 2], matrix[:, 2], atol=0.15)
    assert found.mirrored.tolist() == [mirrored]
    assert found.aligned_ssim[0] > 0.97
    assert 1 - found.aligned_ssim[0] < 0.1 * (1 - unrelated)


@pytest.mark.parametrize("degrees", [-24, 24])
@pytest.mark.parametrize("flip", [(1, 1), (1, -1)])
def test_fine_texture_far_off_is_recovered_without_help_from_the_outline(degrees, flip):
    disc, matrix = textured(0, radii=(40, 40), smoothness=1.5), similarity(degrees, (1, 2), flip=flip)
    found = align_one(moved(disc, matrix), disc)
    np.testing.assert_allclose(found.matrix[0], matrix, atol=0.15)
    assert found.aligned_ssim[0] > 0.97


def test_unrelated_images_and_inverted_contrast_are_no_copies(image, unrelated):
    assert unrelated < 0.6
    inverted = np.where(image > 0, 1.1 - image, 0).astype(np.float32)
    assert align_one(inverted, image).aligned_ssim[0] < 0.6


def test_score_of_the_same_grid_is_the_foreground_ssim_of_scikit_image(image):
    query = (image + 0.08 * np.random.default_rng(1).normal(size=SHAPE).astype(np.float32) * (image > 0)).clip(0, 1)
    found = align_one(query, image, smoothing=0)
    np.testing.assert_allclose(found.matrix[0], np.eye(2, 3), atol=0.05)
    full = structural_similarity(query.astype(float), image.astype(float), data_range=1.0, full=True)[1]
    inside = gaussian_filter((image > 0).astype(float), 1) > 0.5
    # the fitted gain and the sub-pixel map may only help, and little
    assert found.aligned_ssim[0] == pytest.approx(full[inside].mean(), abs=0.03)
    assert found.aligned_ssim[0] < align_one(query, image).aligned_ssim[0] < 1  # smoothing takes the noise out


def test_result_does_not_depend_on_block_or_on_the_other_pairs(image):
    queries = np.stack([moved(image, similarity(d)) for d in (0, 6, -9)] + [textured(1), image**0.7])
    references = np.stack([image, image, textured(2), image, image])
    whole = Verifier().align(queries, references)
    for block in (1, 2, 5):
        for got, expected in zip(Verifier(block=block).align(queries, references), whole):
            np.testing.assert_allclose(got, expected, atol=1e-6)


def test_of_several_slices_the_one_that_suits_the_query_is_taken():
    """Whichever column it stands in; -1 stands for none. Neighbours are half the slice itself."""
    slices = np.stack([textured(seed) for seed in range(4)])
    neighbours = 0.5 * slices + 0.5 * np.stack([textured(seed) for seed in range(4, 8)])
    slices = np.concatenate([slices, neighbours])
    queries = np.stack([moved(slices[n], similarity(6, (2, 1))) for n in (0, 3)])
    several = np.array([[4, 0, 5], [3, 7, -1]])
    found = Verifier(block=1).align(queries, slices, (np.arange(2), several))
    assert found.column.tolist() == [1, 0]
    alone = Verifier().align(queries, slices, (np.arange(2), np.array([0, 3])))
    np.testing.assert_allclose(found.matrix, alone.matrix, atol=0.05)
    np.testing.assert_allclose(found.aligned_ssim, alone.aligned_ssim, atol=0.01)
    for column in range(3):
        one = Verifier(bend=False).align(queries[:1], slices, (np.array([0]), several[:1, column]))
        assert one.unbent_ssim[0] <= found.unbent_ssim[0] + 0.01


def test_the_ssim_before_bending_is_that_of_a_verifier_which_does_not_bend(image):
    query = (image**0.8 + 0.05 * np.random.default_rng(4).normal(size=image.shape)).clip(0, 1).astype(np.float32)
    bending, not_bending = (Verifier(bend=bend).align(query[None], image[None]) for bend in (True, False))
    np.testing.assert_allclose(bending.unbent_ssim, not_bending.aligned_ssim, rtol=1e-6)
    np.testing.assert_array_equal(not_bending.unbent_ssim, not_bending.aligned_ssim)
    assert bending.aligned_ssim[0] > bending.unbent_ssim[0]
    windowed = Verifier(window=24).align(query[None], image[None])
    np.testing.assert_array_equal(windowed.unbent_ssim, windowed.aligned_ssim)


def test_blank_images_are_defined(image):
    blank = np.zeros_like(image)
    pairs = Verifier().align(np.stack([blank, image, blank + 0.5]), np.stack([blank, blank, blank + 0.5]))
    assert np.isfinite(pairs.matrix).all()
    assert pairs.aligned_ssim[0] == 1 and pairs.aligned_ssim[2] == 1 and pairs.aligned_ssim[1] < 0.5
    assert [len(part) for part in Verifier().align(np.zeros((0, *SHAPE)), np.zeros((0, *SHAPE)))] == [0] * 6


@pytest.mark.parametrize("arguments", [{"smoothing": -0.1}, {"smoothing": 500.0}, {"block": 0}])
def test_settings_out_of_range_are_errors(arguments):
    with pytest.raises(ValueError, match=f"got .*{next(iter(arguments.values()))}"):
        Verifier(**arguments)


@pytest.mark.parametrize("shape", [(2, *SHAPE), (1, 96, 110), (1, 1, *SHAPE)])
def test_shapes_that_differ_are_errors(image, shape):
    with pytest.raises(ValueError, match=r"one shape \(P, H, W\), got \(1, 96, 112\) and \(" + str(shape[0])):
        Verifier().align(image[None], np.zeros(shape))


def with_a_part_of(image: np.ndarray, other: np.ndarray, radius: float, at=(-8, 10)) -> np.ndarray:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.where(np.hypot(y - CENTRE[0] - at[0], x - CENTRE[1] - at[1]) < radius, image, other)


def test_a_copied_part_stands_out_more_in_a_window_than_in_the_whole(image, unrelated):
    partial = with_a_part_of(image, textured(20), radius=28)
    strangers = np.stack([textured(seed) for seed in range(21, 33)])
    windowed = Verifier(window=36)
    best = windowed.align(strangers, np.repeat(image[None], 12, 0)).aligned_ssim.max()
    part = windowed.align(partial[None], image[None]).aligned_ssim[0]
    whole = align_one(partial, image).aligned_ssim[0]
    assert part > 0.8 and (1 - part) / (1 - best) < 0.45 < (1 - whole) / (1 - unrelated)


def test_squares_say_which_part_was_copied():
    image, other = textured(0), textured(20)
    verifier = Verifier(window=16, smoothing=0.0)
    found, grid = verifier.align(with_a_part_of(image, other, radius=28)[None], image[None]), verifier.grid(SHAPE)
    assert set(grid[:, 2]) == {16, 20, 24} and found.squares.shape == (1, len(grid))
    away = np.hypot(*(grid[:, :2] + grid[:, 2:] / 2 - CENTRE - (-8, 10)).T)
    inside, outside = away + grid[:, 2] * 0.71 < 28, (away - grid[:, 2] * 0.71 > 28) & np.isfinite(found.squares[0])
    assert found.squares[0][inside].min() > 0.7 > 0.5 > np.median(found.squares[0][outside])
    assert found.aligned_ssim[0] == np.nanmax(found.squares)
    nothing = verifier.align(np.zeros((1, *SHAPE)), image[None] * 0)
    assert nothing.aligned_ssim[0] == -1 and np.isnan(nothing.squares).all()


def test_the_detail_of_a_part_is_asked_of_its_square_alone():
    image, other = textured(0), textured(20)
    query, verifier = with_a_part_of(image, other, radius=28)[None], Verifier(window=16)
    matrix = verifier.align(query, image[None]).matrix
    (part, rest), whole = (
        [verifier.detail(query, image[None], matrix, np.array([square]))[0] for square in ((30, 58, 20), (50, 16, 20))],
        verifier.detail(query, image[None], matrix)[0],
    )
    assert part > 0.95 > whole > rest


def test_a_start_gives_what_the_whole_search_gives(image):
    query = moved(image, similarity(8, (3, 2)))[None]
    found = Verifier().align(query, image[None])
    again = Verifier().align(query, image[None], None, found.matrix + 0.01)
    np.testing.assert_allclose(again.aligned_ssim, found.aligned_ssim, atol=0.005)


def test_too_small_a_window_is_an_error():
    with pytest.raises(ValueError, match="^window must be 0, for the whole image, or at least 12 pixels, got 8$"):
        Verifier(window=8)


def test_a_window_larger_than_the_images_is_an_error():
    images = np.zeros((1, 30, 20), np.float32)
    assert Verifier(window=30).align(images, images).aligned_ssim.shape == (1,)
    with pytest.raises(ValueError, match="window must be at most 30 pixels, the images' longer side, got 31"):
        Verifier(window=31).align(images, images)


@pytest.mark.parametrize(("gigabytes", "expected"), [(2, 512), (24, 3200), (80, 8192)])
def test_blocks_of_a_gpu_follow_its_memory(monkeypatch, gigabytes, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    memory = SimpleNamespace(total_memory=gigabytes * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    assert Verifier(device="cuda").block == expected
    assert Verifier(device="cuda", block=7).block == 7
    assert Verifier().block == 512
