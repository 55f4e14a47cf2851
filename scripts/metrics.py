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

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.config import TensorOrList
from monai.data import MetaTensor
from monai.metrics import CumulativeIterationMetric
from monai.networks.utils import eval_mode
from numpy.typing import NDArray

from .auditing.found import Units
from .auditing.neighbors import nearest_subjects
from .auditing.search import Search
from .decision.criteria import Criteria, Method
from .decision.decide import decide
from .decision.null import Null
from .decision.rates import clustered_interval
from .decision.set_level import set_level
from .decision.statistic import LocalStatistic, Statistic
from .images.subjects import numbered_subjects
from .similarity.verification import Verifier, Verifies
from .similarity.volume_verification import VolumeVerifier

__all__ = ["MemorizationMetric", "MemorizationSummary"]

FILLED = 0.02  # of a given range, which images fill at least; numbers in [0, 1] fill 0.4 % of (0, 255)


@dataclass(frozen=True)
class _Found:
    """The best match of N images: its statistic, its score, its subject's number and its row in the reference, (N,).

    As a tensor (N, 4), which MONAI gathers from all processes; float64 keeps row numbers exact.
    """

    statistic: NDArray[np.float64]
    score: NDArray[np.float64]
    subject: NDArray[np.int64]
    image: NDArray[np.int64]

    @classmethod
    def of(cls, scores: NDArray, subjects: NDArray, images: NDArray, statistic: Statistic) -> _Found:
        """Return the best of each image's candidates, from arrays (N, k)."""
        best = (np.arange(len(scores)), scores.argmax(1))
        return cls(statistic(scores), scores[best].astype(float), subjects[best], images[best])

    def tensor(self) -> torch.Tensor:
        columns = (self.statistic, self.score, self.subject, self.image)
        return torch.stack([torch.from_numpy(column).double() for column in columns], dim=1)

    @classmethod
    def from_tensor(cls, data: torch.Tensor) -> _Found:
        statistic, score, subject, image = data.cpu().numpy().T
        return cls(statistic, score, subject.astype(int), image.astype(int))


@dataclass(frozen=True)
class MemorizationSummary:
    """What a set of N generated images has copied; arrays are (N,), in the order in which the images came.

    `rate` is the share of images called at the metric's `fdr`, `ci95` its interval by resampling training subjects;
    `leaked` names the subjects that leaked by their own test. `auc` and its interval say whether the set as a whole is
    nearer to train than real images are (0.5: it is not). `subject` and `reference` are the best training subject's id
    and its image's row, `score` the aligned SSIM (or cosine) with it; `memorized` is exactly q_value <= fdr.
    """

    rate: float
    ci95: tuple[float, float]
    leaked: list[str]
    auc: float | None
    auc_ci95: list[float] | None
    subject: NDArray[np.str_]
    reference: NDArray[np.int64]
    score: NDArray[np.float64]
    p_value: NDArray[np.float64]
    q_value: NDArray[np.float64]
    memorized: NDArray[np.bool_]


