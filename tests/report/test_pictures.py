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

import numpy as np

from scripts.report.pictures import sections


def test_sections_of_a_volume_are_three_planes_in_square_pixels():
    volume = np.zeros((4, 6, 8), np.float32)  # z, x, y; the top of the head last
    volume[3], volume[2, 3, 4] = 1, 0.5
    axial, coronal, sagittal = sections(volume, 2, np.array([4.0, 2, 2]))
    assert axial.shape == (6, 8) and axial[3, 4] == 0.5
    assert coronal.shape == (6, 8) and sagittal.shape == (8, 8), "slices are twice as thick as pixels are wide"
    assert (coronal[:, -1] == 1).all() and (sagittal[:, -1] == 1).all(), "the top is last"
