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

"""Memorization as a MONAI metric, for training loops that generate images as they go."""

from __future__ import annotations

from typing import Any

import torch
from monai.metrics import CumulativeIterationMetric
from monai.metrics.utils import do_metric_reduction
from monai.networks.utils import eval_mode
from monai.utils import MetricReduction

__all__ = ["MemorizationMetric", "similarity_to_nearest"]


def similarity_to_nearest(query: torch.Tensor, reference: torch.Tensor, block: int = 65536) -> torch.Tensor:
    """Return the cosine of each query embedding with its nearest reference, shape (Q, 1), in [-1, 1].

    Args:
        query, reference: (Q, D) and (R, D), L2-normalised.
        block: references compared at a time, so that memory grows with Q x block, not with Q x R.
    """
    if query.ndim != 2 or reference.ndim != 2 or query.shape[1] != reference.shape[1] or len(reference) == 0:
        raise ValueError(
            f"query and reference must be (Q, D) and (R, D), R > 0, got {tuple(query.shape)} and "
            f"{tuple(reference.shape)}"
        )
    best = torch.full((len(query),), -torch.inf, device=query.device)
    for part in reference.split(block):
        best = torch.maximum(best, (query @ part.to(query).T).amax(1))  # (Q, D) x (D, b) -> (Q,)
    return best[:, None]


class MemorizationMetric(CumulativeIterationMetric):
    """DeepSSIM similarity of generated images to the nearest training image, averaged over the images given so far.

    It watches a training loop; which images are copies is what ``configs/detect.yaml`` decides, with an error rate.

    Args:
        reference: training images (R, 1, H, W) where an embedder is given, else embeddings (R, D), L2-normalised.
        embedder: images in, unit vectors out; None: all inputs are embeddings.
        reduction: MONAI's reduction over the images.
    """

    def __init__(
        self,
        reference: torch.Tensor,
        embedder: torch.nn.Module | None = None,
        reduction: MetricReduction | str = MetricReduction.MEAN,
    ) -> None:
        super().__init__()
        self.embedder, self.reduction = embedder, reduction
        self.reference = self._embed(reference)

    def _embed(self, images: torch.Tensor) -> torch.Tensor:
        if self.embedder is None:
            return images
        with eval_mode(self.embedder):  # no gradients; every submodule gets its own mode back
            return self.embedder(images)

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        return similarity_to_nearest(self._embed(y_pred), self.reference)

    def aggregate(self, reduction: MetricReduction | str | None = None) -> torch.Tensor:
        """Return the reduced similarity of all images since the last reset."""
        data = self.get_buffer()
        if not isinstance(data, torch.Tensor):
            raise ValueError("expected images before aggregate(), got none since the last reset")
        return do_metric_reduction(data, reduction or self.reduction)[0]
