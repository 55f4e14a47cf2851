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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.utils import CommonKeys
from numpy.typing import NDArray

from ..images.foreground import foreground
from ..similarity.ssim import ssim_matrix
from .groups import COPY, SliceGroups

__all__ = ["held_out_summary", "ssim_errors"]


def held_out_summary(
    network: torch.nn.Module,
    groups: SliceGroups,
    inferer: Callable[..., torch.Tensor],
    output: str | Path,
    device: torch.device | str = "cpu",
    shown: Sequence[int] = (1, 6),
    batch_size: int = 64,
) -> dict[str, Any]:
    """Say how well an embedder does on subjects that it was not trained on; return it and write it to `output` (JSON).

    Each image's near-duplicate, moved, is searched among all images: is its subject the nearest, or within the first
    `shown` ones? `ssim_error` is the mean absolute error of the cosine to foreground SSIM over all pairs of at most 100
    groups, all bins of SSIM alike, and `constant` what their median in place of the cosine would have.

    Args:
        network: in evaluation mode, on `device`.
        groups: of held-out subjects, seeded.
        inferer: called as ``inferer(images, network)``.
        output: file to write.
        device: where the network is.
        shown: numbers of subjects.
        batch_size: images in a forward pass.
    """

    def embed(images: Sequence[torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([inferer(block.to(device), network).float().cpu() for block in _stack(images, batch_size)])

    names = sorted({str(item["subject_id"]) for item in groups.items})
    subject = torch.tensor([names.index(str(item["subject_id"])) for item in groups.items])
    drawn = [groups[index] for index in range(len(groups))]
    reference = embed([torch.as_tensor(item["image"]) for item in groups.items])
    similarity = embed([group[COPY][CommonKeys.IMAGE] for group in drawn]) @ reference.T  # (N, N)
    best = torch.stack([similarity[:, subject == s].amax(1) for s in range(len(names))], 1)  # (N, S)
    rank = (best > best.gather(1, subject[:, None])).sum(1)
    some = [entry for group in drawn[:: -(-len(drawn) // 100)] for entry in group]  # all pairs in one matrix
    label = torch.stack([entry[CommonKeys.LABEL] for entry in some])
    vectors = embed([entry[CommonKeys.IMAGE] for entry in some])
    upper = np.triu_indices(len(some), 1)
    truth = ssim_matrix(label, form="foreground", data_range=1.0, foreground=foreground(label))
    errors = ssim_errors((vectors @ vectors.T).numpy()[upper], np.asarray(truth)[upper])
    shares = {k: float((rank < k).float().mean()) for k in shown if k < len(names)}
    result = {
        "subjects": len(names),
        "images": len(groups),
        "ssim_error": errors["mean_of_bins"],
        "constant": errors["constant"],
        "recall": {str(k): share for k, share in shares.items()},
    }
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    Path(output).write_text(json.dumps(result, indent=1))
    recall = ", ".join(
        f"{share:.1%} within {k} of {len(names)} (chance {k / len(names):.0%})" for k, share in shares.items()
    )
    print(
        f"Held-out subjects: {len(names)}, {len(groups)} images.\n"
        "Mean absolute error of the cosine to SSIM on moved images, bins of SSIM weighing alike: "
        f"{errors['mean_of_bins']:.3f}; of a constant: {errors['constant']:.3f}.\n"
        f"Moved copies whose own subject is found: {recall or 'one subject alone tells nothing'}."
    )
    return result


def _stack(images: Sequence[torch.Tensor], size: int) -> Iterator[torch.Tensor]:
    """Yield batches (B, 1, H, W) of at most `size` images."""
    for start in range(0, len(images), size):
        yield torch.stack(list(images[start : start + size])).float()


def ssim_errors(score: NDArray, truth: NDArray, bins: int = 10) -> dict[str, Any]:
    """Return the mean absolute error of the score in bins of SSIM, beside that of the best constant and the bin's
    standard deviation of SSIM; bins of fewer than 10 pairs are left out."""
    index = np.minimum((truth.clip(0) * bins).astype(int), bins - 1)
    error, constant = np.abs(score - truth), np.abs(truth - np.median(truth))
    rows = {
        f"{b / bins:.1f}": {
            "pairs": int((index == b).sum()),
            "error": float(error[index == b].mean()),
            "constant": float(constant[index == b].mean()),
            "spread": float(truth[index == b].std()),
        }
        for b in range(bins)
        if (index == b).sum() >= 10
    }
    return {
        "bins": rows,
        "mean_of_bins": float(np.mean([row["error"] for row in rows.values()])),
        "constant": float(np.mean([row["constant"] for row in rows.values()])),
        "spread": float(truth.std()),
    }
