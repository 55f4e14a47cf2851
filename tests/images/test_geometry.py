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

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from scripts.images.geometry import warp


def test_warp_equals_scipy():
    images = torch.rand((3, 2, 21, 16), generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    matrices = np.concatenate([rng.normal(0, 0.4, (3, 2, 2)) + np.eye(2), rng.normal(0, 3, (3, 2, 1))], 2)
    moves = rng.normal(0, 1, (3, 2, 21, 16))
    centre = np.array([10, 7.5])[:, None, None]
    grid = np.mgrid[:21, :16] - centre
    for displacement in (None, torch.from_numpy(moves).float()):
        got = warp(images, torch.from_numpy(matrices).float(), displacement)
        for n in range(3):
            position = np.einsum("ij,jhw->ihw", matrices[n, :, :2], grid) + matrices[n, :, 2, None, None] + centre
            position = position + (0 if displacement is None else moves[n])
            for channel in range(2):
                expected = map_coordinates(images[n, channel].numpy(), position, order=1, mode="grid-constant")
                np.testing.assert_allclose(got[n, channel], expected, atol=1e-4)


def test_warp_by_whole_pixels_and_flips_is_exact():
    image = torch.rand((1, 1, 20, 16), generator=torch.Generator().manual_seed(1))
    identity = torch.eye(2, 3)[None]
    ones = torch.stack([torch.full((20, 16), 3.0), torch.full((20, 16), -2.0)])[None]
    moved = warp(image, identity, ones)
    torch.testing.assert_close(moved[..., :17, 2:], image[..., 3:, :-2], atol=1e-5, rtol=0)
    mirror = torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]])
    torch.testing.assert_close(warp(image, mirror), image.flip(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(warp(image, -mirror), image.flip(3), atol=1e-5, rtol=0)


def test_warp_of_a_volume_equals_scipy():
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(9, 11, 13)).astype(np.float32)
    matrix = np.column_stack([np.eye(3) + 0.1 * rng.normal(size=(3, 3)), [0.7, -1.2, 0.4]])
    displacement = 0.5 * rng.normal(size=(3, *volume.shape)).astype(np.float32)
    centre = [(n - 1) / 2 for n in volume.shape]
    places = np.stack(np.meshgrid(*(np.arange(n) - c for n, c in zip(volume.shape, centre)), indexing="ij"))
    source = np.einsum("ij,jxyz->ixyz", matrix[:, :3], places) + matrix[:, 3][:, None, None, None] + displacement
    expected = map_coordinates(volume, source + np.array(centre)[:, None, None, None], order=1, mode="grid-constant")
    tensors = (torch.from_numpy(a.astype(np.float32))[None] for a in (volume[None], matrix, displacement))
    got = warp(*tensors)[0, 0].numpy()
    np.testing.assert_allclose(got, expected, atol=1e-4)
