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

"""What generated images are judged against: real images that nothing copied, and copies that are known.

Both are degraded as the generated images are and searched by the same :class:`~scripts.auditing.search.Search`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from monai.transforms import Compose
from numpy.typing import NDArray

from ..bundle.shares import ALL, Share
from ..decision.criteria import Criteria
from ..decision.decide import Decision, called_if_added
from ..decision.null import Null
from ..decision.rates import exact_interval
from ..embedder.embedding_set import EmbeddingSet, ImageEmbedder
from ..images.augmentations import RandCopyd
from ..images.items import RandomTransform
from .calibration import Control
from .degradation import Degradation
from .found import Found, Units
from .naming import name_images
from .parts import paste_part
from .search import Search

__all__ = ["Controls", "SearchedCopies", "SearchedNull", "bent_by"]

BEND_GRID = 6  # control points a side of a copy's deformation
LIKELY_PAIRS = 100  # bounds the cost in training sets of any size


def bent_by(pixels: float, control: RandomTransform) -> RandomTransform:
    """Return a control whose copies are bent besides, by so many pixels (standard deviation at the control points)."""
    return Compose([RandCopyd("image", elastic=(pixels, pixels), grid=BEND_GRID), control])


@dataclass(frozen=True)
class SearchedNull:
    """The images of a null, what was found for them, and the null itself."""

    units: Units
    found: Found
    null: Null


@dataclass(frozen=True)
class SearchedCopies:
    """The copies of a positive control, what was found for them, and the training row that each of theirs shows."""

    search: Search
    units: Units
    found: Found
    source: NDArray[np.int64]

    def named(self, control: Control, most: int) -> tuple[Control, Found]:
        """Return the control with the share of named images that are the very ones copied, and what is found where
        images are named as those of calls are, :func:`~scripts.auditing.naming.name_images`."""
        found = name_images(self.search, self.units, self.found, np.ones(len(self.units), bool), most)
        rows = np.arange(len(self.source)) if found.parts is None else found.parts.row
        unit = self.units.unit[rows]
        rows = rows[found.nearest[unit] == self.units.subject[unit]]
        pairs = zip(found.image[rows, found.best[self.units.unit[rows]]].tolist(), self.source[rows].tolist())
        images = self.search.images
        # nothing tells two files with the same image
        very = sum(named == source or np.array_equal(images[named], images[source]) for named, source in pairs)
        share = very / max(1, len(rows))
        return replace(control, image_found=share, image_found_ci95=exact_interval(very, len(rows))), found


@dataclass(frozen=True)
class Controls:
    """Makes the nulls and the positive control of an audit.

    Attributes:
        search: of the audit.
        embedder: embeds what is degraded.
        degradation: makes real images as soft and as noisy as the generated ones.
        rng: of all drawing, in the order of the calls.
        null_subjects: most subjects in a null.
        null_slices: most slices of a subject in a null where levels are unknown.
        kinds: (S,) of the training subjects, of :func:`~scripts.auditing.kinds.kinds_of_subjects`; empty for one kind.
    """

    search: Search
    embedder: ImageEmbedder
    degradation: Degradation
    rng: np.random.RandomState
    null_subjects: int
    null_slices: int
    kinds: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def kind_of(self, found: Found) -> NDArray[np.int64] | None:
        """Return the kind of each unit (U,), that of its best training subject; None where there is but one."""
        return self.kinds[found.nearest] if self.kinds.any() else None

    def leave_one_out_null(
        self, train: EmbeddingSet, subjects: NDArray, levels: NDArray, share: Share = ALL
    ) -> SearchedNull:
        """Return the null of training images that are searched among the other subjects.

        Args:
            train: the training set.
            subjects: (R,) the number of each row's subject.
            levels: (U,) of the generated images; only slices that these can ask for are searched.
            share: of the search that is done; with others nothing is found.
        """
        units = self._real_images(train, subjects, levels)
        found = self.search(units, units.subject, name="left-out training images", share=share)
        null = Null(found.statistic, units.subject, units.level, 2, found.nearest, self.kind_of(found))
        return SearchedNull(units, found, null)

    def null_leaves_out(self, subjects: NDArray[np.int64]) -> bool:
        """Whether there are more subjects, by number (R,) from 0, than the null has."""
        return int(subjects.max()) >= self.null_subjects

    def likely_pairs(self, train: EmbeddingSet, subjects: NDArray, share: Share = ALL) -> tuple[Units, Found, int]:
        """Return units of subjects who may be one person by their embeddings, searched as the null is.

        For a training set with more subjects than the null has: of the pairs that are each other's nearest by an image
        each, those that stand out most are searched. The number is that of the other pairs. `share` as for the null.
        """
        rows = np.flatnonzero(self._first_files(train, subjects))
        if not self.search.whole_files:
            first, count = np.unique(subjects[rows], return_index=True, return_counts=True)[1:]
            order = np.argsort(subjects[rows], kind="stable")
            rows = np.sort(rows[order[np.cumsum(count) - count + count // 2]]) if len(first) else rows
        units = self.search.units(train, subjects, rows)
        near = self.search.nearest(units, units.subject)
        statistic, partner = self.search.statistic(units.mean(near.similarity)), near.subject[:, 0]
        unit = np.full(int(subjects.max()) + 1, -1)
        unit[units.subject] = np.arange(len(units))
        back = np.where(partner >= 0, unit[partner], -1)
        mutual = np.flatnonzero((back >= 0) & (partner[back] == units.subject) & (units.subject < partner))
        best = mutual[np.argsort(-(statistic[mutual] + statistic[back[mutual]]), kind="stable")[:LIKELY_PAIRS]]
        chosen = np.isin(units.unit, np.concatenate([best, back[best]]))
        units = self._degraded(self.search.units(train, subjects, rows[chosen]))
        found = self.search(units, units.subject, name="training subjects that are alike", share=share)
        return units, found, len(mutual) - len(best)

    def holdout_null(self, holdout: EmbeddingSet, levels: NDArray, share: Share = ALL) -> SearchedNull:
        """Return the null of real images that the generator never saw; `levels` and `share` as for the other null."""
        subjects = np.unique(holdout.subject_ids, return_inverse=True)[1]
        units = self._real_images(holdout, subjects, levels)
        found = self.search(units, name="holdout images", share=share)
        null = Null(found.statistic, units.subject, units.level, 1, kind=self.kind_of(found))
        return SearchedNull(units, found, null)

    def _real_images(self, source: EmbeddingSet, subjects: NDArray, levels: NDArray) -> Units:
        """Return images of at most `null_subjects` subjects, degraded as the generated ones."""
        chosen = np.unique(subjects)
        if len(chosen) > self.null_subjects:
            chosen = np.sort(self.rng.choice(chosen, self.null_subjects, replace=False))
        keep = np.isin(subjects, chosen)
        keep &= (
            self._first_files(source, subjects)
            if self.search.whole_files
            else self._slices(source, subjects, chosen, levels)
        )
        return self._degraded(self.search.units(source, subjects, np.flatnonzero(keep)))

    def _degraded(self, units: Units) -> Units:
        images = units.images[:]
        images = images if self.degradation.nothing else self.degradation(images, self.rng)
        return replace(units, vectors=self.search.embedded(images, self.embedder), images=images)

    @staticmethod
    def _first_files(source: EmbeddingSet, subjects: NDArray) -> NDArray[np.bool_]:
        """Return the rows of each subject's first file: repeated scans of a person are not independent."""
        names, first = np.unique(subjects, return_index=True)
        return source.file == source.file[first[np.searchsorted(names, subjects)]]

    def _slices(self, source: EmbeddingSet, subjects: NDArray, chosen: NDArray, levels: NDArray) -> NDArray[np.bool_]:
        """Return the rows of slices that a query can ask for: nearest to a level, or some where levels are unknown."""
        wanted = np.unique(levels[np.isfinite(levels)])
        needed = np.zeros(len(source), bool)
        for s in chosen:
            rows = np.flatnonzero(subjects == s)
            if len(wanted) and np.isfinite(source.level[rows]).all():
                distance = np.abs(source.level[rows][:, None] - wanted[None])
                rows = rows[np.unique(distance.argmin(0))]
            elif len(rows) > self.null_slices:
                rows = self.rng.choice(rows, self.null_slices, replace=False)
            needed[rows] = True
        return needed

    def positive_control(
        self,
        train: EmbeddingSet,
        subjects: NDArray,
        transform: RandomTransform,
        count: int,
        null: Null,
        decision: Decision,
        criteria: Criteria,
        part: float = 0.0,
    ) -> tuple[Control, SearchedCopies]:
        """Return the recall on degraded, moved copies of `count` training images, and what was found for them.

        A copy counts as called if it would be, were it alone added to the generated images, with its own subject as
        the best match. `part` copies a disc so many pixels wide into an image of another subject, whom the search must
        not find; 0: the whole image.
        """
        copies, hosts, source = self._copies(self.search.units(train, subjects), transform, count, part)
        found = self.search(copies, hosts, name="positive control")
        p = null.p_values(found.statistic, copies.level, criteria.p_value, criteria, self.kind_of(found))
        right = found.nearest == copies.subject
        hits = int((called_if_added(decision.p_value, p, criteria) & right).sum())
        total, near = len(copies), int((found.subject[:, 0] == copies.subject).sum())
        only = called_if_added(np.ones(len(decision.p_value)), p, criteria) & right
        control = Control(
            images=total,
            recall=hits / total,
            ci95=exact_interval(hits, total),
            source_found=float(right.mean()),
            alone=float(only.mean()),
            nearest=near / total,
            nearest_ci95=exact_interval(near, total),
            among=float((found.subject == copies.subject[:, None]).any(1).mean()),
        )
        return control, SearchedCopies(self.search, copies, found, source)

    def _copies(
        self, everything: Units, transform: RandomTransform, count: int, part: float
    ) -> tuple[Units, NDArray[np.int64], NDArray[np.int64]]:
        """Return copies of `count` units at random, transformed, then degraded as the generated images are; in whose
        images they lie, (U,), -1 where the whole is copied; and the rows that they show, (Q,)."""
        chosen = np.sort(self.rng.choice(len(everything), min(count, len(everything)), replace=False))
        transform.set_random_state(state=self.rng)
        images, source, hosts = [], [], np.full(len(chosen), -1)
        for number, unit in enumerate(chosen):
            rows = everything.rows(unit)
            if part:
                host = self._host(everything, unit)
                hosts[number], others = everything.subject[host], everything.rows(host)
                rows = rows[np.minimum(np.arange(len(others)), len(rows) - 1)]
                stack = self._part_of(everything.images[rows], everything.images[others], part)
            else:
                stack = everything.images[rows].astype(np.float32)
            source.append(rows)
            moved = transform({"image": torch.from_numpy(stack)})["image"].numpy()
            images.append(self.degradation(moved, self.rng))
        pixels = np.concatenate(images)
        units = Units(
            self.search.embedded(pixels, self.embedder),
            pixels,
            np.repeat(np.arange(len(chosen)), [len(stack) for stack in images]),
            everything.level[chosen],
            everything.subject[chosen],
        )
        return units, hosts, np.concatenate(source)

    def _host(self, everything: Units, unit: int) -> int:
        """Return a unit of another subject, at about the same level where levels are known."""
        others = np.unique(everything.subject[everything.subject != everything.subject[unit]])
        if not len(others):
            return unit
        theirs = np.flatnonzero(everything.subject == self.rng.choice(others))
        away = np.abs(everything.level[theirs] - everything.level[unit])
        return int(theirs[away.argmin()] if np.isfinite(away).all() else self.rng.choice(theirs))

    def _part_of(self, source: NDArray, host: NDArray, part: float) -> NDArray[np.float32]:
        """Return the images of a host (N, H, W) with a disc of the source's (N, H, W), aligned to them first."""
        verifier, source, host = self.search.verifier, source.astype(np.float32), host.astype(np.float32)
        aligned = verifier.show(host, source, verifier.align(host, source).matrix)
        return np.stack([paste_part(*pair, part, self.rng) for pair in zip(host, aligned)])
