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
from ..images.correction import AXES, Correction
from ..images.items import Item
from ..images.sizes import Size, saved_sizes
from .field_of_view import scrambled, shown_as, template_of
from .findings import ANOTHER_VIEW, OfSize, SetFit, findings, findings_of_size
from .likeness import Measured, Reference, Trial, corrected

__all__ = ["FitTest"]

logger = logging.getLogger(__name__)

Stretch = tuple[float, float]

GROSS = 0.3  # log of a ratio of sizes that no difference between people or levels explains
FEW = 4  # volumes of which all 24 ways to lie are tried
MOST_SIZES = 5  # numbers of pixels in a set, each of which is then looked at alone; more are the set's nature
PEOPLE_DIFFER = 0.19  # three standard deviations of the median size of heads, times the root of their number
LEAST_SPREAD = 0.05  # of the gain in likeness between files, where few of them show less


class Fitted(NamedTuple):
    """Sets that were made to fit, by name, and how they fit now."""

    sets: Mapping[str, EmbeddingSet]
    fit: SetFit


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
        array_layout, array_key: what the axes of arrays are, and which array of a file is meant; None: found out.

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
    array_layout: str | None = None
    array_key: str | Sequence[str] | None = None

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
        reference = Reference(train, _draw(len(train), self.sample, rng), self.subjects)
        # cut into slices, or whole
        volumes = bool((train.slice >= 0).all()) or train.images.ndim == 4
        sizes = {} if volumes else self._files_of_sizes(items)
        fits: dict[Size, SetFit] = {}
        for size, files in sizes.items():
            with contextlib.suppress(ImageError):  # none of these can be read, which the audit allows or not
                fits[size] = self._fit(reference, [items[file] for file in files], embedder, volumes, rng)
        if not fits:
            return self._fit(reference, items, embedder, volumes, rng)
        (most, fit), *others = fits.items()
        alone = [
            OfSize(*size, len(sizes[size]), part.correction, part.fits and not part.mixed) for size, part in others
        ]
        own = fit.findings
        if alone and fit.fits:  # what was undone on most was undone on these alone, too
            own = [replace(found, text=f"of {len(sizes[most])} generated images alone: {found.text}") for found in own]
        return replace(
            fit,
            findings=[*own, *(found for some in alone for found in findings_of_size(some))],
            mixed=fit.mixed + sum(some.files for some in alone if not some.fits) / len(items),
            of_size=alone,
        )

    def corrected(self, items: Sequence[Item], fit: SetFit) -> list[Item]:
        """Return the generated set's files with what is to be undone on each."""
        if not fit.of_size:
            return corrected(items, fit.correction)
        sizes = saved_sizes(items, self.array_layout, self.array_key)
        known = {(some.rows, some.columns): some.correction for some in fit.of_size}
        chosen = [fit.correction if size is None else known.get(size, fit.correction) for size in sizes]
        return [item for one, correction in zip(items, chosen) for item in corrected([one], correction)]

    def _files_of_sizes(self, items: Sequence[Item]) -> dict[Size, list[int]]:
        """Return the numbers of the files of each size in pixels, most first; none where all have one, or many."""
        files: dict[Size, list[int]] = {}
        unknown = []
        for number, size in enumerate(saved_sizes(items, self.array_layout, self.array_key)):
            files.setdefault(size, []).append(number) if size else unknown.append(number)
        if not 1 < len(files) <= MOST_SIZES:
            return {}
        found = dict(sorted(files.items(), key=lambda entry: -len(entry[1])))
        next(iter(found.values())).extend(unknown)  # the audit says what is wrong with them
        return found

    def _fit(
        self, reference: Reference, items: Sequence[Item], embedder: Embedder, volumes: bool, rng: np.random.RandomState
    ) -> SetFit:
        """Return how generated files that were saved in one way fit."""
        expected = reference.expected()
        # about `sample` images, if a generated file has as many as a training file
        train = reference.train
        files = max(4, round(self.sample * len(train.items) / len(train)))
        trial = Trial([items[i] for i in _draw(len(items), files, rng)], reference, embedder)
        found = plain = trial(Correction())
        if self._off(plain) > self._tolerance(plain) or np.median(plain.likeness) < self.satisfied * expected:
            found = self._corrected(plain, trial, volumes, expected)
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
        reference = Reference(alike["train"], _draw(len(train), self.sample, rng), self.subjects)
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

    def _corrected(self, plain: Measured, trial: Trial, volumes: bool, expected: float) -> Measured:
        """Return the sample under the correction that makes it most alike, or as it is where none is surely better."""
        best, axes = plain, self._axes(trial.part(range(FEW)), self.apart * expected) if volumes else "RAS"
        for base in _bases(volumes):
            try:
                unscaled = trial(replace(base, axes=axes))
                for candidate in (unscaled, self._stretched(unscaled, trial, volumes)):
                    best = candidate if self._better(candidate, best, plain) else best
            except ImageError:
                continue  # nothing is left of an image so corrected
        # a stretch of a seventh hardly lowers the likeness, yet hides every copy: sizes alone decide
        return self._stretched(best, trial, volumes) if self._off(best) > self._tolerance(best) else best

    def _axes(self, few: Trial, least_gain: float) -> str:
        """Return the axes that raise the likeness of a few volumes most; those of their headers if by too little."""
        plain, gains = few(Correction()).likeness, {"RAS": 0.0}
        for axes in AXES[1:]:
            with contextlib.suppress(ImageError):  # nothing is left of a volume so turned
                gains[axes] = float(np.median(few(Correction(axes=axes)).likeness - plain))
        best = max(gains, key=gains.__getitem__)
        return best if gains[best] > least_gain else "RAS"

    def _askew(self, found: Measured, trial: Trial, expected: float) -> float:
        """Return the share of volumes whose axes are not what their headers say, while those of the others are.

        Only of a few is it tried: those that are least alike, of those that are too little. Nothing is turned for it,
        so that half the gain is enough. Heads of IXI lose 0.11 to 0.5 of the expected likeness where front is called
        back, and 0.14 at least where they are turned for nothing.
        """
        unlike = np.argsort(found.likeness)[: int((found.likeness < self.satisfied * expected).sum())]
        if found.correction != Correction() or not len(unlike):
            return 0.0
        tried = [trial.part([file]) for file in unlike[:FEW].tolist()]
        wrong = [self._axes(one, self.apart / 2 * expected) != "RAS" for one in tried]
        # a single odd one is no second kind
        return float(np.mean(wrong)) * len(unlike) / len(found.likeness) if sum(wrong) > 1 else 0.0

    def _mixed(self, found: Measured, trial: Trial, expected: float, volumes: bool) -> float:
        """Return the share of files that another orientation or polarity makes far more alike; 0 for few."""
        if volumes and (askew := self._askew(found, trial, expected)) >= self.least_mixed:
            return askew
        if np.percentile(found.likeness, 100 * self.least_mixed) >= self.least_likeness * expected:
            return 0.0
        gains = [np.zeros(len(found.likeness))]
        for base in _bases(volumes):
            other = replace(found.correction, transposed=base.transposed, inverted=base.inverted)
            if base.object_only or other == found.correction:
                continue
            with contextlib.suppress(ImageError):  # nothing is left of an image so corrected
                gains.append(trial(other).likeness - found.likeness)
        unlike = np.flatnonzero(found.likeness < self.least_likeness * expected)
        if not volumes:  # of another size, on a canvas of the same
            part = trial.part(unlike.tolist())
            gains.append(np.zeros(len(found.likeness)))
            gains[-1][unlike] = self._stretched(part(found.correction), part, volumes).likeness - found.likeness[unlike]
        share = float((np.max(gains, axis=0) > self.apart * expected).mean())
        return share if share >= self.least_mixed else 0.0

    def _stretched(self, measured: Measured, trial: Trial, volumes: bool) -> Measured:
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

    def _tolerance(self, measured: Measured) -> float:
        """Return the relative difference of sizes that counts as none, more where few people's median is taken."""
        return max(self.size_tolerance, PEOPLE_DIFFER / float(np.sqrt(len(measured.likeness))))

    def _off(self, measured: Measured) -> float:
        gross = np.abs(measured.gross).max()
        return float(max(np.abs(measured.off).max(), gross if gross > GROSS else 0))

    def _better(self, new: Measured, best: Measured, plain: Measured) -> bool:
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


def _bases(volumes: bool) -> Iterator[Correction]:
    """Yield what may have to be undone, the simplest first."""
    choices = (False,) if volumes else (False, True)
    options = itertools.product(choices, (False, True), choices)
    yield from sorted((Correction(*option) for option in options), key=lambda option: option.changes)


def _times(stretch: Stretch, off: NDArray, volumes: bool) -> Stretch:
    """Return a stretch times the exponentials of logs (2,); of volumes, times their geometric mean."""
    factor = np.exp(np.full(2, off.mean()) if volumes else off).clip(0.25, 4)
    return round(stretch[0] * float(factor[0]), 3), round(stretch[1] * float(factor[1]), 3)


def _draw(total: int, count: int, rng: np.random.RandomState) -> NDArray[np.int64]:
    return np.arange(total) if total <= count else np.sort(rng.choice(total, count, replace=False))
