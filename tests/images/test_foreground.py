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

import heads
import numpy as np
import torch
from helpers import reference_foreground
from scripts.images.foreground import foreground


def test_foreground_equals_scipy_and_handles_no_background_and_no_object(head, picture):
    noise = np.random.default_rng(0).uniform(1, 2, (40, 30))
    ramp = np.arange(30) + noise  # reaches the border, where the mean has fewer pixels
    for image in (picture + 20 * np.random.default_rng(1).random(picture.shape), head[30] - 7, noise, ramp):
        np.testing.assert_array_equal(foreground(torch.from_numpy(image)), reference_foreground(image))
    assert foreground(torch.from_numpy(noise)).all() and not foreground(torch.full((1, 9, 9), 3.0)).any()
    batch = torch.from_numpy(head[20:24, None])  # (B, 1, H, W), a mask each
    torch.testing.assert_close(foreground(batch), torch.stack([foreground(image) for image in batch]))


def test_foreground_of_a_volume_is_that_of_its_cubes():
    volume = torch.from_numpy(heads.head(0))
    volume = torch.stack([volume, volume * 0.3 + 0.2, torch.zeros_like(volume)])
    low = volume.flatten(1).amin(1)
    high = volume.flatten(1).kthvalue(round(0.99 * volume[0].numel())).values
    mean = torch.nn.functional.avg_pool3d(
        (volume - low[:, None, None, None])[:, None], 5, 1, 2, count_include_pad=False
    )[:, 0]
    expected = mean > 0.1 * (high - low)[:, None, None, None]
    assert (foreground(volume, dims=3) == expected).float().mean() > 0.9999 and not expected[2].any()
