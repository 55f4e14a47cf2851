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

"""Audits of real slices with a known truth, by the audit of configs/detect.yaml."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from bundle_root import ROOT
from numpy.typing import NDArray
from question import FDR
from remembering import RememberingVerifier
from scipy import ndimage
from scripts.auditing.audit import Audit
from scripts.auditing.degradation import Change
from scripts.auditing.found import Units
from scripts.auditing.parts import paste_part
from scripts.auditing.search import Search
from scripts.bundle.components import component
from scripts.decision.null import Null
from scripts.decision.rates import benjamini_hochberg
from scripts.embedder.embedding_set import EmbeddingSet
from scripts.images.datalists import find_images
from scripts.images.items import Item, RandomTransform
from scripts.similarity.rendering import render
from scripts.similarity.verification import Verifier
from tqdm import tqdm

__all__ = ["ImagePart", "Outcome", "RealSlices", "Scenario"]

DETECT = ROOT / "configs" / "detect.yaml"
ImagePart = float | Literal["half"]
LEAST_DISTANCE = 1e-6  # keeps the logarithm of a perfect copy's finite


@dataclass(frozen=True)
class Scenario:
    """What stands in the training set and what the generator does in one audit.

    Attributes:
        train_subjects: the rest is unseen and gives the images that are no copies.
        generated: images.
        share: of the generated images that are copies.
        strength: random dictionary transform of every generated image: new ones are moved and degraded as copies are.
        change: what the generator does to all its images (N, H, W).
        part: of a training image that a copy puts into an unseen one: a disc so many pixels wide, or the left or right
            half; None copies all of it.
    """

    train_subjects: int = 100
    generated: int = 100
    share: float = 0.0
    strength: RandomTransform | None = None
    change: Change | None = None
    part: ImagePart | None = None

    @property
    def copies(self) -> int:
        """How many of the generated images are copies; they come first."""
        return round(self.share * self.generated)


@dataclass(frozen=True)
class Outcome:
    """What one audit called: a count, the share called of new images, of false ones among the calls, of copies."""

    calls: int
    type_one: float
    false_share: float
    recall: float


class Subject(NamedTuple):
    """A subject's slices (N, H, W) and their levels (N,), mm below the top of the head."""

    images: NDArray[np.float16]
    level: NDArray[np.float64]


