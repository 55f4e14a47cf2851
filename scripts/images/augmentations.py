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

"""Random misalignment and degradation of images, as MONAI dictionary transforms.

What they do to an image: :mod:`~scripts.images.array_augmentations`. All keys of a transform get the same draw.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Generic, Self, TypeVar

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform

from .array_augmentations import RandCopy, RandImage, RandMisalign
from .items import Data, NewData

__all__ = ["RandCopyd", "RandMisalignd", "misalignment_key"]

Of = TypeVar("Of", bound=RandImage)


def misalignment_key(key: Hashable) -> str:
    """Return the key of the map by which :class:`RandMisalignd` moved the image of a key; none of MONAI's own."""
    return f"{key}_misalignment"


class _RandImaged(RandomizableTransform, MapTransform, Generic[Of]):
    """An array transform, done to the images of all keys by one draw."""

    backend = RandImage.backend

    def __init__(self, keys: KeysCollection, transform: Of, allow_missing_keys: bool) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, transform.prob)
        self.transform = transform

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> Self:
        super().set_random_state(seed, state)
        self.transform.set_random_state(state=self.R)
        return self

    def randomize(self, shape: tuple[int, ...]) -> None:
        self.transform.randomize(shape)

    def __call__(self, data: Data) -> NewData:
        result, drawn = dict(data), False
        for key in self.key_iterator(result):
            try:
                result[key] = self.transform(result[key], randomize=not drawn)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
            drawn = True
        return result


class RandMisalignd(_RandImaged[RandMisalign]):
    """Flip, rotate, shift, zoom, bend the contrast and light of images at random: :class:`RandMisalign` by keys.

    The map of positions, (2, 3) or (3, 4) as :func:`~scripts.images.geometry.warp` takes it, is added as
    KEY_misalignment, the identity where nothing happened. Outputs are float32 tensors; a MetaTensor stays one, with its
    affine and applied operations as they were.

    Args:
        keys: images of shape (C, H, W) in [0, 1], or volumes (C, D, H, W), all of one shape; all keys get the same
            transform.
        allow_missing_keys: pass dicts without a key.

    The other arguments are those of :class:`RandMisalign`.

    Raises:
        ValueError: for images of other axes or shapes, integers, or another range, with the key.
    """

    def __init__(
        self,
        keys: KeysCollection,
        flip_prob: float | Sequence[float] = 0.0,
        affine_prob: float = 0.0,
        rotation: float = 0.0,
        shift: float = 0.0,
        zoom: tuple[float, float] = (1.0, 1.0),
        gamma_prob: float = 0.0,
        gamma: tuple[float, float] = (1.0, 1.0),
        bias_prob: float = 0.0,
        bias: float = 0.0,
        blur_prob: float = 0.0,
        blur: float = 0.0,
        noise_prob: float = 0.0,
        noise: float = 0.0,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        transform = RandMisalign(
            flip_prob=flip_prob,
            affine_prob=affine_prob,
            rotation=rotation,
            shift=shift,
            zoom=zoom,
            gamma_prob=gamma_prob,
            gamma=gamma,
            bias_prob=bias_prob,
            bias=bias,
            blur_prob=blur_prob,
            blur=blur,
            noise_prob=noise_prob,
            noise=noise,
            prob=prob,
        )
        super().__init__(keys, transform, allow_missing_keys)

    def __call__(self, data: Data) -> NewData:
        result = super().__call__(data)
        for key in self.key_iterator(result):
            result[misalignment_key(key)] = torch.as_tensor(self.transform.matrix, dtype=torch.float32)
        return result


class RandCopyd(_RandImaged[RandCopy]):
    """Degrade images as a generator that memorized them would, bent, blurred and noisy: :class:`RandCopy` by keys.

    Outputs are float32 tensors; a MetaTensor stays one, with its affine and applied operations as they were.

    Args:
        keys: images of shape (C, H, W) in [0, 1], or volumes (C, D, H, W), all of one shape; all keys get the same
            transform.
        allow_missing_keys: pass dicts without a key.

    The other arguments are those of :class:`RandCopy`.

    Raises:
        ValueError: for images of other axes or shapes, integers, or another range, with the key.
    """

    def __init__(
        self,
        keys: KeysCollection,
        elastic: tuple[float, float] = (0.0, 0.0),
        blur: tuple[float, float] = (0.0, 0.0),
        noise: tuple[float, float] = (0.0, 0.0),
        grid: int = 8,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, RandCopy(elastic, blur, noise, grid, prob), allow_missing_keys)
