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

"""DeepSSIM's training objective over all pairs of a batch."""

from __future__ import annotations

import torch
import torch.nn as nn
from monai.losses import ContrastiveLoss

from .slices import foreground
from .ssim import SSIMForm, ssim_matrix, ssim_pairs

__all__ = ["PairwiseSSIMLoss", "TwoViewContrastiveLoss"]


class PairwiseSSIMLoss(nn.Module):
    """Return the mean squared (or absolute) difference of cosine and SSIM over the N (N - 1) / 2 pairs of a batch.

    The published loss (arXiv 2509.16582, eq. 2) compares N / 2 disjoint pairs a step; all pairs of the same N forward
    passes carry about N times as many targets. Most pairs of a batch are of different subjects, so pairs are weighted
    by the inverse count of their bin of SSIM: without it the range that audits live on is hardly trained.

    Args:
        form: the :class:`~scripts.ssim.SSIMForm` of the targets.
        bins: bins of [0, 1] to balance; 1 weights all pairs alike.
        balance: 1 gives every occupied bin the same total weight, 0 every pair.
        power: 2 for the loss, 1 for a mean absolute error as a validation metric.
        disjoint: compare only the first image with the second, the third with the fourth and so on, as published.
        data_range: dynamic range of the images for the targets; None takes it from each pair as `form` says.

    `forward` takes embeddings (N, D), L2-normalised, and the un-augmented images (N, 1, H, W) in [0, 1].
    """

    def __init__(
        self,
        form: str = "foreground",
        bins: int = 10,
        balance: float = 0.5,
        power: int = 2,
        disjoint: bool = False,
        data_range: float | None = 1.0,
    ) -> None:
        super().__init__()
        self.form, self.bins, self.balance, self.power = SSIMForm(form), bins, balance, power
        self.disjoint, self.data_range = disjoint, data_range

    def forward(self, embeddings: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        if len(embeddings) != len(images) or len(images) < 2:
            raise ValueError(
                f"embeddings and images must be one batch of at least 2, got {len(embeddings)} and {len(images)}"
            )
        mask = foreground(images) if self.form is SSIMForm.FOREGROUND else None
        images = torch.as_tensor(images)
        if self.disjoint:
            i = torch.arange(0, len(images) - 1, 2, device=embeddings.device)
            j = i + 1
            masks = {} if mask is None else {"foreground_x": mask[i], "foreground_y": mask[j]}
            target = ssim_pairs(images[i], images[j], form=self.form, data_range=self.data_range, **masks)
        else:
            i, j = torch.triu_indices(len(images), len(images), offset=1, device=embeddings.device)
            # (N, 1, H, W) -> (N, N)
            target = ssim_matrix(images, form=self.form, data_range=self.data_range, foreground=mask)[i, j]
        error = ((embeddings @ embeddings.T)[i, j] - target).abs() ** self.power
        index = (target.clamp(0, 1 - 1e-6) * self.bins).long()
        count = torch.bincount(index, minlength=self.bins).clamp(min=1)
        weight = count[index].float() ** -self.balance
        return (error * weight).sum() / weight.sum()


class TwoViewContrastiveLoss(nn.Module):
    """Return NT-Xent (Chen et al., SimCLR, ICML 2020) of a batch that holds two views of each image, side by side.

    The training of the contrastive rival (Dar et al.): MONAI's ContrastiveLoss in the order of a loader of views.

    Args:
        temperature: of the softmax.

    `forward` takes embeddings (2 N, D); the images are there because every loss of the bundle gets them.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.loss = ContrastiveLoss(temperature)

    def forward(self, embeddings: torch.Tensor, images: torch.Tensor | None = None) -> torch.Tensor:
        if len(embeddings) % 2:
            raise ValueError(f"expected two views of each image, got {len(embeddings)} embeddings")
        return self.loss(embeddings[0::2], embeddings[1::2])
