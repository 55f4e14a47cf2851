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
"""The page of an audit in a real browser: sorting, filtering, hostile names, and no request to anywhere."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scripts.report.pictures import (
    BRIGHTER,
    DARKER,
    DIFFERENCE,
    Picture,
    data_uri,
    evidence,
    histogram,
    sections,
    thumbnail,
)


def test_sections_of_a_volume_are_three_planes_in_square_pixels():
    volume = np.zeros((4, 6, 8), np.float32)  # z, x, y; the top of the head last
    volume[3], volume[2, 3, 4] = 1, 0.5
    axial, coronal, sagittal = sections(volume, 2, np.array([4.0, 2, 2]))
    assert axial.shape == (6, 8) and axial[3, 4] == 0.5
    assert coronal.shape == (6, 8) and sagittal.shape == (8, 8), "slices are twice as thick as pixels are wide"
    assert (coronal[:, -1] == 1).all() and (sagittal[:, -1] == 1).all(), "the top is last"


def pixels(picture) -> np.ndarray:
    head, data = picture.data.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), float)


def test_evidence_of_an_image_is_the_pair_and_their_difference(result):
    found = evidence(result, result.match(0), 2.0)
    assert found is not None and found.volume_ssim is None
    assert [picture.title for picture in found.pictures] == ["generated", "training, aligned", "difference"]
    generated, aligned, difference = map(pixels, found.pictures)
    expected = result.generated.images[0].astype(np.float32).T * 255  # planar files are shown as (column, row)
    assert np.abs(generated - expected).max() <= 1
    share = (generated - aligned) / 255 / DIFFERENCE
    assert np.abs(share).max() < 0.3, "a copy"
    assert [(picture.sides, picture.bar) for picture in found.pictures] == [("", 0.0)] * 3, "a file has no sides"


def test_colours_say_where_the_generated_image_is_brighter_and_where_darker(result):
    generated, aligned, difference = map(pixels, evidence(result, result.match(3), 2.0).pictures)  # a new image
    share = ((generated - aligned) / 255 / DIFFERENCE).clip(-1, 1)
    rounding = 3 / 255 / DIFFERENCE  # 8 bits of the two pictures, and of the third
    brighter, darker = difference[..., 0] / BRIGHTER[0], difference[..., 2] / DARKER[2]
    assert (share > 0.3).any() and np.abs(brighter - share)[share > 0.3].max() <= rounding
    assert (share < -0.3).any() and np.abs(darker + share)[share < -0.3].max() <= rounding


def test_evidence_of_a_volume_is_three_planes_aligned_in_3d(volumes):
    copy, new = (evidence(volumes, volumes.match(unit), 2.0) for unit in (0, 1))
    assert len(copy.pictures) == 9 and copy.volume_ssim > 0.9 > new.volume_ssim
    assert [picture.sides for picture in copy.pictures[::3]] == ["LRAP", "LRSI", "PASI"]
    width = volumes.units.images.shape[1]
    assert copy.pictures[0].bar == pytest.approx(50 / (2.0 * width)) and np.isfinite(copy.level)


def test_the_left_of_a_volume_stands_left_and_its_front_and_top_above():
    image = np.zeros((6, 8), np.float32)
    image[0, -1] = 1  # x towards the patient's right, y towards the front
    picture = pixels(Picture("", data_uri(image, upright=True)))
    assert picture.shape == (8, 6) and picture[0, 0] == 255 and picture.sum() == 255


def test_a_thumbnail_is_the_generated_image(result, volumes):
    match = result.match(1)
    shown = pixels(Picture("", thumbnail(result, match)))
    assert np.abs(shown - result.generated.images[1].astype(np.float32).T * 255).max() <= 1
    match = volumes.match(0)
    shown = pixels(Picture("", thumbnail(volumes, match)))
    assert np.abs(shown[::-1] - volumes.units.images[match.row].astype(np.float32).T * 255).max() <= 1


def test_without_a_match_there_is_no_evidence(result):
    assert evidence(result, replace(result.match(0), subject=-1), 2.0) is None


def test_what_made_a_pair_alike_is_shown_over_the_generated_image_if_asked_for(result, volumes):
    def left(first, second):
        assert first.shape == second.shape == result.train.images.shape[1:] and first.dtype == np.float32
        values = np.zeros(first.shape, np.float32)
        values[: len(values) // 4], values[-len(values) // 4 :] = 1, -1
        return values

    assert evidence(result, result.match(0), 2.0).explained is None
    shown = evidence(result, result.match(0), 2.0, left)
    assert len(shown.pictures) == 3
    drawn, generated = pixels(shown.explained), pixels(shown.pictures[0])
    width = generated.shape[1]
    assert np.abs(drawn[:, : width // 8] - BRIGHTER).max() <= 1 and np.abs(drawn[:, -width // 8 :] - DARKER).max() <= 1
    middle = slice(width // 2 - 2, width // 2 + 2)
    assert np.abs(drawn[:, middle] - generated[:, middle, None]).max() <= 2, "the image where the map says nothing"

    def flat(first, second):
        return np.zeros(first.shape, np.float32)

    cut = evidence(volumes, volumes.match(0), 2.0, flat)
    strongest = volumes.units.images[volumes.match(0).row].astype(np.float32)
    assert len(cut.pictures) == 9
    assert np.abs(pixels(cut.explained)[::-1, :, 0] - strongest.T * 255).max() <= 1


def test_the_same_result_gives_the_same_histogram(result):
    assert histogram(result) == histogram(result) and histogram(result).startswith("data:image/svg+xml;base64,")
