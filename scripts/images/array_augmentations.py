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

"""Random misalignment and degradation of images, as MONAI array transforms.

Images are (C, H, W), volumes (C, D, H, W), in [0, 1] with a background near 0. The slices of a volume may be the
channels of an image and then move together. One resampling serves all geometry of a transform.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import RandomizableTransform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor, ensure_tuple
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from .geometry import warp

__all__ = ["RandCopy", "RandImage", "RandMisalign", "blur"]

OVERSHOOT = 1e-3  # by which rounding and interpolation may leave [0, 1]


def blur(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return the image (C, H, W) or (C, D, H, W) convolved with a Gaussian of `sigma` pixels.

    Edges are reflected: MONAI's ``GaussianFilter`` takes what lies outside for zero, which darkens the borders.
    """
    if sigma <= 0:
        return image
    radius = max(1, int(3 * sigma + 0.5))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    dims = image.ndim - 1
    convolve = {2: F.conv2d, 3: F.conv3d}[dims]
    result = F.pad(image[:, None], [radius] * (2 * dims), mode="reflect")  # a channel is a sample
    for axis in range(dims):
        result = convolve(result, kernel.view(1, 1, *[-1 if d == axis else 1 for d in range(dims)]))
    return result[:, 0]


def _smooth_field(rng: np.random.RandomState, shape: tuple[int, ...], grid: int) -> torch.Tensor:
    """Return `grid` normal values a side interpolated smoothly to (axes, *shape), unit standard deviation or less."""
    dims = len(shape)
    field = torch.from_numpy(rng.normal(size=(dims, *[grid] * dims)).astype(np.float32))
    for axis, size in enumerate(shape, start=1):  # cubic along one axis after the other
        basis = F.interpolate(torch.eye(grid)[None, None], (grid, size), mode="bicubic", align_corners=True)[0, 0]
        field = (field.movedim(axis, -1) @ basis).movedim(-1, axis)
    return field


def _turn(angles: NDArray) -> NDArray[np.float64]:
    """Return the rotation by one angle in the plane, (1,) -> (2, 2), or about a vector in space, (3,) -> (3, 3)."""
    if len(angles) == 1:
        c, s = np.cos(angles[0]), np.sin(angles[0])
        return np.array([[c, -s], [s, c]])
    return Rotation.from_rotvec(angles).as_matrix()


def _image(data: NdarrayOrTensor) -> torch.Tensor:
    """Return an image (C, H, W) or a volume (C, D, H, W) in [0, 1] as a float32 tensor; a MetaTensor stays one.

    Raises:
        ValueError: for other axes, integers, or another range.
    """
    shape = tuple(data.shape)
    if len(shape) not in (3, 4) or min(shape[1:]) < 2 or shape[0] < 1:
        raise ValueError(
            "expected an image (C, H, W) or a volume (C, D, H, W) of at least two pixels a side, found shape "
            f"{shape}; put the channel first, as EnsureChannelFirst does, and pass the images of a batch one by one"
        )
    image = convert_to_tensor(data, track_meta=isinstance(data, MetaTensor))
    if not image.is_floating_point():
        raise ValueError(
            f"expected floating-point values in [0, 1], found {image.dtype}; scale them, as "
            "ScaleIntensityRange(0, 255, 0, 1) does 8 bits"
        )
    low, high = image.min().item(), image.max().item()
    if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):  # NaN is neither
        raise ValueError(
            f"expected values in [0, 1], found {low:.3g} to {high:.3g}; scale them, as "
            "ScaleIntensityRange(LOW, HIGH, 0, 1) does"
        )
    return image.float()


class RandImage(RandomizableTransform):
    """What both random transforms of an image do alike: they draw for a shape, check the image and transform it.

    An image is a tensor, a MetaTensor or an array of NumPy, of any floating-point type. It comes out as a float32
    tensor on its device. A MetaTensor stays one, with its affine and applied operations as they were: the object
    moved, not the grid. So ``inverse`` does not undo it.
    """

    backend = [TransformBackends.TORCH]

    def __init__(self, prob: float) -> None:
        super().__init__(prob)
        self.shape: tuple[int, ...] | None = None

    def randomize(self, shape: tuple[int, ...]) -> None:
        """Draw for an image of the shape (C, ...)."""
        self.shape = shape
        if self.prob < 1:  # no draw otherwise, so that seeds keep their meaning
            super().randomize(None)

    @abstractmethod
    def _apply(self, image: torch.Tensor) -> torch.Tensor:
        """Return what was drawn, done to the image."""

    def __call__(self, img: NdarrayOrTensor, randomize: bool = True) -> torch.Tensor:
        """Return the image transformed, float32 of the same shape in [0, 1].

        Args:
            img: (C, H, W), or (C, D, H, W), in [0, 1].
            randomize: draw anew; else do to this image what was done to the one before.

        Raises:
            ValueError: for other axes, integers or another range, or if nothing was drawn for an image of this shape.
        """
        image = _image(img)
        shape = tuple(image.shape)
        if randomize:
            self.randomize(shape)
        elif self.shape != shape:
            raise ValueError(
                f"expected an image of the shape of the one before, {self.shape}, found {shape}; transform it by itself"
            )
        if not self._do_transform:
            return image
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        return convert_to_dst_type(self._apply(plain), image)[0]


