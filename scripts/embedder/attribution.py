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

"""Which parts of an image made its embedding like another one's: exactly for DeepSSIM, by LayerCAM for networks that
have feature maps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from numpy.typing import NDArray

from .networks import DeepSSIM

__all__ = ["Explainer", "cosine_map", "layer_cam"]


@torch.no_grad()
def cosine_map(network: nn.Module, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return what each pixel of `first` adds to the cosine of two images' embeddings, (N, H, W), in its own frame.

    The map sums to the cosine, up to rounding. The embedding is a projection W of upright features f with a constant
    last number, and its length is taken out. So the cosine is <W f, W g> = sum over pixels of f (W' W g), plus the
    constants' product, over both lengths. A feature counts where its window is centred. It is brought back from upright
    to the image by the transpose of the resampling; what lay outside the field counts at its border. The constants'
    product says nothing of a place, so all pixels share it alike.

    Args:
        network: a :class:`~scripts.embedder.networks.DeepSSIM`, in evaluation mode.
        first, second: (N, 1, H, W) in [0, 1], or volumes (N, 1, D, H, W), which give maps (N, D, H, W).

    Raises:
        ValueError: for another network, whose cosine is no such sum.
    """
    if not isinstance(network, DeepSSIM):
        raise ValueError(
            f"network_def {type(network).__name__}: expected DeepSSIM, whose cosine is a sum over pixels, found "
            "another network; name layers for LayerCAM"
        )
    features, estimate = network.upright(first.float())
    others = network.upright(second.float())[0].sum(1, keepdim=True)
    with torch.enable_grad():  # W' W g is the gradient of <W f, W g> by f; of volumes W includes the patches
        blended = features.sum(1, keepdim=True).requires_grad_()
        own = network.projection(network.patches(blended).flatten(1))
        other = network.projection(network.patches(others).flatten(1))
        (back,) = torch.autograd.grad((own * other.detach()).sum(), blended)
    sizes = [torch.linalg.vector_norm(vector, dim=1) for vector in (own.detach(), other.detach())]
    constants = [network.constant * (size + 1e-6) for size in sizes]
    lengths = [torch.hypot(size, constant) for size, constant in zip(sizes, constants)]
    spread = constants[0] * constants[1] / first[0].numel()
    upright = _by_image(features * back, estimate.refined)  # (N, K, *spatial_size)
    total = torch.zeros_like(first[:, 0], dtype=upright.dtype)
    for number, chosen in enumerate(estimate.chosen.tolist()):
        for view, orientation in zip(upright[number], chosen):
            total[number] += view.flip([axis - 2 for axis in network.flips[orientation]])
    each = [-1] + [1] * (first.ndim - 2)
    return (total + spread.view(each)) / (lengths[0] * lengths[1]).view(each)


def _by_image(upright: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Return values (N, K, *size) moved from upright to image positions, shared among the nearest pixels: sums stay.

    The transpose of :func:`~scripts.images.geometry.warp` by `matrix` (N, K, d, d + 1), but that nothing is lost.
    """
    size = upright.shape[2:]
    values = upright.flatten(0, 1).flatten(1).double()  # (N K, P)
    middle = (torch.tensor(size, device=upright.device) - 1) / 2
    place = torch.cartesian_prod(*(torch.arange(n, device=upright.device) for n in size)) - middle  # (P, d)
    linear, shift = matrix.flatten(0, 1)[..., :-1], matrix.flatten(0, 1)[..., -1]
    source = place @ linear.transpose(1, 2) + shift[:, None] + middle  # (N K, P, d)
    source = torch.minimum(source.clamp(min=0), 2 * middle)
    below = source.floor()
    share = (source - below).double()
    moved = torch.zeros_like(values)
    for corner in itertools.product((0, 1), repeat=len(size)):
        step = torch.tensor(corner, device=upright.device)
        index = torch.minimum(below + step, 2 * middle).long()
        flat = index[..., 0]
        for axis in range(1, len(size)):
            flat = flat * size[axis] + index[..., axis]
        weight = torch.where(step.bool(), share, 1 - share).prod(-1)
        moved.scatter_add_(1, flat, values * weight)
    return moved.view(upright.shape).to(upright.dtype)


def layer_cam(network: nn.Module, first: torch.Tensor, second: torch.Tensor, layers: Sequence[str]) -> torch.Tensor:
    """Return where feature maps of `first` raise the cosine to `second`, (N, H, W) in [0, 1]; no exact share.

    LayerCAM (Jiang et al., IEEE TIP 30, 2021, eq. 6) of several layers: activations times the positive part of the
    cosine's gradient, summed over channels, the positive part of it. Each layer's map is divided by its maximum and
    brought to the image's size, linearly; the maps are averaged. MONAI's CAM classes take one layer a pass and leave
    their hooks on the network, so these are torch's own.

    Args:
        network: gives unit vectors (N, D), in evaluation mode.
        first, second: (N, 1, H, W) in [0, 1].
        layers: names of modules that give maps (N, C, h, w).

    Raises:
        ValueError: if no layer is named, or one is unknown or gives no maps.
    """
    modules = dict(network.named_modules())
    if unknown := [name for name in layers if name not in modules] or ([] if layers else ["none"]):
        raise ValueError(
            f"layers: expected names of modules of {type(network).__name__}, found {', '.join(unknown)}; correct them"
        )
    with torch.no_grad():
        vector = network(second)
    maps: dict[str, torch.Tensor] = {}

    def keep(name: str, module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        maps[name] = output

    hooks = [modules[name].register_forward_hook(partial(keep, name)) for name in layers]
    try:
        with torch.enable_grad():
            cosine = (network(first.detach().requires_grad_()) * vector).sum()
    finally:
        for hook in hooks:
            hook.remove()
    if flat := [name for name in layers if maps[name].ndim != 4]:
        raise ValueError(f"layers: expected modules that give maps (N, C, h, w), found {flat[0]}; name others")
    gradients = torch.autograd.grad(cosine, [maps[name] for name in layers])
    size, total = first.shape[2:], torch.zeros_like(first)
    for name, gradient in zip(layers, gradients):
        found = (maps[name].detach() * gradient.relu()).sum(1, keepdim=True).relu().float()
        found = found / found.amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
        total += F.interpolate(found, size=size, mode="bilinear", align_corners=False)
    return total[:, 0] / len(layers)


class Explainer:
    """Explains a pair of planar images to a network: :func:`cosine_map`, or :func:`layer_cam` where layers are named.

    Args:
        network: on `device`, in evaluation mode.
        layers: of LayerCAM; none: the exact map, which only DeepSSIM has.
        device: where the network is.

    Raises:
        ValueError: if the network has no exact map and no layers are named.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str] = (), device: torch.device | str = "cpu") -> None:
        if not layers and not isinstance(network, DeepSSIM):
            raise ValueError(
                f"explain: expected DeepSSIM, or layers of another network for LayerCAM, found "
                f"{type(network).__name__} without layers; name them in explain_layers"
            )
        self.network, self.layers, self.device = network, list(layers), torch.device(device)

    @property
    def exact(self) -> bool:
        """Whether a map sums to the cosine."""
        return not self.layers

    def __call__(self, first: NDArray, second: NDArray) -> NDArray[np.float32]:
        """Return the map (H, W) of the image `first`, beside the image `second`, both (H, W) in [0, 1]."""
        a, b = (torch.from_numpy(image.astype(np.float32))[None, None].to(self.device) for image in (first, second))
        found = layer_cam(self.network, a, b, self.layers) if self.layers else cosine_map(self.network, a, b)
        return found[0].cpu().numpy()
