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

"""The audit: retrieve candidate subjects, verify them by alignment, decide with a false-discovery rate.

The same :class:`~scripts.auditing.search.Search` runs on the generated images, on the null (real images that nothing
copied) and on the positive control (degraded copies of training images), so that the three are comparable.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
from monai.transforms import Randomizable

from ..bundle.shares import ALL, Share
from ..decision.criteria import Criteria
from ..decision.labels import Thresholds
from ..decision.set_level import set_level
from ..decision.statistic import LocalStatistic, Statistic
from ..embedder.embedding_set import EmbeddingSet, ImageEmbedder
from ..images.items import RandomTransform
from ..similarity.verification import Verifies
from .controls import Controls, bent_by
from .degradation import Change, Degradation, match_degradation
from .detail import CloseUp, detail_of_calls
from .findings import ANOTHER_VIEW, SetFit
from .found_store import FoundStore
from .kinds import kinds_of_subjects
from .naming import name_images
from .result import AuditResult
from .search import Search
from .searched import Searched
from .training_subjects import Subjects, one_person

__all__ = ["Audit"]

MOST_BENT = 20.0  # pixels; the control points lie no farther apart
MOST_CONTROLS = 100_000

NullTransform = Literal["auto", "none"] | Change


class Audit(Randomizable):
    """Decides which generated images are copies of which training subjects.

    Args:
        embedder: embeds images that the audit makes: the degraded null and the positive control.
        verifier: aligns a candidate to a generated image.
        control: random dictionary transform that makes a positive control of a training image (`image`, (C, H, W)).
        k: candidate subjects that are verified, at least as many as the statistic needs.
        criteria: what is called.
        statistic: of a unit's candidates; None: :class:`~scripts.decision.statistic.LocalStatistic`.
        null_transform: `auto` degrades null queries until their sharpness and noise match the generated images;
            `none` leaves them as they are; a function of images, as :class:`RoundTrip`, is applied first.
        null_subjects: most subjects in the null; more are sampled.
        null_slices: most slices of a subject in the null where levels are unknown.
        control_images: images in the positive control.
        bends: in pixels; the control's recall is also measured on copies that are bent so much besides.
        bent_images: copies at each of these.
        part_sizes: in pixels; where the verifier looks for copies of a part, the control's copies are discs so wide.
        images_a_subject: of each candidate that are laid on an image; the one that suits it best is then compared.
        named_images: of the matched subject that are laid on a called image, to say which of them was copied.
        close_up: compares the detail of called volumes in finer voxels; None: in those that were aligned.
        seed: of all sampling.
        store_dir: folder where what was aligned is kept, so that an audit that was stopped goes on; None keeps nothing.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        embedder: ImageEmbedder,
        verifier: Verifies,
        control: RandomTransform,
        k: int = 6,
        criteria: Criteria | None = None,
        statistic: Statistic | None = None,
        null_transform: NullTransform = "auto",
        null_subjects: int = 300,
        null_slices: int = 8,
        control_images: int = 60,
        bends: Sequence[float] = (),
        bent_images: int = 20,
        part_sizes: Sequence[float] = (20.0, 30.0),
        images_a_subject: int = 2,
        named_images: int = 16,
        close_up: CloseUp | None = None,
        seed: int = 0,
        store_dir: str | os.PathLike | None = None,
    ) -> None:
        self.criteria, self.statistic = criteria or Criteria(), LocalStatistic() if statistic is None else statistic
        if not isinstance(getattr(self.statistic, "subjects", None), int):
            raise ValueError(f"statistic must be one such as LocalStatistic, got {statistic!r}")
        if k < self.statistic.subjects:
            raise ValueError(f"k must be at least {self.statistic.subjects}, got {k}")
        if not (null_transform in ("auto", "none") or callable(null_transform)):
            raise ValueError(f"null_transform must be auto or none, got {null_transform!r}")
        counts = {"null_subjects": null_subjects, "null_slices": null_slices, "images_a_subject": images_a_subject}
        counts["named_images"] = named_images
        controls = {"control_images": control_images, "bent_images": bent_images}
        for name, count in {**counts, **controls}.items():
            if count < 1:
                # the config has two keys for it
                known = "subject_images, or part_images of parts," if name == "images_a_subject" else name
                raise ValueError(f"{known} must be at least 1, got {count}")
            if name in controls and count > MOST_CONTROLS:
                raise ValueError(f"{name} must be at most {MOST_CONTROLS}, got {count}")
        if any(pixels <= 0 for pixels in bends):
            raise ValueError(f"bends must be positive, got {list(bends)}")
        if not all(pixels <= MOST_BENT for pixels in bends):
            raise ValueError(f"bends must be at most {MOST_BENT:g} pixels, got {list(bends)}")
        listed = isinstance(part_sizes, list | tuple) and all(isinstance(size, int | float) for size in part_sizes)
        if not (listed and part_sizes and min(part_sizes) > 0):
            raise ValueError(f"part_sizes must be positive numbers, at least one, got {part_sizes!r}")
        if max(part_sizes) < verifier.window:
            raise ValueError(
                f"part_sizes: expected one of at least the window's {verifier.window} pixels, got {list(part_sizes)}; "
                "give wider parts or a smaller window"
            )
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed must be 0 or more and below 2**32, got {seed}")
        self.embedder, self.verifier, self.control, self.k = embedder, verifier, control, k
        self.null_transform = null_transform
        self.null_subjects, self.null_slices, self.control_images = null_subjects, null_slices, control_images
        self.bends, self.bent_images, self.part_sizes = bends, bent_images, sorted(part_sizes)
        self.images_a_subject, self.named_images, self.close_up = images_a_subject, named_images, close_up
        self.seed = seed
        self.store = None if store_dir is None else FoundStore(store_dir)

    def using(self, embedder: ImageEmbedder) -> Audit:
        """Return this audit with another embedder, that of the sets which it will be given."""
        other = copy.copy(self)
        other.embedder = embedder
        return other

    def __call__(
        self,
        train: EmbeddingSet,
        generated: EmbeddingSet,
        holdout: EmbeddingSet | None = None,
        fit: SetFit | None = None,
    ) -> AuditResult:
        """Audit `generated` against `train`; the null comes from `holdout`, or else from leaving subjects out.

        `fit` says how the two sets fit, and belongs to the result.
        Training ids whose scans turn out to be near-copies of each other are one subject, and everything is judged by
        that: a copy of a scan that stands in the set twice has two best subjects and no peak.

        Raises:
            ValueError: if the holdout has fewer than six subjects.
        """
        self.set_random_state(self.seed)
        self._check(holdout)
        subjects = Subjects.of(train)
        searched = self._search(train, generated, holdout, subjects)
        merged: list[list[str]] = []
        unmerged_count = None
        if groups := one_person(searched.left_out, searched.controls, train, subjects.number, self.criteria):
            unmerged_count = int(searched.decision(self.criteria).memorized.sum())
            merged = [[str(subjects.names[s]) for s in group] for group in groups]
            subjects = subjects.merged(groups)
            self.set_random_state(self.seed)
            searched = self._search(train, generated, holdout, subjects)
        units, found = searched.units, searched.found
        controls, left_out, chosen = searched.controls, searched.left_out, searched.chosen
        decision = searched.decision(self.criteria)
        recall_on = partial(
            controls.positive_control,
            train,
            subjects.number,
            null=chosen.null,
            decision=decision,
            criteria=self.criteria,
        )
        sizes = self.part_sizes if self.verifier.window else [0.0]
        control, copies = recall_on(self.control, self.control_images, part=sizes[-1])
        control, control_found = copies.named(control, self.named_images)
        thresholds = Thresholds.fit(chosen.found.best_ssim, control_found.best_ssim, self.criteria)
        # what might be labelled as a copy is compared as the control's copies are
        named = decision.memorized | (found.best_ssim >= thresholds.similar)
        found = name_images(searched.search, units, found, named, self.named_images)
        level = set_level(found.statistic, chosen.found.statistic, chosen.units.subject, self.R)
        # last, so that no other draw depends on it
        bent = [
            recall_on(bent_by(pixels, self.control), self.bent_images, part=sizes[-1])[0].at(pixels)
            for pixels in self.bends
        ]
        parts = [recall_on(self.control, self.control_images, part=size)[0].at(size) for size in sizes[:-1]]
        parts += [control.at(size) for size in sizes[-1:] if size]
        fit = fit or SetFit()
        # where one set shows less, the files show more than is compared
        close_up = None if ANOTHER_VIEW in fit.findings else self.close_up
        detail = detail_of_calls(searched.search, units, found, train, generated, decision.memorized, close_up)
        return AuditResult(
            train=train,
            generated=generated,
            holdout=holdout,
            subject_names=[str(name) for name in subjects.names],
            train_subject=subjects.number,
            units=units,
            found=found,
            null=chosen.null,
            leave_one_out=left_out.null,
            decision=decision,
            criteria=self.criteria,
            statistic_used=self.statistic,
            verifier=self.verifier,
            calibration=searched.calibration(self.criteria, decision, self._null_name),
            control=replace(control, bent=bent, parts=parts),
            set_level=level,
            thresholds=thresholds,
            detail=detail,
            merged=merged,
            unmerged_count=unmerged_count,
            fit=fit,
            shared=0 if holdout is None else len(train.shared(holdout)),
            shared_people=[] if holdout is None else self._shared_people(searched, holdout, subjects),
        )

    def _check(self, holdout: EmbeddingSet | None) -> None:
        """Raise a ValueError for a holdout of too few subjects."""
        needed = self.statistic.subjects + 1
        if holdout is not None and (count := len(np.unique(holdout.subject_ids))) < needed:
            raise ValueError(
                f"holdout: expected images of at least {needed} subjects, found {count}; add some or leave it out: "
                "training subjects are then left out in turn"
            )

    def check_share(self) -> None:
        """Raise a ValueError where nothing is kept that processes could share."""
        if self.store is None or self.verifier.window:
            raise ValueError("shard: expected window 0 and a store_dir, found other ones; run it as one process")

    def align_share(
        self, train: EmbeddingSet, generated: EmbeddingSet, holdout: EmbeddingSet | None, share: Share, merged: bool
    ) -> None:
        """Align a share of the generated images and the nulls, and keep what is found: the audit then reads it.

        With `merged`, which is for a second time when all shares are done, all is searched once more where training ids
        turn out to be one person. Raises a ValueError as :meth:`check_share`.
        """
        self.check_share()
        self.set_random_state(self.seed)
        sets, subjects = (train, generated, holdout), Subjects.of(train)
        searched = self._search(*sets, subjects, ALL if merged else share)
        controls = searched.controls
        if not merged:
            if controls.null_leaves_out(subjects.number):
                controls.likely_pairs(train, subjects.number, share)
        elif groups := one_person(searched.left_out, controls, train, subjects.number, self.criteria):
            self.set_random_state(self.seed)
            self._search(*sets, subjects.merged(groups), share)

    def _search(
        self,
        train: EmbeddingSet,
        generated: EmbeddingSet,
        holdout: EmbeddingSet | None,
        subjects: Subjects,
        share: Share = ALL,
    ) -> Searched:
        volumes = bool((np.bincount(generated.file) > 1).any())
        known = train.vectors, train.images, subjects.number
        search = Search(*known, self.verifier, self.k, self.statistic, volumes, self.images_a_subject, store=self.store)
        units = search.units(generated, np.full(len(generated), -1))
        found = search(units, name="generated images", share=share)
        degradation = self._degradation(train, generated)
        kinds = kinds_of_subjects(train.vectors, subjects.number, self.statistic.subjects + 1)
        controls = Controls(search, self.embedder, degradation, self.R, self.null_subjects, self.null_slices, kinds)
        left_out = controls.leave_one_out_null(train, subjects.number, units.level, share)
        chosen = left_out if holdout is None else controls.holdout_null(holdout, units.level, share)
        return Searched(search, units, found, controls, left_out, chosen)

    def _shared_people(self, searched: Searched, holdout: EmbeddingSet, subjects: Subjects) -> list[tuple[str, str]]:
        """Return the holdout's and the training set's names of who stands in both."""
        names = np.unique(holdout.subject_ids)
        pairs = searched.shared_people(self.statistic, self.criteria.near_copy_fdr)
        return [(str(names[a]), str(subjects.names[b])) for a, b in pairs]

    @property
    def _null_name(self) -> str:
        transform = self.null_transform
        return transform if isinstance(transform, str) else type(transform).__name__

    def _degradation(self, train: EmbeddingSet, generated: EmbeddingSet) -> Degradation:
        """Return what makes real images as soft and as noisy as the generated ones."""
        if self.null_transform == "none":
            return Degradation()
        before = None if isinstance(self.null_transform, str) else self.null_transform
        return match_degradation(train.images, generated.images, self.R, before=before)