class RandMisalign(RandImage):
    """Flip, rotate, shift, zoom, bend the contrast and light of an image at random: what DeepSSIM must not see.

    What is not given does not happen. The authors' test condition is ``flip_prob=0.8, affine_prob=0.8, rotation=10,
    gamma_prob=0.8, gamma=(0.5, 1.5)`` (published code, `misaligned`). What goes in and comes out: :class:`RandImage`.

    The map of positions of the last draw is the attribute `matrix`, (2, 3) or (3, 4) as
    :func:`~scripts.images.geometry.warp` takes it, the identity where nothing happened.

    Args:
        flip_prob: chance of a flip along each axis, or one for each.
        affine_prob, rotation, shift, zoom: chance, largest angle in degrees, largest shift in pixels, range of scale. A
            volume is turned about an axis in any direction.
        gamma_prob, gamma: chance and range of the exponent, drawn log-uniformly.
        bias_prob, bias: chance and strength (log units) of a smooth multiplicative field.
        blur_prob, blur: chance and largest sigma in pixels of a Gaussian.
        noise_prob, noise: chance and largest standard deviation of Gaussian noise.
        prob: chance that anything happens at all; the chances above are those within it.
    """

    def __init__(
        self,
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
    ) -> None:
        super().__init__(prob)
        self.flip_prob = flip_prob
        self.affine_prob, self.rotation, self.shift, self.zoom = affine_prob, rotation, shift, zoom
        self.gamma_prob, self.gamma = gamma_prob, gamma
        self.bias_prob, self.bias = bias_prob, bias
        self.blur_prob, self.blur = blur_prob, blur
        self.noise_prob, self.noise = noise_prob, noise

    def _flip_chances(self, axes: int) -> tuple[float, ...]:
        chances = ensure_tuple(self.flip_prob)
        if len(chances) not in (1, axes):
            kind = "an image (C, H, W)" if axes == 2 else "a volume (C, D, H, W)"
            raise ValueError(f"flip_prob: expected one chance, or one for each axis of {kind}, found {len(chances)}")
        return chances * (axes // len(chances))

    def randomize(self, shape: tuple[int, ...]) -> None:
        """Draw for an image of the shape (C, H, W) or (C, D, H, W)."""
        super().randomize(shape)
        r = self.R  # every chance is drawn, a chance of 0 too: adding one kind must not change the draws of the others
        dims = len(shape) - 1
        self.matrix = np.eye(dims, dims + 1)
        if r.rand() < self.affine_prob:
            angle = np.deg2rad(r.uniform(-self.rotation, self.rotation))
            axis = np.ones(1)
            if dims == 3:
                axis = r.normal(size=3)
                axis /= np.linalg.norm(axis)
            self.matrix[:, :dims] = _turn(angle * axis) / r.uniform(*self.zoom)
            self.matrix[:, dims] = r.uniform(-self.shift, self.shift, dims)
        for number, chance in enumerate(self._flip_chances(dims)):
            if r.rand() < chance:
                self.matrix[number] *= -1
        self.exponent = np.exp(r.uniform(*np.log(self.gamma))) if r.rand() < self.gamma_prob else 1.0
        self.field = self.bias * _smooth_field(r, shape[1:], 4)[:1] if r.rand() < self.bias_prob else None
        self.sigma = r.uniform(0, self.blur) if r.rand() < self.blur_prob else 0.0
        self.deviation = r.uniform(0, self.noise) if r.rand() < self.noise_prob else 0.0
        self.pattern = torch.from_numpy(r.normal(size=shape).astype(np.float32)) if self.deviation else None
        if not self._do_transform:
            self.matrix = np.eye(dims, dims + 1)

    def _apply(self, image: torch.Tensor) -> torch.Tensor:
        matrix = torch.as_tensor(self.matrix, dtype=torch.float32, device=image.device)
        image = warp(image[None], matrix[None])[0].clamp(0, 1) ** self.exponent
        if self.field is not None:
            image = image * torch.exp(self.field.to(image.device))
        image = blur(image, self.sigma)
        if self.pattern is not None:
            image = image + self.deviation * self.pattern.to(image.device)
        return image.clamp(0, 1)


class RandCopy(RandImage):
    """Degrade an image as a generator that memorized it would: a smooth deformation, blur and noise.

    What is not given does not happen. What goes in and comes out: :class:`RandImage`.

    Args:
        elastic: range of the displacement's standard deviation in pixels at the control points; interpolation lowers it
            by about a sixth in between.
        blur: range of the Gaussian's sigma in pixels.
        noise: range of the noise's standard deviation.
        grid: control points a side of the deformation.
        prob: chance that anything happens at all.
    """

    def __init__(
        self,
        elastic: tuple[float, float] = (0.0, 0.0),
        blur: tuple[float, float] = (0.0, 0.0),
        noise: tuple[float, float] = (0.0, 0.0),
        grid: int = 8,
        prob: float = 1.0,
    ) -> None:
        super().__init__(prob)
        self.elastic, self.blur, self.noise, self.grid = elastic, blur, noise, grid

    def randomize(self, shape: tuple[int, ...]) -> None:
        """Draw for an image of the shape (C, H, W) or (C, D, H, W)."""
        super().randomize(shape)
        self.displacement = self.R.uniform(*self.elastic) * _smooth_field(self.R, shape[1:], self.grid)
        self.sigma = self.R.uniform(*self.blur)
        self.pattern = self.R.uniform(*self.noise) * torch.from_numpy(self.R.normal(size=shape).astype(np.float32))

    def _apply(self, image: torch.Tensor) -> torch.Tensor:
        axes = len(self.displacement)
        still = torch.eye(axes, axes + 1, device=image.device)[None]
        bent = warp(image[None], still, self.displacement[None].to(image.device))[0]
        return (blur(bent, self.sigma) + self.pattern.to(image.device)).clamp(0, 1)
