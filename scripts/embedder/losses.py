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

"""DeepSSIM's training objective: the SSIM of all pairs of a batch, and how each image was moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.losses import ContrastiveLoss

from ..images.foreground import foreground
from ..similarity.ssim import SSIMForm, ssim_matrix, ssim_pairs
from .networks import Estimate
from .published import z_scores

__all__ = ["CopyLoss", "FingerprintLoss", "PairwiseSSIMLoss", "PoseLoss", "PosedLoss", "TwoViewContrastiveLoss"]


class PairwiseSSIMLoss(nn.Module):
    """Return the mean squared (or absolute) difference of cosine and SSIM over the N (N - 1) / 2 pairs of a batch.

    The published loss (arXiv 2509.16582, eq. 2) compares N / 2 disjoint pairs a step; all pairs of the same N forward
    passes carry about N times as many targets. Most pairs of a batch are of different subjects, so pairs are weighted
    by the inverse count of their bin of SSIM: without it the range that audits live on is hardly trained.

    Args:
        form: the :class:`~scripts.similarity.ssim.SSIMForm` of the targets.
        bins: bins of [0, 1] to balance; 1 weights all pairs alike.
        balance: 1 gives every occupied bin the same total weight, 0 every pair.
        power: 2 for the loss, 1 for a mean absolute error as a validation metric.
        disjoint: compare only the first image with the second, the third with the fourth and so on, as published.
        data_range: dynamic range of the images for the targets; None takes it from each pair as `form` says.
        standardize: take the targets of images of mean 0 and deviation 1, over all pixels, as the published code does.

    `forward` takes embeddings (N, D), L2-normalised, and the un-augmented images (N, 1, H, W), or volumes, in [0, 1].
    """

    def __init__(
        self,
        form: str = "foreground",
        bins: int = 10,
        balance: float = 0.5,
        power: int = 2,
        disjoint: bool = False,
        data_range: float | None = 1.0,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        self.form, self.bins, self.balance, self.power = SSIMForm(form), bins, balance, power
        self.disjoint, self.data_range, self.standardize = disjoint, data_range, standardize

    def forward(self, embeddings: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        if len(embeddings) != len(images) or len(images) < 2:
            raise ValueError(
                f"embeddings and images must be one batch of at least 2, got {len(embeddings)} and {len(images)}"
            )
        mask = foreground(images, dims=images.ndim - 2) if self.form is SSIMForm.FOREGROUND else None
        images = torch.as_tensor(images)
        if self.standardize:
            images = z_scores(images)
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


class FingerprintLoss(nn.Module):
    """Return the triplet margin loss of a batch that holds two images of each subject, side by side.

    The training of the fingerprinting rival (Gaspar Alves et al., arXiv 2512.16685): each image is an anchor, the
    other one of its subject the positive, and the negatives are those of other subjects that lie nearer to the anchor
    than the positive, or the nearest one. Their code draws one of these negatives; here it is the mean over them all.

    Args:
        margin: by which a negative has to lie farther than the positive, of distances of at most 2. Theirs is 4, of
            embeddings of any length.

    `forward` takes embeddings (2 N, D), L2-normalised; the images are there because every loss of the bundle gets them.
    """

    def __init__(self, margin: float = 0.2) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, embeddings: torch.Tensor, images: torch.Tensor | None = None) -> torch.Tensor:
        if len(embeddings) % 2 or len(embeddings) < 4:
            raise ValueError(f"expected two images of each of 2 or more subjects, got {len(embeddings)} embeddings")
        number = torch.arange(len(embeddings), device=embeddings.device)
        exact = "donot_use_mm_for_euclid_dist"  # by squares, small distances lose their digits
        distance = torch.cdist(embeddings, embeddings, compute_mode=exact)  # (2 N, D) -> (2 N, 2 N)
        positive = distance[number, number ^ 1]
        own = number[:, None] // 2 == number[None] // 2
        with torch.no_grad():
            chosen = ~own & (distance < positive[:, None])
            nearest = distance.masked_fill(own, torch.inf).argmin(1)
            chosen[number, nearest] |= ~chosen.any(1)
        missing = F.relu(positive[:, None] - distance + self.margin) * chosen
        return (missing.sum(1) / chosen.sum(1)).mean()


class CopyLoss(nn.Module):
    """Return NT-Xent of each group's anchor and its near-duplicate, against all else in the batch.

    A bent copy and the neighbouring slice of an image can have one SSIM, yet only one of them is a copy; this
    tells them apart. Negatives are the images of other groups and the group's own neighbouring slice; its mixture,
    which may be nearly the anchor, is left out.

    Args:
        group: images of a :class:`~scripts.embedder.groups.SliceGroups` index: anchor, neighbour, near-duplicates,
            mixture.
        temperature: of the softmax.

    `forward` takes embeddings (N, D), L2-normalised, N a multiple of `group`.
    """

    def __init__(self, group: int = 4, temperature: float = 0.1) -> None:
        super().__init__()
        self.group, self.temperature = group, temperature

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        number = torch.arange(len(embeddings), device=embeddings.device)
        place, owner = number % self.group, number // self.group
        pair = (place == 0) | (place == 2)
        queries = number[pair]
        logits = embeddings[queries] @ embeddings.T / self.temperature
        own = owner[queries][:, None] == owner[None]
        positive = queries + torch.where(place[queries] == 0, 2, -2)
        # of its own group only the partner and the neighbouring slice are compared
        left_out = own & (place[None] != 1) & (number[None] != positive[:, None])
        return F.cross_entropy(logits.masked_fill(left_out, -torch.inf), positive)


class PoseLoss(nn.Module):
    """Return how far an :class:`~scripts.embedder.networks.Estimate` is from the misalignment that was applied.

    The cross entropy of the orientation, plus distances of points of the image, three a side, in units of 3 pixels: of
    the coarse transform of the right orientation to the inverse of the applied one, and of the refined transform, where
    it follows the right orientation, to the same (`1 - agreement`) and to the mean of its group (`agreement`). Images
    of a group lie alike before they are moved, so their estimates have to agree; the pose that a head had in its
    scanner cannot be known from a moved image, and asking for it would teach the training subjects by heart.

    Args:
        spatial_size: sides of the images or volumes.
        group: images in a row that lie alike before they are moved.
        agreement: weight of the agreement within a group, in [0, 1]; of no effect for groups of one.
        mirrored_axes: those of the network.

    `forward` takes an estimate of N images and the matrices (N, 2, 3) or (N, 3, 4) that moved them, as
    :class:`~scripts.images.augmentations.RandMisalignd` reports them: of less than a quarter turn, after flips.
    """

    points: torch.Tensor

    def __init__(
        self,
        spatial_size: Sequence[int] = (96, 112),
        group: int = 1,
        agreement: float = 0.8,
        mirrored_axes: Sequence[int] = (0, 1),
    ) -> None:
        super().__init__()
        self.group, self.agreement = group, agreement if group > 1 else 0.0
        self.mirrored_axes = mirrored_axes
        sides = (torch.tensor([-0.4, 0.0, 0.4]) * n for n in spatial_size)
        points = torch.cartesian_prod(*sides).T  # (axes, 3 ** axes)
        self.register_buffer("points", torch.cat([points, torch.ones(1, points.shape[1])]), persistent=False)

    def forward(self, estimate: Estimate, matrix: torch.Tensor) -> torch.Tensor:
        if len(matrix) != len(estimate.scores) or len(matrix) % self.group:
            raise ValueError(
                f"matrix: expected one for each of {len(estimate.scores)} images in groups of {self.group}, found "
                f"{len(matrix)}; change group or the batch size"
            )
        dims = matrix.shape[1]
        flips = torch.where(torch.diagonal(matrix[:, :, :dims], dim1=1, dim2=2) < 0, -1.0, 1.0)  # (N, dims)
        sides = [(flips[:, axis] < 0).long() << bit for bit, axis in enumerate(self.mirrored_axes)]
        orientation = torch.stack(sides).sum(0)
        row = torch.arange(len(matrix), device=matrix.device)
        mirror = torch.diag_embed(flips)
        # mirrored back, the image shows x at matrix @ mirror @ x: what is left to undo
        inverse = torch.linalg.inv(matrix[:, :, :dims] @ mirror)
        wanted = torch.cat([inverse, -inverse @ matrix[:, :, dims:]], 2) @ self.points  # (N, dims, points)
        coarse = _distance(estimate.coarse[row, orientation] @ self.points, wanted).mean()
        followed = (estimate.chosen == orientation[:, None]).float()  # (N, K)
        weight = followed.sum(1)
        points = (estimate.refined * followed[:, :, None, None]).sum(1) @ self.points
        refined = (_distance(points, wanted) * weight).sum() / weight.sum().clamp(min=1)
        # where the points of the upright image lay before anything was moved
        before = matrix[:, :, :dims] @ (mirror @ points) + matrix[:, :, dims:]
        groups, weights = before.unflatten(0, (-1, self.group)), weight.view(-1, self.group)
        mean = (groups * weights[:, :, None, None]).sum(1) / weights.sum(1).clamp(min=1)[:, None, None]
        apart = _distance(groups.flatten(0, 1), mean.repeat_interleave(self.group, 0))
        agreement = (apart * weight).sum() / weight.sum().clamp(min=1)
        refined = self.agreement * agreement + (1 - self.agreement) * refined
        return F.cross_entropy(estimate.scores, orientation) + (coarse + refined) / 3


class PosedLoss(nn.Module):
    """Return `embedding_loss` + `weight` times `pose_loss` + `copy_weight` times `copy_loss`.

    Args:
        embedding_loss: of embeddings (N, D) and un-augmented images (N, 1, H, W).
        pose_loss: of an :class:`~scripts.embedder.networks.Estimate` and matrices (N, 2, 3); None for a network that
            estimates none.
        weight: of the pose loss.
        copy_loss, copy_weight: of embeddings alone, and its weight; not computed where that is 0.

    `forward` takes what :class:`~scripts.embedder.networks.Posed` returns, or embeddings alone where `pose_loss` is
    None, and what :class:`~scripts.embedder.groups.PrepareMoved` makes as label.
    """

    def __init__(
        self,
        embedding_loss: nn.Module,
        pose_loss: nn.Module | None,
        weight: float = 0.003,
        copy_loss: nn.Module | None = None,
        copy_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding_loss, self.pose_loss, self.weight = embedding_loss, pose_loss, weight
        self.copy_loss, self.copy_weight = copy_loss, copy_weight

    def forward(
        self, found: torch.Tensor | tuple[torch.Tensor, Estimate], label: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        embeddings = found if isinstance(found, torch.Tensor) else found[0]
        loss = self.embedding_loss(embeddings, label["image"])
        if self.copy_loss is not None and self.copy_weight:
            loss = loss + self.copy_weight * self.copy_loss(embeddings)
        if self.pose_loss is not None:
            loss = loss + self.weight * self.pose_loss(found[1], label["matrix"])
        return loss


def _distance(points: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return the mean distance (N,) of points (N, axes, P), smooth at 0."""
    return ((points - others).pow(2).sum(1) + 0.01).sqrt().mean(1)