class MemorizationMetric(CumulativeIterationMetric):
    """Share of the generated images that are copies of training images, at a false-discovery rate.

    The audit of `configs/detect.yaml` in a training loop: each image is compared with its `k` nearest training
    subjects, and judged by how much nearer the best is than the next, against real images for which nothing was copied.
    Three things are left to the audit: matching the null's blur and noise to the generated images', slice levels, and
    the positive control.

    With images, candidates are aligned and scored by SSIM; with embeddings alone (`embedder=None`), by their cosine,
    which is weaker evidence: a copy's falls with its blur and noise, a stranger's does not.

    Generated images come as a batch (B, 1, H, W) or as a list of (1, H, W), as MONAI's engines hand over decollated
    batches; both are searched at once. Labels, `y`, are not looked at.

    Args:
        reference: training images (R, 1, H, W), or volumes (R, 1, X, Y, Z), where an embedder is given, else
            embeddings (R, D), L2-normalised. In a distributed run all processes need the same.
        embedder: images in, unit vectors out; it gets float32 on its own device.
        subject_ids: (R,) whose image each is; None: every image is a subject. Fewer than 6 subjects leave no null,
            and nothing is called.
        holdout: real images (or embeddings) that the generator never saw, for the null; None: training subjects are
            left out in turn.
        holdout_ids: whose image each of the holdout is; None: every image is a subject.
        verifier: aligns images; None with an embedder: ``Verifier()``, or of volumes ``VolumeVerifier()``.
        k: candidate subjects, at least 5.
        fdr: level of the false-discovery rate.
        p_value: `tail` or `rank`.
        value_range: lowest and highest value that all images may have, as (-1, 1), or (0, 255) of integers; reference,
            holdout and generated images are scaled from it to [0, 1]. None: they are floating-point numbers in [0, 1].

    Raises:
        ValueError: where shapes or ids disagree, an argument is out of range, or images are not in the range.
    """

    def __init__(
        self,
        reference: torch.Tensor,
        embedder: torch.nn.Module | None = None,
        subject_ids: Sequence[str] | None = None,
        holdout: torch.Tensor | None = None,
        holdout_ids: Sequence[str] | None = None,
        verifier: Verifies | None = None,
        k: int = 6,
        fdr: float = 0.05,
        p_value: Method = "tail",
        value_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.criteria, self.statistic = Criteria(fdr=fdr, p_value=p_value), LocalStatistic()
        if k < self.statistic.subjects:
            raise ValueError(f"k must be at least {self.statistic.subjects}, got {k}")
        if verifier is not None and embedder is None:
            raise ValueError("verifier aligns images, so it needs an embedder; embeddings alone cannot be aligned")
        if value_range is not None and (embedder is None or not value_range[0] < value_range[1]):
            raise ValueError(
                "value_range: expected the lowest and the highest value of images, and an embedder, found "
                f"{tuple(value_range)} and {'no' if embedder is None else 'an'} embedder; leave it out for embeddings"
            )
        self.embedder, self.k, self.value_range = embedder, k, value_range
        self._last: tuple[torch.Tensor, MemorizationSummary] | None = None  # what was summed up, and its summary
        if verifier is None and embedder is not None:
            verifier = VolumeVerifier() if reference.ndim == 5 else Verifier()
        self.verifier = verifier
        self.names, self.subjects = numbered_subjects(subject_ids, reference, "reference")
        self.images, self.vectors = self._embed(reference, "reference")
        if holdout is None:
            own = self.subjects
            found = self._search(self.images, self.vectors, leave_out=own)
        else:
            own = numbered_subjects(holdout_ids, holdout, "holdout")[1]
            found = self._search(*self._embed(holdout, "holdout"))
        correction, nearest = (2, found.subject) if holdout is None else (1, None)
        self.null = Null(found.statistic, own, np.full(len(own), np.nan), correction, nearest)

    def _embed(self, data: torch.Tensor, name: str) -> tuple[NDArray[np.float16] | None, NDArray[np.float32]]:
        """Return the images (N, H, W) or (N, X, Y, Z), if these are images, and their vectors (N, D)."""
        data = data.as_tensor() if isinstance(data, MetaTensor) else torch.as_tensor(data)
        images = self.embedder is not None
        if data.ndim not in ((4, 5) if images else (2,)) or (images and data.shape[1] != 1):
            shape = (
                "images (N, 1, H, W) or volumes (N, 1, X, Y, Z)"
                if images
                else "embeddings (N, D), as no embedder is given"
            )
            raise ValueError(f"{name} must be {shape}, got {tuple(data.shape)}")
        if self.embedder is None:
            return None, data.detach().float().cpu().numpy()
        data = self.scaled(data.detach(), name)
        weight = next(itertools.chain(self.embedder.parameters(), self.embedder.buffers()), data)
        with eval_mode(self.embedder):  # no gradients; every submodule gets its own mode back
            vectors = self.embedder(data.to(weight.device)).float().cpu().numpy()
        return data[:, 0].cpu().numpy().astype(np.float16), vectors

    def scaled(self, images: torch.Tensor, name: str = "generated") -> torch.Tensor:
        """Return images of the metric's range of values as float32 in [0, 1].

        Raises:
            ValueError: where they are not in the range, or fill next to nothing of it; `name` says which images.
        """
        if self.value_range is None and not images.is_floating_point():
            raise ValueError(
                f"{name}: expected floating-point images in [0, 1], found {images.dtype}; give the range of their "
                "values, as value_range=(0, 255)"
            )
        low, high = self.value_range or (0.0, 1.0)
        images = images.float()
        least, most = (images.min().item(), images.max().item()) if images.numel() else (low, low)
        found = f"{name}: expected images in [{low:g}, {high:g}], found {least:.3g} to {most:.3g}"
        if not (least >= low and most <= high):  # NaN is neither
            raise ValueError(f"{found}; give their range as value_range=(LOW, HIGH), or scale or clip them")
        if self.value_range is None:
            return images
        if 0 < most - least < FILLED * (high - low):
            raise ValueError(f"{found}, next to nothing of it; give their own range as value_range, or scale them")
        return (images - low) / (high - low)

    def _search(self, images: NDArray | None, vectors: NDArray, leave_out: NDArray | None = None) -> _Found:
        """Return the best match of each image; `leave_out` (N,) bars each one's own subject."""
        count = len(vectors)
        if self.verifier is None or images is None or self.images is None:
            candidates = nearest_subjects(vectors, self.vectors, self.subjects, self.k, exclude=leave_out)
            return _Found.of(candidates.similarity, candidates.subject, candidates.image, self.statistic)
        search = Search(self.vectors, self.images, self.subjects, self.verifier, self.k, self.statistic)
        own = np.full(count, -1) if leave_out is None else leave_out
        units = Units(vectors, images, np.arange(count), np.full(count, np.nan), own)
        verified = search(units, own)
        return _Found(verified.statistic, verified.best_ssim, verified.nearest, verified.at_best(verified.image))

    def _compute_list(self, y_pred: TensorOrList, y: TensorOrList | None = None, **kwargs: object) -> torch.Tensor:
        """Search for all images of the list at once, where MONAI would search for one after the other."""
        if isinstance(y_pred, torch.Tensor):  # the labels are a list
            return self._compute_tensor(y_pred)
        images = [torch.as_tensor(image) for image in y_pred]
        shapes = sorted({tuple(image.shape) for image in images})
        if len(shapes) != 1:
            raise ValueError(f"generated: expected a list of images of one shape, found {shapes or 'none'}")
        return self._compute_tensor(torch.stack([image.as_subclass(torch.Tensor) for image in images]))

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: object) -> torch.Tensor:
        return self._search(*self._embed(y_pred, "generated")).tensor()

    def aggregate(self) -> torch.Tensor:
        """Return the rate of copies among all images since the last reset, a scalar in [0, 1]."""
        return torch.tensor(self.summary().rate)

    def summary(self) -> MemorizationSummary:
        """Return what aggregate() counts, with its interval and the matches.

        Raises:
            ValueError: if no image came since the last reset.
        """
        data = self.get_buffer()
        if not isinstance(data, torch.Tensor):
            raise ValueError("expected images before aggregate(), got none since the last reset")
        if self._last is None or not torch.equal(data, self._last[0]):  # handlers ask several times
            self._last = data, self._summary(_Found.from_tensor(data))
        return self._last[1]

    def _summary(self, found: _Found) -> MemorizationSummary:
        unknown = np.full(len(found.statistic), np.nan)
        decision = decide(found.statistic, unknown, found.subject, self.null, self.criteria)
        rng = np.random.RandomState(0)  # the same images give the same intervals in every process
        whole = set_level(found.statistic, self.null.statistic, self.null.subject, rng)
        return MemorizationSummary(
            rate=float(decision.memorized.mean()),
            ci95=clustered_interval(decision.memorized, found.subject, rng),
            leaked=self.names[decision.leaks.at(self.criteria.fdr)].tolist(),
            auc=whole.auc,
            auc_ci95=whole.ci95,
            subject=self.names[found.subject],
            reference=found.image,
            score=found.score,
            p_value=decision.p_value,
            q_value=decision.q_value,
            memorized=decision.memorized,
        )
