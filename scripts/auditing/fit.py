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

"""Do the generated images fit the training images as a set? Before the search: where they do not, no copy can be seen.

Copies are found among images that were saved alike. A set that was transposed, inverted, padded or resampled on its way
to the folder resembles nobody, and an audit of it would find nothing. Such differences are common, belong to the whole
set and can be estimated from it: of the generated images, their likeness to the training subjects is measured under
each correction, and against that of training images to the other subjects. The mean cosine to the five most alike
subjects is a property of the kind of image, not of copies: on brain slices it is 0.49 for people who are in neither
set, 0.30 where these are transposed, 0.32 at half the size.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..decision.criteria import check_fields
from ..embedder.embedder import Embedder
from ..embedder.embedding_set import EmbeddingSet
from ..embedder.file_loader import ImageError
from ..images.correction import Correction, largest_object
from ..images.items import Item
from ..images.slices import object_mask
from .degradation import match_degradation
from .field_of_view import scrambled, shown_as, template_of
from .findings import ANOTHER_VIEW, SetFit, findings
from .neighbors import subject_similarities

__all__ = ["FitTest", "corrected"]

logger = logging.getLogger(__name__)

Stretch = tuple[float, float]

GROSS = 0.3  # log of a ratio of sizes that no difference between people or levels explains
LEAST_SPREAD = 0.05  # of the gain in likeness between files, where few of them show less


class Fitted(NamedTuple):
    """Sets that were made to fit, by name, and how they fit now."""

    sets: Mapping[str, EmbeddingSet]
    fit: SetFit


@dataclass(frozen=True)
class _Measured:
    """A sample of the generated set under a correction.

    `likeness` (F,) is that of each file. `off` (2,) is the log of the factors by which the objects' sides fall short
    of those of the training images that they resemble, `gross` (2,) of the training images as a whole.
    """

    correction: Correction
    likeness: NDArray[np.float64]
    off: NDArray[np.float64]
    gross: NDArray[np.float64]


class _Reference:
    """The training images that samples are measured against."""

    def __init__(self, train: EmbeddingSet, rows: NDArray[np.int64], subjects: int) -> None:
        self.train, self.rows, self.subjects = train, rows, subjects
        self.names, self.number = np.unique(train.subject_ids, return_inverse=True)
        self._sizes: dict[int, NDArray[np.float64]] = {}

    def likeness(self, vectors: NDArray, own: NDArray | None = None) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the mean cosine (Q,) to the most alike subjects, but for their `own` (Q,), and the rows (Q, k) of
        these subjects' images."""
        similarity, row = subject_similarities(vectors, self.train.vectors, self.number)  # (Q, S)
        if own is not None:
            similarity[np.arange(len(similarity)), own] = -np.inf
        best = np.argsort(-similarity, axis=1, kind="stable")
        best = best[:, : min(self.subjects, len(self.names) - (own is not None))]
        value = np.take_along_axis(similarity, best, 1).astype(float)
        mean = value.mean(1) if best.shape[1] else np.full(len(best), np.nan)
        return mean, np.take_along_axis(row, best, 1)

    def expected(self, vectors: NDArray | None = None) -> float:
        """Return the median likeness of the sampled training images to the other subjects; `vectors` (R,) replace
        theirs."""
        vectors = self.train.vectors[self.rows] if vectors is None else vectors
        return float(np.median(self.likeness(vectors, self.number[self.rows])[0]))

    def expected_beside(self, generated: NDArray, rng: np.random.RandomState, embedder: Embedder) -> float:
        """Return the same of the sampled training images made as soft and noisy as generated ones."""
        images = self.train.images[self.rows]
        return self.expected(embedder.embed_images(match_degradation(images, generated, rng)(images, rng)))

    def measure(self, data: EmbeddingSet, correction: Correction) -> _Measured:
        """Return what embedded images, made under a correction, are against the training images."""
        likeness, rows = self.likeness(data.vectors)
        size = _log_sizes(data.images)
        gross = np.median(self._log_sizes(self.rows), axis=0) - np.median(size, axis=0)
        pairs = self._log_sizes(rows.ravel()).reshape(*rows.shape, 2) - size[:, None]  # (Q, k, 2)
        # the slices of a file are not independent: one value a file
        per_file = np.bincount(data.file, likeness) / np.bincount(data.file)
        return _Measured(correction, per_file, np.median(pairs, axis=(0, 1)), gross)

    def _log_sizes(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        new = [row for row in np.unique(rows).tolist() if row not in self._sizes]
        self._sizes |= dict(zip(new, _log_sizes(self.train.images[new])))
        return np.array([self._sizes[row] for row in rows.tolist()])


@dataclass(frozen=True)
class FitTest:
    """Compares two sets of images, and finds what has to be undone on the second.

    Attributes:
        sample: images of either set that are looked at.
        subjects: of the most alike, whose mean cosine is an image's likeness to a set.
        satisfied: share of the expected likeness from which on nothing is tried, if the objects' sizes agree too.
        least_gain: mean gain in likeness for which a correction is made, in both halves of the sample.
        size_tolerance: relative difference of the objects' median sizes that counts as none.
        least_likeness: share of the expected likeness below which the sets do not fit.
        least_mixed: share of the files that must be far more alike in another orientation or polarity for the set to be
            of two kinds.
        apart: gain in likeness, as a share of the expected, that is far more alike.
        seed: of the sample.
        voxel_mm: side of the voxels of whole volumes.

    Raises:
        ValueError: if a number is out of range.
    """

    sample: int = 64
    subjects: int = 5
    satisfied: float = 0.9
    least_gain: float = 0.02
    size_tolerance: float = 0.06
    least_likeness: float = 0.7
    least_mixed: float = 0.1
    apart: float = 0.2
    seed: int = 0
    voxel_mm: float = 4.0

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("sample", self.sample >= 1, "at least 1"),
            ("subjects", self.subjects >= 1, "at least 1"),
            ("satisfied", 0 <= self.satisfied <= 1, "a share"),
            ("least_gain", self.least_gain >= 0, "at least 0"),
            ("size_tolerance", self.size_tolerance >= 0, "at least 0"),
            ("least_likeness", 0 <= self.least_likeness <= 1, "a share"),
            ("least_mixed", 0 < self.least_mixed <= 1, "a share above 0"),
            ("apart", self.apart > 0, "positive"),
            ("seed", 0 <= self.seed < 2**32, "0 or more and below 2**32"),
            ("voxel_mm", self.voxel_mm > 0, "positive"),
        )

    def __call__(self, train: EmbeddingSet, items: Sequence[Item], embedder: Embedder) -> SetFit:
        """Return how the files `items` of a generated set fit the embedded training images.

        Raises:
            ImageError: as the embedder does.
        """
        if len(set(train.subject_ids.tolist())) <= self.subjects:
            return SetFit()  # too few for any answer, and for a likeness to be measured
        rng = np.random.RandomState(self.seed)
        reference = _Reference(train, _draw(len(train), self.sample, rng), self.subjects)
        expected = reference.expected()
        # about `sample` images, if a generated file has as many as a training file
        files = max(4, round(self.sample * len(train.items) / len(train)))
        trial = _Trial([items[i] for i in _draw(len(items), files, rng)], reference, embedder)
        # cut into slices, or whole
        volumes = bool((train.slice >= 0).all()) or train.images.ndim == 4
        found = plain = trial(Correction())
        if self._off(plain) > self.size_tolerance or np.median(plain.likeness) < self.satisfied * expected:
            found = self._corrected(plain, trial, volumes)
        mixed = self._mixed(found, trial, expected, volumes)
        generated = trial.embedded(found.correction).images
        expected = reference.expected_beside(generated, rng, embedder)
        likeness = float(np.median(found.likeness))
        fits = likeness >= self.least_likeness * expected
        return SetFit(found.correction, likeness, expected, fits, findings(found.correction, fits, mixed), mixed)

    def of_one_view(self, sets: Mapping[str, EmbeddingSet], fit: SetFit, embedder: Embedder) -> Fitted:
        """Return sets of whole volumes that do not fit, as `fit` says, compared where both show something.

        The set whose objects are smaller shows less; the real ones, or the generated ones, are shown as that set's
        volumes are. Sets that do not fit for all that stay as they are.
        """
        train, generated = sets["train"], sets["generated"]
        shown = [float(np.median((data.images > 0.1).mean(axis=(1, 2, 3)))) for data in (train, generated)]
        less, others = ("generated", ("train", "holdout")) if shown[1] < shown[0] else ("train", ("generated",))
        template = template_of(sets[less])
        alike = {
            name: shown_as(data, template, self.voxel_mm, embedder) if name in others else data
            for name, data in sets.items()
        }
        rng = np.random.RandomState(self.seed)
        reference = _Reference(alike["train"], _draw(len(train), self.sample, rng), self.subjects)
        expected = reference.expected_beside(alike["generated"].images, rng, embedder)
        rows = _draw(len(generated), self.sample, rng)
        likeness = float(np.median(reference.likeness(alike["generated"].vectors[rows])[0]))
        # seen through one outline even noise is alike: what is shown must be far more so
        noise = embedder.embed_images(scrambled(alike["generated"].images[rows], rng))
        outline = float(np.median(reference.likeness(noise)[0]))
        if likeness < max(self.least_likeness * expected, outline + max(0.0, expected - outline) / 2):
            return Fitted(sets, fit)
        found = [*findings(fit.correction, True, fit.mixed), ANOTHER_VIEW]
        return Fitted(alike, replace(fit, likeness=likeness, expected=expected, fits=True, findings=found))

    def _corrected(self, plain: _Measured, trial: _Trial, volumes: bool) -> _Measured:
        """Return the sample under the correction that makes it most alike, or as it is where none is surely better."""
        best = plain
        for base in _bases(volumes):
            try:
                unscaled = trial(base)
                for candidate in (unscaled, self._stretched(unscaled, trial, volumes)):
                    best = candidate if self._better(candidate, best, plain) else best
            except ImageError:
                continue  # nothing is left of an image so corrected
        # a stretch of a seventh hardly lowers the likeness, yet hides every copy: sizes alone decide
        return self._stretched(best, trial, volumes) if self._off(best) > self.size_tolerance else best

    def _mixed(self, found: _Measured, trial: _Trial, expected: float, volumes: bool) -> float:
        """Return the share of files that another orientation or polarity makes far more alike; 0 for few."""
        if np.percentile(found.likeness, 100 * self.least_mixed) >= self.least_likeness * expected:
            return 0.0
        gains = [np.zeros(len(found.likeness))]
        for base in _bases(volumes):
            other = replace(found.correction, transposed=base.transposed, inverted=base.inverted)
            if base.object_only or other == found.correction:
                continue
            with contextlib.suppress(ImageError):  # nothing is left of an image so corrected
                gains.append(trial(other).likeness - found.likeness)
        share = float((np.max(gains, axis=0) > self.apart * expected).mean())
        return share if share >= self.least_mixed else 0.0

    def _stretched(self, measured: _Measured, trial: _Trial, volumes: bool) -> _Measured:
        """Return the sample stretched until its objects are as large as those of the images that they resemble.

        Measured again each time: among images of a wrong size those of the same wrong size seem alike, and a stretched
        image may no longer be shrunk to the network's field.
        """
        for _ in range(4):
            off = measured.gross if np.abs(measured.gross).max() > GROSS else measured.off
            if np.abs(off).max() <= self.size_tolerance / 2:
                break
            stretch = _times(measured.correction.stretch, off, volumes)
            try:
                again = trial(replace(measured.correction, stretch=stretch))
            except ImageError:
                break  # nothing is left of an image so stretched
            if again.likeness.mean() < measured.likeness.mean() - self.least_gain / 4:
                break
            measured = again
        return measured

    def _off(self, measured: _Measured) -> float:
        gross = np.abs(measured.gross).max()
        return float(max(np.abs(measured.off).max(), gross if gross > GROSS else 0))

    def _better(self, new: _Measured, best: _Measured, plain: _Measured) -> bool:
        """Return whether a correction surely gains on none, and more than the best so far for what it changes."""
        gain = new.likeness - plain.likeness
        halves = [half.mean() for half in (gain[::2], gain[1::2]) if len(half)]
        error = max(gain.std(), LEAST_SPREAD) / np.sqrt(len(gain))
        price = self.least_gain * max(0, new.correction.changes - best.correction.changes)
        return bool(
            min(halves) > self.least_gain
            and gain.mean() > 3 * error
            and new.likeness.mean() > best.likeness.mean() + price
        )


