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
from PIL import Image

from scripts.report.pictures import evidence, histogram, sections


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
    assert [picture.title for picture in found.pictures] == ["generated", "training, aligned", "difference x 4"]
    generated, aligned, difference = map(pixels, found.pictures)
    expected = result.generated.images[0].astype(np.float32).T * 255  # planar files are shown as (column, row)
    assert np.abs(generated - expected).max() <= 1
    expected = (4 * np.abs(generated - aligned)).clip(0, 255)
    assert np.abs(expected - difference).max() <= 5  # 8-bit rounding of the two, four times, and of the third
    assert difference.mean() < 12, "a copy"


def test_evidence_of_a_volume_is_three_planes_aligned_in_3d(volumes):
    copy, new = (evidence(volumes, volumes.match(unit), 2.0) for unit in (0, 1))
    assert len(copy.pictures) == 9 and copy.volume_ssim > 0.9 > new.volume_ssim


def test_without_a_match_there_is_no_evidence(result):
    assert evidence(result, replace(result.match(0), subject=-1), 2.0) is None


def test_the_same_result_gives_the_same_histogram(result):
    assert histogram(result) == histogram(result) and histogram(result).startswith("data:image/svg+xml;base64,")
