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

"""What a simulated scanner does that MONAI has no transform for: its geometry, and draws that a person's name fixes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Transform
from monai.utils import convert_to_dst_type

from .geometry import warp
from .items import Data, NewData

__all__ = ["Barreld", "SeededBySubjectd"]


class SeededBySubjectd(Transform):
    """Apply transforms with draws that the dict's `subject_id` fixes: a person's scan is the same at each reading.

    Args:
        transforms: MONAI dictionary transforms, random or not, in their order.
        seed: of all people's draws; another one is another visit of everybody.

    Raises:
        ValueError: for a dict without `subject_id`.
    """

    def __init__(self, transforms: Sequence[Callable], seed: int = 0) -> None:
        self.transforms, self.seed = Compose(transforms), seed

    def __call__(self, data: Data) -> NewData:
        """Return the dict transformed."""
        if "subject_id" not in data:
            name = data.get("id", "an item")
            raise ValueError(f"{name}: expected a subject_id, found none; take items as find_images returns them")
        # not hash(), which differs between processes
        self.transforms.set_random_state(zlib.crc32(f"{self.seed} {data['subject_id']}".encode()))
        return self.transforms(dict(data))


class Barreld(MapTransform):
    """Shrink volumes towards their centre, the more the farther out: a barrel, as gradients that weaken outwards leave.

    The value at x, in voxels from the centre, becomes that at x (1 + strength |x|^2 / radius^2). That is the first term
    of radial distortion (Brown 1966), which stands for the third-order terms of a gradient coil's spherical harmonics.
    Interpolation is linear; outside is zero.

    Args:
        keys: of images (C, H, W) or volumes (C, X, Y, Z).
        strength: relative growth of the distance at `radius`; 0 changes nothing, below 0 is a pincushion.
        radius: in voxels.
        allow_missing_keys: pass dicts without a key.
    """

    def __init__(self, keys: KeysCollection, strength: float, radius: float, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.strength, self.radius = strength, radius

    def __call__(self, data: Data) -> NewData:
        """Return the dict with images of the same shape and affine: what is measured moved, not the grid."""
        result: NewData = dict(data)
        for key in self.key_iterator(result):
            result[key] = self._barrel(result[key])
        return result

    def _barrel(self, image: torch.Tensor) -> torch.Tensor:
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in plain.shape[1:]]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"))  # (axes, *shape)
        growth = self.strength * (places**2).sum(0) / self.radius**2
        still = torch.eye(len(axes), len(axes) + 1)[None]
        return convert_to_dst_type(warp(plain[None].float(), still, (growth * places)[None])[0], image)[0]