class _Trial:
    """Measures files under corrections; each is embedded once."""

    def __init__(self, items: Sequence[Item], reference: _Reference, embedder: Embedder) -> None:
        self.items, self.reference, self.embedder = items, reference, embedder
        self._embedded: dict[Correction, EmbeddingSet] = {}

    def embedded(self, correction: Correction) -> EmbeddingSet:
        """Return the files, embedded under a correction.

        Raises:
            ImageError: as the embedder does, or if fewer files than without a correction are left.
        """
        if correction not in self._embedded:
            data = self.embedder.embed_files(corrected(self.items, correction), "a sample of the generated images")
            if len(data.items) < len(self._embedded.get(Correction(), data).items):
                raise ImageError("expected all files that can be read, found nothing left of some")
            self._embedded[correction] = data
        return self._embedded[correction]

    def __call__(self, correction: Correction) -> _Measured:
        return self.reference.measure(self.embedded(correction), correction)


def corrected(items: Sequence[Item], correction: Correction) -> list[Item]:
    """Return the items with a correction, those of a set that needs none as they are."""
    if not correction.changes:
        return list(items)
    return [{**item, "correction": correction} for item in items]


def _bases(volumes: bool) -> Iterator[Correction]:
    """Yield what may have to be undone, the simplest first."""
    choices = (False,) if volumes else (False, True)
    options = itertools.product(choices, (False, True), choices)
    yield from sorted((Correction(*option) for option in options), key=lambda option: option.changes)


def _times(stretch: Stretch, off: NDArray, volumes: bool) -> Stretch:
    """Return a stretch times the exponentials of logs (2,); of volumes, times their geometric mean."""
    factor = np.exp(np.full(2, off.mean()) if volumes else off).clip(0.25, 4)
    return round(stretch[0] * float(factor[0]), 3), round(stretch[1] * float(factor[1]), 3)


def _log_sizes(images: NDArray) -> NDArray[np.float64]:
    """Return the log sides (N, 2) of the largest object of images (N, H, W) or volumes; one pixel where none is.

    Of a volume only the sides of its axial planes: how far down a head is shown differs.
    """
    sizes = []
    for image in images:
        inside = largest_object(image) if image.ndim == 2 else np.any(object_mask(image.astype(np.float32)), axis=2)
        sizes.append([np.ptp(np.flatnonzero(inside.any(axis))) + 1 if inside.any() else 1 for axis in (1, 0)])
    return np.log(np.array(sizes, float))


def _draw(total: int, count: int, rng: np.random.RandomState) -> NDArray[np.int64]:
    return np.arange(total) if total <= count else np.sort(rng.choice(total, count, replace=False))
