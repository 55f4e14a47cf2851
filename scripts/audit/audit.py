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

The same :class:`Search` runs on the generated images, on the null (real images that nothing copied) and on the positive
control (degraded copies of training images), so that the three are comparable.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..decision.labels import Label
from ..decision.null import Null
from ..decision.rates import (
    auc,
    benjamini_hochberg,
    compare_nulls,
    exact_interval,
    leaked_subjects,
    rank_calls_needed,
    set_level,
)
from ..decision.statistic import NEIGHBOURS
from ..embedder.embedding_set import EmbeddingSet, ImageEmbedder
from ..similarity.verification import Verifier
from .degradation import Change, Degradation, match_degradation
from .neighbors import subject_similarities
from .result import AuditResult
from .search import Found, Search, Units

__all__ = ["Audit"]

logger = logging.getLogger(__name__)


class Audit(Randomizable):
    """Decides which generated images are copies of which training subjects.

    Args:
        embedder: embeds images that the audit makes: the degraded null and the positive control.
        verifier: aligns a candidate to a generated image.
        control: random dictionary transform that makes a positive control of a training image (`image`, (C, H, W)).
        k: candidate subjects that are verified, at least 5 for the statistic.
        fdr: level of the false-discovery rate, over images and over subjects.
        p_value: `tail` or `rank`.
        null_transform: `auto` degrades null queries until their sharpness and noise match the generated images;
            `none` leaves them as they are.
        null_subjects: most subjects in the null; more are sampled.
        null_slices: most slices of a subject in the null where levels are unknown.
        control_images: images in the positive control.
        seed: of all sampling.
    """

    def __init__(
        self,
        embedder: ImageEmbedder,
        verifier: Verifier,
        control: Any,
        k: int = 6,
        fdr: float = 0.05,
        p_value: str = "tail",
        null_transform: str | Change = "auto",
        null_subjects: int = 300,
        null_slices: int = 8,
        control_images: int = 60,
        seed: int = 0,
    ) -> None:
        if k < NEIGHBOURS or not 0 < fdr < 1:
            raise ValueError(f"k must be at least {NEIGHBOURS} and fdr in (0, 1), got {k} and {fdr}")
        if p_value not in ("tail", "rank") or not (null_transform in ("auto", "none") or callable(null_transform)):
            raise ValueError(
                f"p_value must be tail or rank and null_transform auto or none, got {p_value!r} and {null_transform!r}"
            )
        if min(null_subjects, null_slices, control_images) < 1:
            raise ValueError(
                "null_subjects, null_slices and control_images must be at least 1, got "
                f"{null_subjects}, {null_slices} and {control_images}"
            )
        self.embedder, self.verifier, self.control = embedder, verifier, control
        self.k, self.fdr, self.p_value, self.null_transform = k, fdr, p_value, null_transform
        self.null_subjects, self.null_slices, self.control_images = null_subjects, null_slices, control_images
        self.seed = seed

    def using(self, embedder: ImageEmbedder) -> Audit:
        """Return this audit with another embedder, that of the sets which it will be given."""
        other = copy.copy(self)
        other.embedder = embedder
        return other

    def __call__(
        self, train: EmbeddingSet, generated: EmbeddingSet, holdout: EmbeddingSet | None = None
    ) -> AuditResult:
        """Audit `generated` against `train`; the null comes from `holdout`, or else from leaving subjects out.

        Training ids whose scans turn out to be near-copies of each other are merged into one subject and everything
        is done again: a copy of a scan that stands in the set twice has two best subjects and no peak.
        """
        names, number = np.unique(train.subject_ids, return_inverse=True)
        result = self._audit(train, generated, holdout, names, number)
        groups = _same_person(result)
        if not groups:
            return result
        for group in groups:
            number = np.where(np.isin(number, group[1:]), group[0], number)
        merged = [[str(names[s]) for s in group] for group in groups]
        logger.warning("merged training ids whose scans are near-copies of each other: %s", merged)
        kept, number = np.unique(number, return_inverse=True)
        labels = {group[0]: "+".join(names) for group, names in zip(groups, merged)}
        again = self._audit(train, generated, holdout, np.array([labels.get(s, names[s]) for s in kept]), number)
        return replace(again, merged=merged, unmerged_count=int(result.memorized.sum()))

    def _audit(
        self,
        train: EmbeddingSet,
        generated: EmbeddingSet,
        holdout: EmbeddingSet | None,
        names: NDArray,
        number: NDArray,
    ) -> AuditResult:
        """Audit with the given subject of each training row: `names` (S,) and `number` (R,)."""
        self.set_random_state(self.seed)
        volumes = bool((np.bincount(generated.file) > 1).any())
        search = Search(train.vectors, train.images, number, self.verifier, self.k)
        units = _units(generated, np.full(len(generated), -1), volumes)
        found = search(units, name="generated images")
        if self.null_transform == "none":
            degradation = Degradation()
        else:
            before = None if isinstance(self.null_transform, str) else self.null_transform
            degradation = match_degradation(train.images, generated.images, self.R, before=before)

        null_units, null_found, null = self._null(search, train, number, True, units.level, volumes, degradation)
        leave_one_out, left_out = null, (null_units, null_found)
        if holdout is not None:
            subjects = np.unique(holdout.subject_ids, return_inverse=True)[1]
            null_units, null_found, null = self._null(
                search, holdout, subjects, False, units.level, volumes, degradation
            )

        statistic = found.statistic
        by_method = {method: null.p_values(statistic, units.level, method) for method in ("tail", "rank")}
        p = by_method[self.p_value]
        q = benjamini_hochberg(p)
        control = self._positive_control(search, train, number, volumes, degradation, null, p)
        thresholds = _thresholds(null_found.aligned_ssim.max(1), control.pop("aligned_ssim"))
        best = found.at_best(found.subject)
        n = null.subjects(units.level)
        return AuditResult(
            train=train,
            generated=generated,
            holdout=holdout,
            subject_names=[str(name) for name in names],
            units=units,
            found=found,
            statistic=statistic,
            null=null,
            leave_one_out=leave_one_out,
            p_value=p,
            q_value=q,
            label=[_label(value, thresholds) for value in found.aligned_ssim.max(1)],
            fdr=self.fdr,
            calibration={
                "null": "none"
                if n < 1 or np.isneginf(null_found.statistic).all()
                else "leave-one-subject-out"
                if holdout is None
                else "holdout",
                "p_value": self.p_value,
                "images": len(units),
                "n": n,
                "p_floor": null.correction / (n + 1),
                "correction": null.correction,
                "calls": {
                    method: int((benjamini_hochberg(values) <= self.fdr).sum()) for method, values in by_method.items()
                },
                "rank_calls_needed": rank_calls_needed(len(units), n, null.correction, self.fdr),
                "null_transform": self.null_transform
                if isinstance(self.null_transform, str)
                else type(self.null_transform).__name__,
                "null_blur": degradation.blur,
                "null_noise": degradation.noise,
                **_match(units, null_units, search, holdout is None),
                "leave_one_out": None
                if holdout is None
                else compare_nulls(null, leave_one_out, statistic, units.level, self.p_value, self.fdr),
            },
            control=control,
            set_level=set_level(statistic, null_found.statistic, null_units.subject, self.R),
            thresholds=thresholds,
            leaked=_leaked(p, best, names, self.fdr),
            near_copies=_near_copies(*left_out, thresholds),
        )

    def _null(
        self,
        search: Search,
        source: EmbeddingSet,
        subjects: NDArray,
        leave_out: bool,
        levels: NDArray,
        volumes: bool,
        degradation: Degradation,
    ) -> tuple[Units, Found, Null]:
        """Search the images of `source` as if they were generated; `leave_out` their own subjects if they are train."""
        units = self._null_units(source, subjects, levels, volumes, degradation)
        found = search(units, leave_out=leave_out, name="left-out training images" if leave_out else "holdout images")
        nearest = found.at_best(found.subject) if leave_out else None
        return units, found, Null(found.statistic, units.subject, units.level, 2 if leave_out else 1, nearest)

    def _null_units(
        self, source: EmbeddingSet, subjects: NDArray, levels: NDArray, volumes: bool, degradation
    ) -> Units:
        """Real images that nothing copied, degraded as the generated ones; only slices that a query can ask for."""
        chosen = np.unique(subjects)
        if len(chosen) > self.null_subjects:
            chosen = np.sort(self.R.choice(chosen, self.null_subjects, replace=False))
        keep = np.isin(subjects, chosen)
        if volumes:
            # one volume a subject: repeated scans of a person are not independent
            first = {subjects[row]: source.file[row] for row in range(len(source) - 1, -1, -1)}
            keep &= source.file == np.array([first[s] for s in subjects])
        else:
            wanted = np.unique(levels[np.isfinite(levels)])
            needed = np.zeros(len(source), bool)
            for s in chosen:
                rows = np.flatnonzero(subjects == s)
                if len(wanted) and np.isfinite(source.level[rows]).all():
                    distance = np.abs(source.level[rows][:, None] - wanted[None])
                    needed[rows[np.unique(distance.argmin(0))]] = True
                else:
                    needed[
                        rows if len(rows) <= self.null_slices else self.R.choice(rows, self.null_slices, replace=False)
                    ] = True
            keep &= needed
        units = _units(source, subjects, volumes, np.flatnonzero(keep))
        images = units.images if degradation.nothing else degradation(units.images, self.R)
        return replace(units, vectors=self.embedder.embed_images(images), images=images)

    def _positive_control(self, search, train, number, volumes, degradation, null: Null, p: NDArray) -> dict[str, Any]:
        """Recall on degraded, moved copies of training images: would each have been called among the generated ones?"""
        everything = _units(train, number, volumes)
        chosen = np.sort(self.R.choice(len(everything), min(self.control_images, len(everything)), replace=False))
        self.control.set_random_state(state=self.R)
        images = []
        for unit in chosen:
            stack = torch.from_numpy(everything.images[everything.rows(unit)].astype(np.float32))
            images.append(degradation(self.control({"image": stack})["image"].numpy(), self.R))
        sizes = [len(stack) for stack in images]
        pixels = np.concatenate(images)
        copies = Units(
            self.embedder.embed_images(pixels),
            pixels,
            np.repeat(np.arange(len(chosen)), sizes),
            everything.level[chosen],
            everything.subject[chosen],
        )
        found = search(copies, name="positive control")
        values = null.p_values(found.statistic, copies.level, self.p_value)
        # called if it alone were added to the generated images
        called = np.array([benjamini_hochberg(np.r_[p, value])[-1] <= self.fdr for value in values])
        right = found.at_best(found.subject) == copies.subject
        count = int((called & right).sum())
        return {
            "images": len(chosen),
            "recall": count / len(chosen),
            "ci95": exact_interval(count, len(chosen)),
            "source_found": float(right.mean()),
            "aligned_ssim": found.aligned_ssim.max(1),
        }


