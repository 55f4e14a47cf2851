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

"""One image or volume at a time: is it a copy, and of which training subject? For a viewer, where no set is at hand.

The training set is embedded, its null and its positive control are searched once. Then an image takes a second or two.
It is judged by its p-value alone: a false-discovery rate is a property of a set.
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .auditing.audit import Audit
from .auditing.controls import Controls, SearchedNull
from .auditing.degradation import Degradation
from .auditing.detail import detail_of_calls
from .auditing.fit import FitTest
from .auditing.found import Found
from .auditing.kinds import kinds_of_subjects
from .auditing.naming import name_images
from .auditing.result import Tier
from .auditing.search import Search
from .auditing.training_subjects import Subjects, one_person
from .bundle.components import bundle_file, choice, component
from .bundle.files import no_wider_than
from .decision.decide import decide
from .embedder.embedder import Embedder
from .embedder.embedding_set import EmbeddedImage, EmbeddingSet
from .embedder.file_loader import File, FileLoader, ImageError, Unreadable
from .images.datalists import find_images
from .images.items import Item
from .images.readers import files_of, series_of

__all__ = ["Lookup", "LookupAnswer"]


@dataclass(frozen=True)
class LookupAnswer:
    """What one image or volume is.

    `tier` says whether it is called, `subject` and `image` are the nearest training subject and image, `aligned_ssim`
    and `mirrored` how that lies on it, `detail` how far the fine detail of a called image agrees (NaN of others).
    `p_value` is that of the single image, called at or below `level`. `recall` is the share of `controls` copies that
    the lookup made itself and would have called. `doubts` say why a copy might not have been recognised.
    """

    tier: Tier
    subject: str
    image: str
    aligned_ssim: float
    mirrored: bool
    detail: float
    p_value: float
    level: float
    recall: float
    controls: int
    doubts: list[str]

    @property
    def verdict(self) -> str:
        """`copy`, `likeness`, `none`, or `inconclusive` where nothing is called and there are doubts."""
        return "inconclusive" if self.tier is Tier.NONE and self.doubts else self.tier.value

    @property
    def title(self) -> str:
        """The answer in some words, such as a viewer has room for."""
        numbers = f"(aligned SSIM {self.aligned_ssim:.3f}, p = {self.p_value:.2g}, one image)"
        return {
            "copy": f"Looks like a copy of {self.subject} {numbers}",
            "likeness": f"Likeness of {self.subject}, no copy {numbers}",
            "none": f"No copy found; nearest is {self.subject} {numbers}",
            "inconclusive": f"Cannot tell; nearest is {self.subject} {numbers}",
        }[self.verdict]

    @property
    def text(self) -> str:
        """The answer in sentences, with its evidence."""
        mirrored = ", mirrored" if self.mirrored else ""
        lines = [f"{self.title}; its image is {self.image}{mirrored}."]
        if self.tier is Tier.LIKENESS:
            lines.append("It is nearer to that subject than chance explains, but the fine detail differs.")
        if self.tier is Tier.NONE and not self.doubts:
            lines.append(
                f"Of {self.controls} degraded copies of training images {self.recall:.0%} would have been called."
            )
        return " ".join([*lines, *self.doubts])

    @property
    def caution(self) -> str:
        """What one image cannot tell."""
        return (
            f"One image has no set-level error rate: of images that copy nobody, {100 * self.level:g} in 100 are "
            "called too. For a false-discovery rate audit the whole set (configs/detect.yaml)."
        )

    def as_dict(self) -> dict[str, object]:
        """Return the answer as JSON has it: `detail` is None where nothing is called."""
        return {
            "verdict": self.verdict,
            "title": self.title,
            "subject": self.subject,
            "image": self.image,
            "aligned_ssim": round(self.aligned_ssim, 4),
            "mirrored": self.mirrored,
            "detail": None if np.isnan(self.detail) else round(self.detail, 4),
            "p_value": self.p_value,
            "level": self.level,
            "text": self.text,
            "caution": self.caution,
        }


class Lookup:
    """Tells of single images which training subject they look like.

    The audit's method with three differences: there is no set to correct for, so that the p-value decides; none to
    match the null's blur and noise to; and none to estimate how the images were saved.

    Args:
        items: the training images.
        embedder: embeds them, and what is looked up, of which it keeps nothing.
        audit: whose verifier, statistic, criteria (`fdr` is the level of p), null and positive control are taken.

    Raises:
        ImageError: if a training image cannot be read.
    """

    def __init__(self, items: Sequence[Item], embedder: Embedder, audit: Audit) -> None:
        self.audit = audit
        with no_wider_than({file for item in items for file in files_of(item["image"])}):
            self.train = embedder.embed_files(items, "training images")
        self._embedder = copy.copy(embedder)
        self._embedder.cache_dir = None
        self._lock = threading.Lock()  # the kernels' threads are not to be started twice
        self.subjects = Subjects.of(self.train)
        self.controls, left_out = self._searched()
        if groups := one_person(left_out, self.controls, self.train, self.subjects.number, audit.criteria):
            self.subjects = self.subjects.merged(groups)
            self.controls, left_out = self._searched()
        self.null, self._expected = left_out.null, float(np.median(_likeness(left_out.found)))
        nobody = decide(np.zeros(0), np.zeros(0), np.zeros(0, int), self.null, audit.criteria)
        self.control, _ = self.controls.positive_control(
            self.train, self.subjects.number, audit.control, audit.control_images, self.null, nobody, audit.criteria
        )

    @classmethod
    def of(cls, keys: Mapping[str, str]) -> Lookup:
        """Return the lookup in a training set, from keys and their texts as a command line gives them.

        Args:
            keys: `train_dir`, a folder or datalist; and, as of configs/detect.yaml, `subject_pattern`, `include`,
                `exclude`, `volumes` (`whole`, or `slices`, which are planar images too), `checkpoint`; `cache_dir`
                keeps the embeddings; `level` is that of p, below 1.

        Raises:
            ValueError: if `train_dir` is missing, or a key or value is wrong.
        """
        if unknown := sorted(set(keys) - {*KEYS, "train_dir"}):
            raise ValueError(f"{unknown[0]}: expected one of train_dir, {', '.join(KEYS)}; correct the key")
        if "train_dir" not in keys:
            raise ValueError("train_dir: expected the folder of the training images, found none; give it")
        given = {**KEYS, **keys}
        items = find_images(keys["train_dir"], given["subject_pattern"], given["include"], given["exclude"])
        audit = component(bundle_file("configs/detect.yaml"), "audit", **_overrides(given))
        return cls(items, audit.embedder, audit)

    @property
    def volumes(self) -> bool:
        """Whether what is looked up are volumes, whole or cut; else planar images."""
        return self.train.images.ndim == 4 or self.controls.search.whole_files

    def __call__(self, path: str | os.PathLike) -> LookupAnswer:
        """Return what the image or volume in a file, or of a folder's DICOM series, is.

        Raises:
            OSError: if there is no such file.
            ValueError: if it cannot be read, or is no image such as the training images are.
        """
        item = _item_of(os.fspath(path))
        with self._lock:
            data = self._embedded(item)
            search, criteria = self.controls.search, self.audit.criteria
            units = search.units(data, np.full(len(data), -1))
            found = search(units, name=item["id"])
            kind = self.controls.kind_of(found)
            decision = decide(found.statistic, units.level, found.nearest, self.null, criteria, kind)
            called = bool(decision.memorized[0])
            found = name_images(search, units, found, decision.memorized, self.audit.named_images)
            row = found.image[:, found.best[0]]
            detail = detail_of_calls(search, units, found, self.train, data, decision.memorized, self.audit.close_up)[0]
        tier = (Tier.COPY if detail >= criteria.copy_detail else Tier.LIKENESS) if called else Tier.NONE
        return LookupAnswer(
            tier=tier,
            subject=str(self.subjects.names[found.nearest[0]]),
            image=self.train.items[int(self.train.file[row[found.slice_ssim[:, found.best[0]].argmax()]])]["id"],
            aligned_ssim=float(found.best_ssim[0]),
            mirrored=bool(found.mirrored[:, found.best[0]].mean() > 0.5),
            detail=float(detail),
            p_value=float(decision.p_value[0]),
            level=criteria.fdr,
            recall=self.control.recall,
            controls=self.control.images,
            doubts=self._doubts(float(_likeness(found).mean())),
        )

    def _searched(self) -> tuple[Controls, SearchedNull]:
        """Return the search among the training subjects, with its controls, and the null of leaving each out."""
        audit, train, number = self.audit, self.train, self.subjects.number
        volumes = bool((train.slice >= 0).any())
        search = Search(
            train.vectors,
            train.images,
            number,
            audit.verifier,
            audit.k,
            audit.statistic,
            volumes,
            audit.images_a_subject,
        )
        kinds = kinds_of_subjects(train.vectors, number, audit.statistic.subjects + 1)
        rng = np.random.RandomState(audit.seed)
        controls = Controls(search, self._embedder, Degradation(), rng, audit.null_subjects, audit.null_slices, kinds)
        return controls, controls.leave_one_out_null(train, number, np.full(1, np.nan))

    def _embedded(self, item: Item) -> EmbeddingSet:
        loaded = FileLoader(self._embedder.load.preprocessing).load(File("", item))
        if isinstance(loaded, Unreadable):
            raise ImageError(f"{item['image']}: cannot be looked up ({loaded.reason}); choose another image")
        cut = self.controls.search.whole_files
        if cut != any(image.slice >= 0 for image in loaded.images):
            kinds = ("planar images", "volumes")
            raise ImageError(
                f"{item['image']}: expected one of {kinds[cut]}, as the training images are, found one of "
                f"{kinds[not cut]}; choose another image"
            )
        vectors = self._embedder.embed_images(np.stack([image.image for image in loaded.images]))
        rows = [EmbeddedImage(i.image, i.slice, i.level, v) for i, v in zip(loaded.images, vectors)]
        return EmbeddingSet.of([(item, rows)])

    def _doubts(self, likeness: float) -> list[str]:
        """Return why a copy might not have been recognised; `likeness` is that of the image to the training images."""
        subjects, needed = len(self.subjects.names), self.audit.statistic.subjects + 1
        if subjects < needed:
            return [f"There are {subjects} training subjects, and at least {needed} are needed."]
        doubts = []
        if self.control.ci95[0] <= self.audit.criteria.least_recall:
            doubts.append(
                f"Of {self.control.images} degraded copies of training images {self.control.recall:.0%} would have "
                "been called, too few to tell."
            )
        if likeness < FitTest.least_likeness * self._expected:
            doubts.append(
                f"The image does not resemble the training images: its likeness is {likeness:.2f}, theirs "
                f"{self._expected:.2f}."
            )
        return doubts


KEYS = {
    "subject_pattern": None,
    "include": None,
    "exclude": None,
    "volumes": "whole",
    "checkpoint": None,
    "cache_dir": None,
    "level": "0.01",
}


def _overrides(given: Mapping[str, str | None]) -> dict[str, object]:
    """Return keys of configs/detect.yaml: numbers and absolute paths, so that no text from outside is evaluated."""
    whole = choice("volumes", {"whole": True, "slices": False}, str(given["volumes"]))
    found: dict[str, object] = {"volumes": given["volumes"], "fdr": _level(str(given["level"]))}
    if given["checkpoint"] is not None:
        found["volume_checkpoint" if whole else "checkpoint"] = os.path.abspath(given["checkpoint"])
    found["embedder#cache_dir"] = None if given["cache_dir"] is None else os.path.abspath(given["cache_dir"])
    return found


def _level(text: str) -> float:
    try:
        level = float(text)
    except ValueError:
        level = float("nan")
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, found {text!r}; give one such as 0.01")
    return level


def _item_of(path: str) -> Item:
    """Return the image of a file, or of the one DICOM series in a folder; folders below it are not looked into."""
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path or 'no path'}: expected a file, found none; check the name of the image")
    item: Item = {"image": os.path.abspath(path), "id": os.path.basename(os.path.abspath(path)), "subject_id": ""}
    if os.path.isdir(path) and (count := len(series_of(path))) != 1:
        raise ValueError(f"{path}: expected the files of one DICOM series, found {count} series; name another folder")
    return item


def _likeness(found: Found) -> NDArray[np.float64]:
    """Return the mean cosine of each row (Q,) to its candidate subjects; NaN where there are none."""
    known = np.isfinite(found.similarity)
    total = np.where(known, found.similarity, 0).sum(1)
    return np.divide(total, known.sum(1), out=np.full(len(known), np.nan), where=known.any(1))
