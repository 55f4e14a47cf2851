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

"""What does a whole audit find when a method retrieves for it?"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..auditing.audit import Audit
from ..embedder.embedding_set import EmbeddingSet
from ..images.items import Item
from ..images.loading import SliceSet
from .benchmark_results import AuditScores
from .pairs import DegradedCopies
from .rivals import SearchMethod

__all__ = ["AuditTask", "AuditTrial"]

logger = logging.getLogger(__name__)

NEW = -1  # the source of an image that copies nobody


@dataclass(frozen=True)
class AuditTrial:
    """A training set (R rows) and generated `images` (Q, H, W): copies of it, and images of new subjects.

    `source` (Q,) is the subject that an image copies, NEW for none.
    """

    train: SliceSet
    images: NDArray[np.float32]
    source: NDArray[np.int64]


@dataclass(frozen=True)
class AuditTask:
    """Audits sets whose copies are known.

    Attributes:
        audit: the audit that a method retrieves for.
        conditions: names of those in which whole audits run.
        audits: of each method.
        copies: in an audit, and as many new images.
        train_share: share of the subjects that are training subjects.
        seed: of the first audit; the others' follow.
    """

    audit: Audit
    conditions: Sequence[str] = ()
    audits: int = 3
    copies: int = 60
    train_share: float = 0.7
    seed: int = 0

    def draw(self, slices: SliceSet, copies: DegradedCopies) -> list[AuditTrial]:
        """Return the sets of all audits, whose generated images no condition moves."""
        trials = []
        for draw in range(self.audits):
            rng = np.random.RandomState(self.seed + draw)
            subjects = rng.permutation(slices.subjects)
            known = np.isin(slices.subject, subjects[: round(self.train_share * slices.subjects)])
            copied = rng.choice(np.flatnonzero(known), self.copies)
            new = rng.choice(np.flatnonzero(~known), self.copies)
            train = replace(
                slices, images=slices.images[known], subject=slices.subject[known], level=slices.level[known]
            )
            images = copies(slices.images[np.r_[copied, new]], rng)  # new images are degraded alike
            trials.append(AuditTrial(train, images, np.r_[slices.subject[copied], np.full(len(new), NEW)]))
        return trials

    def __call__(self, method: SearchMethod, trials: Sequence[AuditTrial]) -> AuditScores:
        """Return the recall and the share of false calls of each audit."""
        recall, false_share = [], []
        for trial in trials:
            called, subject = self._calls(method.fit(trial.train.images), trial)
            recall.append(float((called & (subject == trial.source)).sum() / self.copies))
            false_share.append(float((called & (trial.source == NEW)).sum() / max(1, called.sum())))
            logger.info("recall %.3f", recall[-1])
        return AuditScores(recall, false_share)

    def _calls(self, method: SearchMethod, trial: AuditTrial) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return which images (Q,) are called, and the subject that each is said to copy."""
        train = trial.train
        audit = self.audit.using(_RowsOfScores(method, train.images))
        # a query's vector is its row of scores, a reference's a unit vector: their inner product is the score
        unit = np.eye(len(train.images), dtype=np.float32)
        number = np.arange(len(trial.images))
        scores = method.matrix(trial.images, train.images)
        result = audit(
            _embedding_set(train, unit),
            _embedding_set(SliceSet(trial.images, number, np.full(len(number), np.nan)), scores),
        )
        names = np.array([int(name) for name in result.subject_names])
        return result.memorized, names[result.found.at_best(result.found.subject)]


@dataclass(frozen=True)
class _RowsOfScores:
    """Stands in for an audit's embedder: an image's vector is its row of scores with the references (R, H, W)."""

    method: SearchMethod
    references: NDArray[np.float32]

    def embed_images(self, images: NDArray) -> NDArray[np.float32]:
        """Return the scores (N, R) of images (N, H, W)."""
        return self.method.matrix(np.asarray(images, np.float32), self.references)


def _embedding_set(slices: SliceSet, vectors: NDArray[np.float32]) -> EmbeddingSet:
    items: list[Item] = [
        {"id": str(row), "image": "", "subject_id": str(number)} for row, number in enumerate(slices.subject)
    ]
    rows = np.arange(len(items))
    return EmbeddingSet(
        items, rows, np.full(len(rows), -1), slices.level, vectors, slices.images.astype(np.float16), []
    )
