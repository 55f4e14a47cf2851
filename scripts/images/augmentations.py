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

Images are (C, H, W) in [0, 1] with a background near 0; the slices of a volume may be its channels and then move
together. One resampling serves all geometry of a transform.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform

from .geometry import warp
from .items import Data, NewData

__all__ = ["RandCopyd", "RandMisalignd", "blur"]


def blur(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return the image (C, H, W) convolved with a Gaussian of `sigma` pixels, edges reflected.

    MONAI's ``GaussianFilter`` takes what lies outside for zero, which darkens the borders.
    """
    if sigma <= 0:
        return image
    radius = max(1, int(3 * sigma + 0.5))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(image[:, None], [radius] * 4, mode="reflect")  # (C, H, W) -> (C, 1, H + 2r, W + 2r)
    rows = F.conv2d(padded, kernel.view(1, 1, -1, 1))
    return F.conv2d(rows, kernel.view(1, 1, 1, -1))[:, 0]


def _smooth_field(rng: np.random.RandomState, shape: tuple[int, ...], grid: int) -> torch.Tensor:
    """Return `grid` x `grid` normal values interpolated smoothly to (2, H, W), unit standard deviation or less."""
    coarse = torch.from_numpy(rng.normal(size=(1, 2, grid, grid)).astype(np.float32))
    return F.interpolate(coarse, size=shape, mode="bicubic", align_corners=True)[0]


class RandMisalignd(RandomizableTransform, MapTransform):
    """Flip, rotate, shift, zoom, bend the contrast and light of an image at random: what DeepSSIM must not see.

    What is not given does not happen. The authors' test condition is ``flip_prob=0.8, affine_prob=0.8, rotation=10,
    gamma_prob=0.8, gamma=(0.5, 1.5)`` (published code, `misaligned`).

    Args:
        keys: images of shape (C, H, W) in [0, 1]; all keys get the same transform. The map of positions, (2, 3) as
            :func:`~scripts.images.geometry.warp` takes it, is added as KEY_matrix.
        prob: chance that anything happens at all; the chances below are those within it.
        flip_prob: chance of a flip along each axis.
        affine_prob, rotation, shift, zoom: chance, largest angle in degrees, largest shift in pixels, range of scale.
        gamma_prob, gamma: chance and range of the exponent, drawn log-uniformly.
        bias_prob, bias: chance and strength (log units) of a smooth multiplicative field.
        blur_prob, blur: chance and largest sigma in pixels of a Gaussian.
        noise_prob, noise: chance and largest standard deviation of Gaussian noise.
    """

    def __init__(
        self,
        keys: KeysCollection,
        flip_prob: float = 0.0,
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
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.flip_prob = flip_prob
        self.affine_prob, self.rotation, self.shift, self.zoom = affine_prob, rotation, shift, zoom
        self.gamma_prob, self.gamma = gamma_prob, gamma
        self.bias_prob, self.bias = bias_prob, bias
        self.blur_prob, self.blur = blur_prob, blur
        self.noise_prob, self.noise = noise_prob, noise

    def randomize(self, shape: tuple[int, ...]) -> None:
        if self.prob < 1:  # no draw otherwise, so that seeds keep their meaning
            super().randomize(None)
        r = self.R  # every chance is drawn, a chance of 0 too: adding one kind must not change the draws of the others
        self.matrix = np.eye(2, 3)
        if r.rand() < self.affine_prob:
            angle, scale = np.deg2rad(r.uniform(-self.rotation, self.rotation)), 1 / r.uniform(*self.zoom)
            c, s = scale * np.cos(angle), scale * np.sin(angle)
            self.matrix = np.array([[c, -s, 0], [s, c, 0]])
            self.matrix[:, 2] = r.uniform(-self.shift, self.shift, 2)
        for axis in (0, 1):
            if r.rand() < self.flip_prob:
                self.matrix[axis] *= -1
        self.exponent = np.exp(r.uniform(*np.log(self.gamma))) if r.rand() < self.gamma_prob else 1.0
        self.field = self.bias * _smooth_field(r, shape[1:], 4)[:1] if r.rand() < self.bias_prob else None
        self.sigma = r.uniform(0, self.blur) if r.rand() < self.blur_prob else 0.0
        self.deviation = r.uniform(0, self.noise) if r.rand() < self.noise_prob else 0.0
        self.pattern = torch.from_numpy(r.normal(size=shape).astype(np.float32)) if self.deviation else None

    def __call__(self, data: Data) -> NewData:
        result = dict(data)
        self.randomize(tuple(result[self.keys[0]].shape))
        matrix = torch.as_tensor(self.matrix if self._do_transform else np.eye(2, 3), dtype=torch.float32)
        for key in self.key_iterator(result):
            result[f"{key}_matrix"] = matrix
            if not self._do_transform:
                continue
            image = warp(result[key][None], matrix[None])[0].clamp(0, 1) ** self.exponent
            if self.field is not None:
                image = image * torch.exp(self.field)
            image = blur(image, self.sigma)
            if self.pattern is not None:
                image = image + self.deviation * self.pattern
            result[key] = image.clamp(0, 1)
        return result


class RandCopyd(RandomizableTransform, MapTransform):
    """Degrade an image as a generator that memorized it would: a smooth deformation, blur and noise.

    What is not given does not happen.

    Args:
        keys: images of shape (C, H, W) in [0, 1].
        elastic: range of the displacement's standard deviation in pixels at the control points; interpolation lowers it
            by about a sixth in between.
        blur: range of the Gaussian's sigma in pixels.
        noise: range of the noise's standard deviation.
        grid: control points a side of the deformation.
    """

    def __init__(
        self,
        keys: KeysCollection,
        elastic: tuple[float, float] = (0.0, 0.0),
        blur: tuple[float, float] = (0.0, 0.0),
        noise: tuple[float, float] = (0.0, 0.0),
        grid: int = 8,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, 1.0)
        self.elastic, self.blur, self.noise, self.grid = elastic, blur, noise, grid

    def randomize(self, shape: tuple[int, ...]) -> None:
        self.displacement = self.R.uniform(*self.elastic) * _smooth_field(self.R, shape[1:], self.grid)
        self.sigma = self.R.uniform(*self.blur)
        self.pattern = self.R.uniform(*self.noise) * torch.from_numpy(self.R.normal(size=shape).astype(np.float32))

    def __call__(self, data: Data) -> NewData:
        result = dict(data)
        for key in self.key_iterator(result):
            self.randomize(tuple(result[key].shape))
            image = blur(warp(result[key][None], torch.eye(2, 3)[None], self.displacement[None])[0], self.sigma)
            result[key] = (image + self.pattern).clamp(0, 1)
        return result
