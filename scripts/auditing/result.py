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

"""What an audit finds, as one value, and everything that the report says of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..decision.criteria import Criteria
from ..decision.decide import Decision
from ..decision.labels import Label, Thresholds
from ..decision.null import Null
from ..decision.set_level import SetLevel
from ..decision.statistic import Statistic
from ..embedder.embedding_set import EmbeddingSet
from ..similarity.verification import Verifies
from .calibration import Calibration, Control
from .findings import SetFit
from .found import Found, Units

__all__ = ["AuditResult", "Match", "Tier", "Verdict"]


class Tier(StrEnum):
    """What an image is: a call whose fine detail agrees with its training image's, another call, or none.

    A likeness is too near to one person to be chance. It may be a part of a copy, a mixture, another scan of that
    person, or the image of a half-trained model.
    """

    COPY = "copy"
    LIKENESS = "likeness"
    NONE = "none"


class Verdict(StrEnum):
    """What an audit amounts to. `likenesses`: images were called, but none is a copy. `inconclusive`: nothing was
    called, but copies could not have been recognised."""

    COPIES = "copies"
    LIKENESSES = "likenesses"
    NO_COPYING = "no copying found"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Match:
    """The best training image of one generated image or volume.

    `rows` are its rows in the generated set, `file` its file there. `subject` is the training subject's number, -1 for
    none. `row` is the row that matches best and `train_row` what it matches; `train_file` is the file that most rows
    match. `similarity` is the mean cosine of the rows, `aligned_ssim` their mean. `square` is the one that decided
    where copies of a part are looked for: first row, first column and side, in pixels.
    """

    unit: int
    rows: NDArray[np.int64]
    file: int
    subject: int
    row: int
    train_row: int
    train_file: int
    similarity: float
    aligned_ssim: float
    mirrored: bool
    square: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class AuditResult:
    """Everything the report needs; arrays are (U,), one entry a generated image or volume.

    `subject_names` (S,) are the training subjects', by number, and `train_subject` (R,) the number of each training
    row. `verifier` aligned all pairs. `leave_one_out` is the null of training subjects left out in turn, `null` the one
    that decided. `detail` (U,) is how far the fine detail of a called image agrees with its match's, NaN for others.
    `merged` lists the ids that were made one subject as their scans are near-copies, and `unmerged_count`
    how many images would have been called otherwise. `fit` says whether the two sets fit. `shared` counts the training
    files that the holdout holds too, under whatever name, and `shared_people` are the pairs (holdout subject, training
    subject) that are one person.
    """

    train: EmbeddingSet
    generated: EmbeddingSet
    holdout: EmbeddingSet | None
    subject_names: list[str]
    train_subject: NDArray[np.int64]
    units: Units
    found: Found
    null: Null
    leave_one_out: Null
    decision: Decision
    criteria: Criteria
    statistic_used: Statistic
    verifier: Verifies
    calibration: Calibration
    control: Control
    set_level: SetLevel
    thresholds: Thresholds
    detail: NDArray[np.float64]
    merged: list[list[str]] = field(default_factory=list)
    unmerged_count: int | None = None
    fit: SetFit = field(default_factory=SetFit)
    shared: int = 0
    shared_people: list[tuple[str, str]] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether volumes were taken whole; else images are planar, or the slices of volumes."""
        return self.train.images.ndim == 4

    @property
    def several_images(self) -> bool:
        """Whether a training subject has several images, of which one is named."""
        return int(np.bincount(self.train_subject).max(initial=0)) > 1

    @property
    def bend_unit(self) -> str:
        """What bends are counted in: pixels, or voxels of so many mm."""
        mm = getattr(self.verifier, "voxel_mm", None)
        return "pixels" if mm is None else f"voxels of {mm:g} mm"

    @property
    def doubts(self) -> list[str]:
        """Why copies might not have been recognised, a sentence each; none where a clean answer is earned."""
        criteria, (low, high) = self.criteria, self.control.ci95
        subjects, needed = len(self.subject_names), self.statistic_used.subjects + 1
        skipped = {
            name: len(data.skipped) / (len(data.skipped) + len(data.items))
            for name, data in (("training", self.train), ("generated", self.generated), ("holdout", self.holdout))
            if data is not None
        }
        shown = ", ".join(f"{a} is {b}" for a, b in self.shared_people[:3])
        shown += f" and {len(self.shared_people) - 3} more" if len(self.shared_people) > 3 else ""
        return [
            text
            for applies, text in (
                (
                    not self.fit.fits,
                    "The generated images do not resemble the training images as a set: their likeness "
                    f"is {self.fit.likeness or 0:.2f}, that of training images {self.fit.expected or 0:.2f}.",
                ),
                (
                    self.fit.mixed > 0,
                    f"About {self.fit.mixed:.0%} of the generated images do not fit as the others do: they lie in "
                    "another way, are inverted or of another size, and could not be put right. Calls among them may be "
                    "wrong.",
                ),
                (subjects < needed, f"There are {subjects} training subjects, and at least {needed} are needed."),
                (self.calibration.null == "none", "There is no null: too few real images to compare with."),
                (
                    bool(self.calibration.kinds) and self.calibration.n < needed,
                    "The training images are of several kinds, and of one of them the null has "
                    f"{self.calibration.n} subjects, where at least {needed} are needed; give a holdout of all kinds.",
                ),
                (
                    low <= criteria.least_recall,
                    f"Of {self.control.images} copies that the audit made itself it would have called "
                    f"{self.control.recall:.0%} (95 % interval {low:.0%} to {high:.0%}); the interval must lie above "
                    f"{criteria.least_recall:.0%}.",
                ),
                (
                    self.shared > 0,
                    f"The holdout holds {self.shared} of the training images, whatever their names; take them out.",
                ),
                (
                    bool(self.shared_people),
                    f"{len(self.shared_people)} subjects of the holdout stand in the training set too ({shown}); "
                    "take them out of the holdout.",
                ),
                *(
                    (share > criteria.most_skipped, f"{share:.0%} of the {name} files could not be read.")
                    for name, share in skipped.items()
                ),
            )
            if applies
        ]

    @property
    def candidates_suffice(self) -> bool:
        """Whether nearly all of the positive control's copies have their subject among the candidates."""
        return self.control.among >= self.criteria.least_among

    @property
    def more_candidates(self) -> str:
        """The key that has more candidates aligned, with a value: four times as many, or all subjects."""
        key = "volume_k" if self.whole else "parts_k" if self.verifier.window else "k"
        return f"--{key} {min(4 * self.found.subject.shape[1], len(self.subject_names))}"

    @property
    def weights_suit(self) -> bool:
        """Whether the embedder's weights know such images: of whole copies it has the source as the nearest subject."""
        return bool(self.verifier.window) or self.control.nearest_ci95[1] >= self.criteria.least_nearest

    @property
    def verdict(self) -> Verdict:
        """Copies or likenesses, where any image is called; else whether none was found or none could have been."""
        if self.memorized.any():
            return Verdict.COPIES if self.copy.any() else Verdict.LIKENESSES
        return Verdict.INCONCLUSIVE if self.doubts else Verdict.NO_COPYING

    @property
    def fdr(self) -> float:
        """The level of the false-discovery rate."""
        return self.criteria.fdr

    @property
    def statistic(self) -> NDArray[np.float64]:
        """(U,) the statistic, -inf where there is none."""
        return self.found.statistic

    @property
    def p_value(self) -> NDArray[np.float64]:
        """(U,) p-values."""
        return self.decision.p_value

    @property
    def q_value(self) -> NDArray[np.float64]:
        """(U,) q-values."""
        return self.decision.q_value

    @property
    def memorized(self) -> NDArray[np.bool_]:
        """(U,) exactly q_value <= fdr."""
        return self.decision.memorized

    @cached_property
    def copy(self) -> NDArray[np.bool_]:
        """(U,) called, and the fine detail agrees."""
        return self.memorized & (self.detail >= self.criteria.copy_detail)

    @cached_property
    def tier(self) -> list[Tier]:
        """(U,) copy, likeness or none."""
        return [
            Tier.COPY if copy else Tier.LIKENESS if called else Tier.NONE
            for called, copy in zip(self.memorized.tolist(), self.copy.tolist())
        ]

    @cached_property
    def label(self) -> list[Label]:
        """(U,) how alike each image and its best match are."""
        return [self.thresholds.label(value) for value in self.found.best_ssim]

    @cached_property
    def leaked(self) -> list[str]:
        """The names of the training subjects that leaked: by their own test, and with a copy, not likenesses alone."""
        copied = set(self.found.nearest[self.copy].tolist())
        return [self.subject_names[s] for s in self.decision.leaks.at(self.fdr).tolist() if s in copied]

    @cached_property
    def candidate(self) -> NDArray[np.bool_]:
        """(U,) not called, yet as alike as the positive control's copies and more than the null: no error rate."""
        best, cuts = self.found.best_ssim, self.thresholds
        above_null = best >= cuts.similar if np.isfinite(cuts.similar) else True
        return ~self.memorized & (best >= cuts.duplicate) & above_null

    def strongest(self, count: int) -> list[int]:
        """Return at most so many called units: copies first, by their p-values."""
        called = np.flatnonzero(self.memorized)
        order = np.lexsort((self.p_value[called], ~self.copy[called]))
        return called[order[:count]].tolist()

    def match(self, unit: int) -> Match:
        """Return the best training image of one generated image or volume."""
        rows, best = self.units.rows(unit), self.found.best[unit]
        images, parts = self.found.image[rows, best], self.found.parts
        strongest = int(self.found.slice_ssim[rows, best].argmax() if parts is None else parts.row[unit] - rows[0])
        return Match(
            unit=unit,
            rows=rows,
            file=int(self.generated.file[rows[0]]),
            subject=int(self.found.subject[unit, best]),
            row=int(rows[strongest]),
            train_row=int(images[strongest]),
            train_file=int(Counter(self.train.file[images].tolist()).most_common(1)[0][0]),
            similarity=float(self.found.similarity[rows, best].mean()),
            aligned_ssim=float(self.found.aligned_ssim[unit, best]),
            mirrored=bool(self.found.mirrored[rows, best].mean() > 0.5),
            square=None if parts is None else tuple(parts.square[unit].tolist()),
        )
