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

"""Retrieve and verify: the candidate training subjects of images or volumes, each aligned and scored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..bundle.progress import Progress
from ..bundle.shares import ALL, Share
from ..decision.rates import auc
from ..decision.statistic import LocalStatistic, Statistic, clearest
from ..embedder.embedding_set import EmbeddingSet, ImageEmbedder
from ..embedder.fingerprint import fingerprint
from ..images.stacks import Images, Rows
from ..similarity.verification import Verifies
from .found import Found, Units
from .found_store import FoundStore, digest_of
from .neighbors import Candidates, nearest_images, nearest_subjects, pair_cosines, subject_similarities
from .parts import Parts, strongest_squares

__all__ = ["Search", "similarity_auc"]

UNITS, BLOCKS = (64, 4096), 64  # units that are searched, aligned and kept at a time: a 64th, within these limits
DEVICE_UNITS = 2048  # the least of them on a GPU, which is idle with fewer
PER_UNIT = ("subject", "aligned_ssim", "unbent_ssim", "statistic", "best")  # of what is found; the rest is per image
LOOKED_AT, BLOCK = 4096, 256  # images whose similarity to all subjects is measured, and at a time


@dataclass(frozen=True)
class Search:
    """Finds and verifies the k nearest training subjects of units.

    Attributes:
        vectors, images, subjects: (R, D), (R, H, W) or (R, X, Y, Z), and (R,) of the training rows, subjects as numbers
            from 0.
        verifier: aligns a training image to a generated one.
        k: candidate subjects.
        statistic: of their aligned SSIM; where parts are looked for, of the square in which it is largest.
        whole_files: a file is one unit, as a volume is; else each image is one.
        images_a_subject: images of each candidate that are laid on a unit's image, the nearest by their embeddings: of
            neighbouring slices the embedding may prefer another one than that which was copied.
        block: pairs aligned at a time, at least those of the verifier.
        store: keeps what was found; None: nothing is kept. Copies of a part are not kept.

    Raises:
        ValueError: if k candidates are too few for the statistic.
    """

    vectors: NDArray[np.float32]
    images: Images
    subjects: NDArray[np.int64]
    verifier: Verifies
    k: int
    statistic: Statistic = LocalStatistic()
    whole_files: bool = False
    images_a_subject: int = 2
    block: int = 1024
    store: FoundStore | None = None

    def __post_init__(self) -> None:
        if self.k < self.statistic.subjects:
            raise ValueError(f"k must be at least {self.statistic.subjects}, got {self.k}")

    def units(self, data: EmbeddingSet, subjects: NDArray, rows: NDArray | None = None) -> Units:
        """Return rows of a set of N images (None: all) as units; `subjects` (N,) are their subjects' numbers.

        The set's images are not copied, and its vectors only if rows are given.
        """
        part = slice(None) if rows is None else rows
        images = data.images if rows is None else Rows(data.images, rows)
        rows = np.arange(len(data)) if rows is None else rows
        key = data.file[rows] if self.whole_files else rows
        _, first, unit = np.unique(key, return_index=True, return_inverse=True)
        level = np.full(len(first), np.nan) if self.whole_files else data.level[rows]
        return Units(data.vectors[part], images, unit, level, np.asarray(subjects)[rows][first])

    def __call__(
        self, units: Units, barred: NDArray[np.int64] | None = None, name: str = "", share: Share = ALL
    ) -> Found:
        """Return the verified candidates; `barred` (U,) is a subject that each unit must not find, -1 for none.

        Of the blocks of units those of `share` are looked at; of others zeros are returned.
        """
        if self.verifier.window:
            candidates = self.nearest(units, barred)
            with Progress(total=int((candidates.image >= 0).sum()), desc=f"aligning {name}", unit="pair") as bar:
                return self._in_squares(units, candidates, bar)
        least = UNITS[0] if self.verifier.device.type == "cpu" else DEVICE_UNITS
        # whatever the shares, so that results are the same
        size = int(np.clip(-(-len(units) // BLOCKS), least, UNITS[1]))
        arrays: dict[str, NDArray] = {}  # filled block by block: joined afterwards, all would be there twice
        with Progress(total=len(units), desc=f"aligning {name}", unit="image") as bar:
            for first in share.of(range(0, len(units), size)) or [len(units)]:  # at least one, of no unit
                some = slice(first, min(first + size, len(units)))
                rows = slice(*np.searchsorted(units.unit, [some.start, some.stop]))
                mine = None if barred is None else barred[some]
                for key, array in self._block(units.part(some.start, some.stop), mine, bar).arrays.items():
                    by_unit = key in PER_UNIT
                    if key not in arrays:
                        shape = len(units) if by_unit else len(units.unit), *array.shape[1:]
                        arrays[key] = np.zeros(shape, array.dtype)
                    arrays[key][some if by_unit else rows] = array
        return Found.of(arrays)

    def _block(self, units: Units, barred: NDArray[np.int64] | None, bar: Progress) -> Found:
        """Return the verified candidates of some units, from the store where they are known."""
        key = "" if self.store is None else self._key(units, barred)
        if self.store is not None and (known := self.store.read(key)) is not None:
            bar.update(len(units))
            return Found.of(known)
        candidates = self.nearest(units, barred)
        found = self._whole(units, candidates, bar)
        if self.store is not None:
            self.store.add(key, found.arrays)
        return found

    def nearest(self, units: Units, barred: NDArray[np.int64] | None = None) -> Candidates:
        """Return the candidates of units by their embeddings alone; `barred` as when it is called."""
        return nearest_subjects(
            units.vectors, self.vectors, self.subjects, self.k, units.unit, barred, device=self.verifier.device
        )

    def embedded(self, images: NDArray[np.float32], embedder: ImageEmbedder) -> NDArray[np.float32]:
        """Return the vectors (N, D) of images that an audit made, from the store where they are known.

        The embedder is that of the training vectors, which stand for it in the store.
        """
        if self.store is None:
            return embedder.embed_images(images)
        key = digest_of(f"{self.digest} embedded", images, images)
        if (known := self.store.read(key)) is None:
            known = {"vectors": embedder.embed_images(images)}
            self.store.add(key, known)
        return known["vectors"]

    def _key(self, units: Units, barred: NDArray[np.int64] | None) -> str:
        """Return a hash of all that the candidates of units depend on."""
        none = np.full(len(units), -1) if barred is None else barred
        return digest_of(self.digest, units.images, units.vectors, units.unit, none)

    @cached_property
    def digest(self) -> str:
        """A hash of the training set, and of how it is searched, aligned and scored, with the code of that."""
        how = fingerprint(self.verifier, self.statistic, type(self), self.k, self.whole_files, self.images_a_subject)
        return digest_of(how, self.images, self.vectors, self.subjects)

    def _whole(self, units: Units, candidates: Candidates, bar: Progress) -> Found:
        """Align and score whole images: a unit's candidate has the mean of its images."""
        shape = candidates.image.shape
        several = self._several(units, candidates)
        image, ssim, unbent = candidates.image.copy(), *(np.full(shape, -np.inf, np.float32) for _ in range(2))
        axes = self.images.ndim - 1
        matrix, mirrored = np.zeros((*shape, axes, axes + 1)), np.zeros(shape, bool)
        rows, columns = np.nonzero(image >= 0)
        reached, block = 0, max(self.block, self.verifier.block)  # units that are aligned; pairs at a time
        for start in range(0, len(rows), block):
            q, c = rows[start : start + block], columns[start : start + block]
            found = self.verifier.align(units.images, self.images, (q, several[q, c]))
            image[q, c] = np.take_along_axis(several[q, c], found.column[:, None], 1)[:, 0]
            ssim[q, c], unbent[q, c] = found.aligned_ssim, found.unbent_ssim
            matrix[q, c], mirrored[q, c] = found.matrix, found.mirrored
            done = units.unit[q[-1]] if start + block < len(rows) else len(units)
            bar.update(done - reached)
            reached = done
        mean, mean_unbent = units.mean(ssim), units.mean(unbent)  # (U, k)
        statistic, best = clearest(self.statistic, (mean, mean_unbent))
        return Found(
            subject=candidates.subject,
            aligned_ssim=mean,
            statistic=statistic,
            image=image,
            similarity=pair_cosines(units.vectors, self.vectors, image),
            slice_ssim=ssim,
            matrix=matrix,
            mirrored=mirrored,
            unbent_ssim=mean_unbent,
            best=best,
        )

    def _several(self, units: Units, candidates: Candidates) -> NDArray[np.int64]:
        """Return the images of each candidate that are laid on each row, (Q, k, n), the nearest first."""
        most = int(np.bincount(self.subjects, minlength=1).max())
        count = min(self.images_a_subject, most)
        if count == 1:
            return candidates.image[:, :, None]
        chosen = np.where(candidates.image >= 0, candidates.subject[units.unit], -1)
        return nearest_images(units.vectors, self.vectors, self.subjects, chosen, count)

    def _in_squares(self, units: Units, candidates: Candidates, bar: Progress) -> Found:
        """Align several images of each candidate and score them square by square: the most striking square decides."""
        count, k = candidates.image.shape
        grid = self.verifier.grid(self.images.shape[1:])
        image, ssim = np.empty_like(candidates.image), np.empty((count, k), np.float32)
        matrix, mirrored = np.empty((count, k, 2, 3)), np.empty((count, k), bool)
        square, value = np.empty(count, np.int64), np.empty(count)
        step = max(1, self.block // (k * self.images_a_subject))  # rows, all candidates of each
        for begin in range(0, count, step):
            block = slice(begin, begin + step)
            chosen = candidates.subject[units.unit[block]]
            images = nearest_images(units.vectors[block], self.vectors, self.subjects, chosen, self.images_a_subject)
            agreement = np.full((*images.shape, len(grid)), np.nan, np.float32)  # (q, k, images, W)
            maps, flips = np.zeros((*images.shape, 2, 3)), np.zeros(images.shape, bool)
            for n in range(images.shape[2]):
                q, c = np.nonzero(images[:, :, n] >= 0)
                start = maps[q, c, 0] if n else None  # that of the subject's first image is nearly right
                found = self.verifier.align(units.images[block], self.images, (q, images[q, c, n]), start)
                agreement[q, c, n], maps[q, c, n], flips[q, c, n] = found.squares, found.matrix, found.mirrored
            known = np.where(np.isnan(agreement), -np.inf, agreement)
            square[block], value[block] = strongest_squares(known.max(2), grid, self.statistic)
            there = np.take_along_axis(known, square[block, None, None, None], 3)[..., 0]
            best = there.argmax(2)[:, :, None]  # the image that agrees most in the square that decides
            image[block] = np.take_along_axis(images, best, 2)[:, :, 0]
            # -1, the least SSIM, where a candidate shows nothing in that square
            ssim[block] = np.where(image[block] >= 0, np.maximum(there.max(2), -1), -np.inf)
            mirrored[block] = np.take_along_axis(flips, best, 2)[:, :, 0]
            matrix[block] = np.take_along_axis(maps, best[..., None, None], 2)[:, :, 0]
            bar.update(int((images[:, :, 0] >= 0).sum()))
        parts = Parts.of(units.unit, value, square, grid)
        mean = ssim[parts.row].astype(float)
        return Found(
            subject=candidates.subject,
            aligned_ssim=mean,
            statistic=value[parts.row],
            image=image,
            similarity=pair_cosines(units.vectors, self.vectors, image),
            slice_ssim=ssim,
            matrix=matrix,
            mirrored=mirrored,
            unbent_ssim=mean,
            best=mean.argmax(1),
            parts=parts,
        )


def similarity_auc(search: Search, units: Units, null_units: Units, leave_out: bool) -> float | None:
    """Return the AUC of the generated images' similarity to all of train, its median over subjects, against the null's.

    None where either is similar to nobody. `leave_out` bars the null's own subjects. Of more than 4,096 images as many,
    evenly spread, are looked at: the AUC's standard error is then below 0.01 for a null of 1,000.
    """
    medians = []
    for sample, barred in ((units, False), (null_units, leave_out)):
        count = len(sample.vectors)
        rows = np.linspace(0, count - 1, min(count, LOOKED_AT)).round().astype(int)
        parts = []
        for start in range(0, len(rows), BLOCK):
            part = rows[start : start + BLOCK]
            similarity, _ = subject_similarities(sample.vectors[part], search.vectors, search.subjects)  # (q, S)
            if barred:
                similarity[np.arange(len(part)), sample.subject[sample.unit[part]]] = -np.inf
            similarity = similarity[np.isfinite(similarity).any(1)]  # a single subject leaves its own null nobody
            parts.append(np.nanmedian(np.where(np.isfinite(similarity), similarity, np.nan), axis=1))
        medians.append(np.concatenate([np.empty(0), *parts]))
    return auc(*medians) if all(map(len, medians)) else None
