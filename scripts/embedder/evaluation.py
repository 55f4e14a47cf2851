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

"""How well an embedder does on subjects that it was not trained on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from monai.utils import CommonKeys
from numpy.typing import NDArray

from ..bundle.files import replacing
from ..images.foreground import foreground
from ..similarity.ssim import ssim_matrix
from .groups import COPY, Group, SliceGroups

__all__ = ["BinError", "HeldOutSummary", "SSIMErrors", "held_out_summary", "ssim_errors"]


MOST_GROUPS = 100  # whose pairs are compared with SSIM, all in one matrix
FEWEST_PAIRS = 10  # of a bin


@dataclass(frozen=True)
class BinError:
    """Pairs of one bin of SSIM: the score's mean absolute `error`, that of a `constant`, and SSIM's own deviation."""

    pairs: int
    error: float
    constant: float
    spread: float


@dataclass(frozen=True)
class SSIMErrors:
    """How far a score is from SSIM.

    Attributes:
        bins: by their lower edge; those of fewer than 10 pairs are left out.
        mean_of_bins: mean absolute error, all bins alike.
        constant: the same of the median of SSIM, the best constant, in place of the score.
        spread: standard deviation of SSIM over all pairs.
    """

    bins: dict[str, BinError]
    mean_of_bins: float
    constant: float
    spread: float


def ssim_errors(score: NDArray, truth: NDArray, bins: int = 10) -> SSIMErrors:
    """Return the errors of a score (P,) against SSIM (P,) in equal bins of [0, 1]; NaN where all bins are too small."""
    index = np.minimum((truth.clip(0) * bins).astype(int), bins - 1)
    error, constant = np.abs(score - truth), np.abs(truth - np.median(truth))
    rows = {}
    for number in range(bins):
        inside = index == number
        if (pairs := int(inside.sum())) >= FEWEST_PAIRS:
            rows[f"{number / bins:.1f}"] = BinError(
                pairs, float(error[inside].mean()), float(constant[inside].mean()), float(truth[inside].std())
            )
    means = [(row.error, row.constant) for row in rows.values()] or [(float("nan"), float("nan"))]
    error_of_bins, constant_of_bins = np.mean(means, axis=0).tolist()
    return SSIMErrors(rows, error_of_bins, constant_of_bins, float(truth.std()))


@dataclass(frozen=True)
class HeldOutSummary:
    """How well an embedder does on held-out subjects; as text the sentences for a person.

    Attributes:
        subjects, images: their numbers.
        ssim_error: mean absolute error of the cosine to SSIM over pairs of moved images, bins of SSIM alike.
        constant: what the median of SSIM in place of the cosine would have.
        recall: share of moved copies whose own subject is among the first, by how many are looked at.
    """

    subjects: int
    images: int
    ssim_error: float
    constant: float
    recall: dict[int, float]

    def __str__(self) -> str:
        recall = ", ".join(
            f"{share:.1%} within {k} of {self.subjects} (chance {k / self.subjects:.0%})"
            for k, share in self.recall.items()
        )
        error = f"{self.ssim_error:.3f}; of a constant: {self.constant:.3f}"
        return (
            f"Held-out subjects: {self.subjects}, {self.images} images.\n"
            "Mean absolute error of the cosine to SSIM on moved images, bins of SSIM weighing alike: "
            f"{error if np.isfinite(self.ssim_error) else 'too few images to say'}.\n"
            f"Moved copies whose own subject is found: {recall or 'one subject alone tells nothing'}."
        )


Embed = Callable[[Sequence[torch.Tensor]], torch.Tensor]


def held_out_summary(
    network: torch.nn.Module,
    groups: SliceGroups,
    inferer: Callable[[torch.Tensor, torch.nn.Module], torch.Tensor],
    output: str | os.PathLike,
    device: torch.device | str = "cpu",
    shown: Sequence[int] = (1, 6),
    batch_size: int = 64,
) -> HeldOutSummary:
    """Return how well an embedder does on subjects that it was not trained on; print it, and write it to `output`.

    Each image's near-duplicate, moved, is searched among all images: is its subject the nearest, or within the first
    `shown` ones? The error of the cosine to foreground SSIM is over all pairs of at most 100 groups.

    Args:
        network: in evaluation mode, on `device`.
        groups: of held-out subjects, seeded.
        inferer: called as ``inferer(images, network)``.
        output: JSON file to write.
        device: where the network is.
        shown: numbers of subjects; those that would be all are left out.
        batch_size: images in a forward pass.
    """

    def embed(images: Sequence[torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            blocks = torch.stack(list(images)).float().split(batch_size)  # (B, 1, H, W) each
            return torch.cat([inferer(block.to(device), network).float().cpu() for block in blocks])

    drawn = [groups[index] for index in range(len(groups))]
    subjects = len({item["subject_id"] for item in groups.items})
    rank = _ranks(groups, drawn, embed)
    errors = _errors([entry for group in drawn[:: -(-len(drawn) // MOST_GROUPS)] for entry in group], embed)
    recall = {k: float((rank < k).float().mean()) for k in shown if k < subjects}
    summary = HeldOutSummary(subjects, len(groups), errors.mean_of_bins, errors.constant, recall)
    with replacing(output) as temporary:
        values = {key: None if value != value else value for key, value in asdict(summary).items()}  # JSON has no NaN
        temporary.write_text(json.dumps(values, indent=1, allow_nan=False), encoding="utf-8")
    print(summary)
    return summary


def _ranks(groups: SliceGroups, drawn: Sequence[Group], embed: Embed) -> torch.Tensor:
    """Return for each group's moved copy how many subjects come before its own in a search of all images, (N,)."""
    names = sorted({item["subject_id"] for item in groups.items})
    subject = torch.tensor([names.index(item["subject_id"]) for item in groups.items])
    reference = embed([torch.as_tensor(item["image"]) for item in groups.items])
    similarity = embed([group[COPY][CommonKeys.IMAGE] for group in drawn]) @ reference.T  # (N, N)
    best = torch.stack([similarity[:, subject == s].amax(1) for s in range(len(names))], 1)  # (N, S)
    return (best > best.gather(1, subject[:, None])).sum(1)


def _errors(images: Group, embed: Embed) -> SSIMErrors:
    """Return the errors of the cosine of moved images to the SSIM before they were moved, over all pairs."""
    label = torch.stack([entry[CommonKeys.LABEL] for entry in images])
    vectors = embed([entry[CommonKeys.IMAGE] for entry in images])
    upper = np.triu_indices(len(images), 1)
    truth = ssim_matrix(label, form="foreground", data_range=1.0, foreground=foreground(label, dims=label.ndim - 2))
    return ssim_errors((vectors @ vectors.T).numpy()[upper], np.asarray(truth)[upper])
