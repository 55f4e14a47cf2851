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

"""What happens to pictures on their way from a generator to a folder: the changes of benchmarks/fit.py."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scripts.images.augmentations import RandCopyd

Change = Callable[[NDArray, np.random.RandomState], NDArray]  # of an image (rows, columns) in [0, 255]


def bent(pixels: float) -> Change:
    """Return a change that bends an image by so many pixels rms."""

    def change(image: NDArray, rng: np.random.RandomState) -> NDArray:
        bend = RandCopyd("image", elastic=(pixels, pixels))
        bend.set_random_state(state=rng)
        return bend({"image": torch.from_numpy(image / 255)[None].float()})["image"][0].numpy() * 255

    return change


def scaled(rows: float, columns: float) -> Change:
    """Return a change that resamples an image."""
    return lambda image, rng: ndimage.zoom(image, (rows, columns), order=1)


def with_text(image: NDArray, rng: np.random.RandomState) -> NDArray:
    """Burn a bright pattern of letters' size into the corner."""
    image = image.copy()
    image[3:11, 3:33:4] = image[3:11, 5:33:8] = image[3, 3:33] = 255
    return image


def padded(image: NDArray, rng: np.random.RandomState) -> NDArray:
    """Put the image in the middle of a black square of 256."""
    missing = [256 - side for side in image.shape]
    return np.pad(image, [(m // 2, m - m // 2) for m in missing])


def noisy(sigma: float) -> Change:
    """Return a change that adds Gaussian noise of so many grey levels."""
    return lambda image, rng: image + rng.normal(scale=sigma, size=image.shape)


def blurred(sigma: float) -> Change:
    """Return a change that blurs by a Gaussian."""
    return lambda image, rng: ndimage.gaussian_filter(image, sigma)


def some(change: Change, every: int) -> Change:
    """Return a change of one in so many images."""
    turns = itertools.cycle(range(every))
    return lambda image, rng: change(image, rng) if next(turns) == 0 else image


PLANAR: dict[str, Change] = {
    "plain": lambda image, rng: image,
    "rot90": lambda image, rng: np.rot90(image),
    "transposed": lambda image, rng: image.T,
    "inverted": lambda image, rng: 255 - image,
    "inverted and turned": lambda image, rng: 255 - np.rot90(image),
    "half the resolution": scaled(0.5, 0.5),
    "twice the resolution": scaled(2, 2),
    "stretched by 14 %": scaled(1, 1.14),
    "padded to 256": padded,
    "white frame": lambda image, rng: np.pad(image, 4, constant_values=255),
    "text": with_text,
    "blurred by 1": blurred(1.0),
    "noise of 8 %": noisy(20.0),
    "bent by 2": bent(2.0),
    "bent by 3": bent(3.0),
    "noise alone": lambda image, rng: rng.uniform(0, 255, image.shape),
}
for share, every, names in (
    ("three", 3, ("rot90", "half the resolution", "padded to 256", "inverted")),
    ("thirty", 30, ("rot90",)),
):
    PLANAR |= {f"one in {share} {name}": some(PLANAR[name], every) for name in names}
ARRAYS: dict[str, Change] = {
    "array in [-1, 1]": lambda image, rng: image / 127.5 - 1,
    "array (rows, columns, 1)": lambda image, rng: image[..., None],
    "array (rows, columns)": lambda image, rng: image,
}