def _units(data: EmbeddingSet, subjects: NDArray, volumes: bool, rows: NDArray | None = None) -> Units:
    """Return the rows as units: a file each if `volumes`, else a row each."""
    rows = np.arange(len(data)) if rows is None else rows
    key = data.file[rows] if volumes else rows
    _, first, unit = np.unique(key, return_index=True, return_inverse=True)
    level = np.full(len(first), np.nan) if volumes else data.level[rows]
    return Units(data.vectors[rows], data.images[rows], unit, level, np.asarray(subjects)[rows][first])


def _near_copies(units: Units, found: Found, thresholds: dict[str, Any]) -> list[tuple[int, int]]:
    """Return pairs of training subjects with images as alike as copies are, and unlike all other subjects'.

    Both are asked: above the positive control's cut, and 6 robust standard deviations above the null's median.
    """
    score = found.aligned_ssim.max(1)
    if not np.isfinite(score).any():
        return []  # a single subject has no other
    spread = 1.4826 * np.median(np.abs(score - np.median(score)))
    cut = max(thresholds["duplicate"], np.median(score) + 6 * spread)
    best = found.at_best(found.subject)
    return [(int(a), int(b)) for a, b in zip(units.subject[score >= cut], best[score >= cut]) if b >= 0]


def _same_person(result: AuditResult) -> list[list[int]]:
    """Return the groups of subject numbers that near-copies connect, each ascending."""
    count = len(result.subject_names)
    pairs = np.array(result.near_copies, int).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    component = connected_components(graph, directed=False)[1]
    groups = [np.flatnonzero(component == c).tolist() for c in np.unique(component)]
    return [group for group in groups if len(group) > 1]


