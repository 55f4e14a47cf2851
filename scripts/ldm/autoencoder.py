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

"""Train MONAI's autoencoder by MONAI's adversarial trainer, which knows no second output and no list of outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.networks.nets import AutoencoderKL
from torch.nn.functional import l1_loss

from ..bundle.inferers import AutocastInferer

__all__ = ["AutoencoderLoss", "LastOutputInferer", "ReconstructionInferer", "encode", "kl_divergence"]


class ReconstructionInferer(AutocastInferer):
    """Return an autoencoder's reconstruction alone; the latents' distribution stays in `posterior`.

    ``AutoencoderKL`` returns (reconstruction, mean, standard deviation), where engines expect one tensor. `posterior`
    is the pair (mean, standard deviation) of the last call, (B, C, ...) each, for :class:`AutoencoderLoss`.
    """

    posterior: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        reconstruction, mean, deviation = super().__call__(inputs, network, *args, **kwargs)
        self.posterior = mean.float(), deviation.float()
        return reconstruction.float()


class LastOutputInferer(AutocastInferer):
    """Return the last of a network's outputs: ``PatchDiscriminator`` returns its features of every layer too."""

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        return super().__call__(inputs, network, *args, **kwargs)[-1].float()


class AutoencoderLoss(torch.nn.Module):
    """L1 error plus weighted KL divergence of the latents from a standard normal (Rombach et al. 2022, appendix G).

    Args:
        inferer: made the reconstruction; its `posterior` is that of the batch.
        kl_weight: of the divergence, which is summed over an image's latent and averaged over images.
        perceptual_loss: called as ``loss(reconstruction, image)``, such as MONAI's ``PerceptualLoss``; None for none.
        perceptual_weight: of it.
    """

    def __init__(
        self,
        inferer: ReconstructionInferer,
        kl_weight: float = 1e-6,
        perceptual_loss: torch.nn.Module | None = None,
        perceptual_weight: float = 0.001,
    ) -> None:
        super().__init__()
        self.inferer, self.kl_weight = inferer, kl_weight
        self.perceptual_loss, self.perceptual_weight = perceptual_loss, perceptual_weight

    def forward(self, reconstruction: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Return the loss of reconstructions of images or volumes, (B, C, ...) each; a scalar."""
        if self.inferer.posterior is None:
            raise ValueError("expected the inferer to have made the reconstruction, found that it has not run yet")
        loss = l1_loss(reconstruction, image) + self.kl_weight * kl_divergence(*self.inferer.posterior)
        if self.perceptual_loss is not None:
            loss = loss + self.perceptual_weight * self.perceptual_loss(reconstruction, image)
        return loss


def kl_divergence(mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Return KL(N(mean, deviation^2) || N(0, 1)), summed over a latent and averaged over the batch (B, ...); a scalar.

    >>> float(kl_divergence(torch.ones(2, 3), torch.ones(2, 3)))
    1.5
    """
    variance = deviation.square()
    return 0.5 * (mean.square() + variance - variance.log() - 1).flatten(1).sum(1).mean()


def encode(
    autoencoder: AutoencoderKL, images: torch.Tensor, batch_size: int, device: torch.device | str
) -> torch.Tensor:
    """Return the mean latents of images (N, 1, H, W), (N, C, h, w), or those of volumes, on the CPU.

    The mean, not a draw: at the usual weight of the divergence the deviation is a hundredth of the latents' spread.
    """
    with torch.no_grad():
        return torch.cat([autoencoder.encode(part.to(device))[0].float().cpu() for part in images.split(batch_size)])