class RealSlices:
    """Real slices of many subjects, of which any number may be audited as training subjects.

    Args:
        dataset_dir: a datalist of volumes.
        split_file: subjects by part, as configs/splits/ixi.json.
        parts: of the split. All three have 150 subjects, of which the embedder saw 90 as it was trained; it only
            retrieves, and what is decided on is the alignment.
        levels: slices of a subject, evenly over its brain.
        keys: of configs/detect.yaml that differ.
    """

    def __init__(
        self,
        dataset_dir: str,
        split_file: str,
        parts: Iterable[str] = ("train", "validation", "test"),
        levels: int = 3,
        **keys: object,
    ) -> None:
        # the positive control is asked nothing here, but merges near-copies
        keys = {"output_dir": "eval/validity", "control_images": 20} | keys
        keys["image_verifier::_target_"] = f"{RememberingVerifier.__module__}.{RememberingVerifier.__name__}"
        self.audit: Audit = component(DETECT, "audit", **keys)
        split = json.loads(Path(split_file).read_text())
        wanted = {subject for part in parts for subject in split[part]}
        items = [item for item in find_images(dataset_dir) if item["subject_id"] in wanted]
        chain = component(DETECT, "preprocessing")
        self.subjects: dict[str, Subject] = {}
        for item in tqdm(items, desc="slices"):
            slices = chain(dict(item))
            chosen = np.unique(np.linspace(0, len(slices) - 1, levels).round().astype(int))
            self.subjects[item["subject_id"]] = Subject(
                np.stack([np.asarray(slices[i]["image"])[0] for i in chosen]).astype(np.float16),
                np.array([slices[i]["level"] for i in chosen], float),
            )

    @property
    def images(self) -> NDArray[np.float16]:
        """All slices of all subjects, (N, H, W)."""
        return np.concatenate([subject.images for subject in self.subjects.values()])

    def run(self, seed: int, scenario: Scenario, raw: bool = False) -> Outcome:
        """Return what the audit calls of a random split.

        `raw` decides on the aligned SSIM itself, against a null that nothing matched: the mistake.
        """
        rng = np.random.RandomState(seed)
        names = rng.permutation(sorted(self.subjects)).tolist()
        train, unseen = sorted(names[: scenario.train_subjects]), sorted(names[scenario.train_subjects :])
        known = self._training_set(train)
        generated = self._generated_set(scenario, train, unseen, rng)
        called = self._called_raw(known, generated) if raw else self.audit(known, generated).memorized
        copies, new = called[: scenario.copies], called[scenario.copies :]
        return Outcome(
            calls=int(called.sum()),
            type_one=float(new.mean()),
            false_share=float(new.sum() / max(1, called.sum())),
            recall=float(copies.mean()) if len(copies) else float("nan"),
        )

    def _training_set(self, names: list[str]) -> EmbeddingSet:
        subjects = [self.subjects[name] for name in names]
        return self._embedded(
            np.concatenate([subject.images for subject in subjects]),
            np.concatenate([subject.level for subject in subjects]),
            np.repeat(names, [len(subject.images) for subject in subjects]).tolist(),
        )

    def _generated_set(
        self, scenario: Scenario, train: list[str], unseen: list[str], rng: np.random.RandomState
    ) -> EmbeddingSet:
        images, levels = [], []
        for number in range(scenario.generated):
            copied = number < scenario.copies
            subject = self.subjects[str(rng.choice(train if copied else unseen))]
            row = rng.randint(len(subject.images))
            image, level = subject.images[row].astype(np.float32), subject.level[row]
            if scenario.part is not None and copied:
                image = self._part(image, level, unseen, scenario.part, rng)
            if scenario.strength is not None:
                scenario.strength.set_random_state(state=rng)
                image = scenario.strength({"image": torch.from_numpy(image[None])})["image"][0].numpy()
            images.append(image)
            levels.append(level)
        stacked = np.stack(images) if scenario.change is None else scenario.change(np.stack(images), rng)
        return self._embedded(stacked, np.array(levels), [f"g{i}" for i in range(scenario.generated)])

    def _part(
        self, source: NDArray, level: float, unseen: list[str], part: ImagePart, rng: np.random.RandomState
    ) -> NDArray[np.float32]:
        """Put a part of `source` into an unseen image of about its level, to which it is aligned first."""
        subject = self.subjects[str(rng.choice(unseen))]
        host = subject.images[np.abs(subject.level - level).argmin()].astype(np.float32)[None]
        warped = render(host, source[None], Verifier().align(host, source[None]).matrix, shading=False)[0]
        if part == "half":
            x = np.arange(host.shape[1])[:, None] < host.shape[1] / 2  # left or right of the middle
            weight = ndimage.gaussian_filter1d((x == rng.randint(2)).astype(np.float32), 1.0, axis=0)
            return weight * warped[0] + (1 - weight) * host[0]
        return paste_part(host[0], warped[0], part, rng)

    def _embedded(self, images: NDArray, level: NDArray, subjects: list[str]) -> EmbeddingSet:
        """Return planar images (N, H, W) as a data set of one file each."""
        items: list[Item] = [
            {"id": f"{subject}_{i}", "image": "", "subject_id": subject} for i, subject in enumerate(subjects)
        ]
        images = images.astype(np.float16)
        vectors = self.audit.embedder.embed_images(images)
        count = len(images)
        return EmbeddingSet(items, np.arange(count), np.full(count, -1), level, vectors, images, [])

    def _called_raw(self, train: EmbeddingSet, generated: EmbeddingSet) -> NDArray[np.bool_]:
        subject = np.unique(train.subject_ids, return_inverse=True)[1]
        search = Search(train.vectors, train.images, subject, self.audit.verifier, self.audit.k)

        def closeness(data: EmbeddingSet, subject: NDArray) -> NDArray[np.float64]:
            units = Units(data.vectors, data.images, np.arange(len(data)), data.level, subject)
            return -np.log(np.maximum(1 - search(units, subject).aligned_ssim.max(1), LEAST_DISTANCE))

        null = Null(closeness(train, subject), subject, train.level, 2)
        values = closeness(generated, np.full(len(generated), -1))
        return benjamini_hochberg(null.p_values(values, generated.level)) <= FDR