def _thresholds(null: NDArray, control: NDArray) -> dict[str, Any]:
    """Cuts of the aligned SSIM: 99th percentile of the null, 5th of the positive control; infinite without a null."""
    null = null[np.isfinite(null)]
    similar = float(np.percentile(null, 99)) if len(null) else float("inf")
    duplicate = float(np.percentile(control, 5))
    return {"similar": similar, "duplicate": duplicate, "separable": bool(similar < duplicate)}


def _label(aligned_ssim: float, thresholds: dict[str, Any]) -> Label:
    if thresholds["separable"] and aligned_ssim >= thresholds["duplicate"]:
        return Label.DUPLICATE
    return Label.SIMILAR if aligned_ssim >= thresholds["similar"] else Label.DIFFERENT


def _leaked(p: NDArray, best: NDArray, names: NDArray, fdr: float) -> dict[str, Any]:
    valid = best >= 0
    subjects, combined, q = leaked_subjects(p[valid], best[valid])
    return {"ids": [str(names[s]) for s in subjects[q <= fdr]], "p": combined, "q": q, "subjects": subjects}


def _match(units: Units, null_units: Units, search: Search, leave_out: bool) -> dict[str, Any]:
    """Are generated and null images equally similar to all of train? AUC of the mean similarity over its subjects."""
    means = []
    for sample, barred in ((units, False), (null_units, leave_out)):
        similarity, _ = subject_similarities(sample.vectors, search.vectors, search.subjects)  # (Q, S)
        if barred:
            similarity[np.arange(len(similarity)), sample.subject[sample.unit]] = -np.inf
        similarity = similarity[np.isfinite(similarity).any(1)]  # a single subject leaves its own null nobody
        means.append(np.nanmedian(np.where(np.isfinite(similarity), similarity, np.nan), axis=1))
    if not all(map(len, means)):
        return {"matched": False, "match_auc": None}
    between = auc(*means)
    return {"matched": bool(0.4 <= between <= 0.6), "match_auc": between}
