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

from .slices import foreground
from .ssim import SSIMForm, ssim_matrix

__all__ = ["PairwiseSSIMLoss"]


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

    `forward` takes embeddings (N, D), L2-normalised, and the un-augmented images (N, 1, H, W) in [0, 1].
    """

    def __init__(self, form: str = "foreground", bins: int = 10, balance: float = 0.5, power: int = 2) -> None:
        super().__init__()
        self.form, self.bins, self.balance, self.power = SSIMForm(form), bins, balance, power

    def forward(self, embeddings: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        if len(embeddings) != len(images) or len(images) < 2:
            raise ValueError(
                f"embeddings and images must be one batch of at least 2, got {len(embeddings)} and {len(images)}"
            )
        mask = foreground(images) if self.form is SSIMForm.FOREGROUND else None
        images = torch.as_tensor(images)
        target = ssim_matrix(images, form=self.form, data_range=1.0, foreground=mask)  # (N, 1, H, W) -> (N, N)
        i, j = torch.triu_indices(len(images), len(images), offset=1, device=embeddings.device)
        target = target[i, j]
        error = ((embeddings @ embeddings.T)[i, j] - target).abs() ** self.power
        index = (target.clamp(0, 1 - 1e-6) * self.bins).long()
        count = torch.bincount(index, minlength=self.bins).clamp(min=1)
        weight = count[index].float() ** -self.balance
        return (error * weight).sum() / weight.sum()
