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

"""What is measured on a model once it is audited: leaks, what the rivals flag, and the quality of its images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.metrics import MMDMetric
from numpy.typing import NDArray

from ..bundle.files import read_table
from ..images.datalists import find_images
from ..images.items import Item, Preprocessing
from ..images.loading import SliceSet
from .coincidence import attacked_subjects, coincidence
from .rivals import Images, SearchMethod
from .stages import Job
from .study_results import CellResult, Flagged, LeakedRate, Membership, Quality, SubjectLeak

__all__ = ["Measurement", "flagged", "pooled", "quality"]

Features = Callable[[Images], NDArray[np.float32]]  # images (N, H, W) to vectors (N, D)


def pooled(images: Images) -> NDArray[np.float32]:
    """Return images (N, H, W) at an eighth of their size, (N, h w): a look at shape and brightness. Of volumes too."""
    pool = torch.nn.functional.avg_pool2d if images.ndim == 3 else torch.nn.functional.avg_pool3d
    return pool(torch.from_numpy(images)[:, None], 8).flatten(1).numpy()


def flagged(method: SearchMethod, train: Images, holdout: Images, generated: Images) -> Flagged:
    """Return the share of generated images above the 95th percentile of real unseen ones (Dar et al.)."""
    fitted = method.fit(train)
    unseen, drawn = (fitted.matrix(images, train).max(1) for images in (holdout, generated))
    cut = float(np.percentile(unseen, 95))
    return Flagged(float((drawn > cut).mean()), cut)


def quality(features: Features, train: Images, holdout: Images, generated: Images) -> Quality:
    """Return MMD^2 of the generated images to the unseen real ones, and that of the training images, the best possible.

    MONAI's unbiased estimate with a linear kernel: the squared distance of the sets' mean features, 0 for equal sets.
    """
    vectors = {name: features(images) for name, images in (("t", train), ("h", holdout), ("g", generated))}
    count = min(map(len, vectors.values()))
    rng = np.random.RandomState(0)

    def mmd(name: str) -> float:
        values = []
        for _ in range(20):  # MONAI's metric wants two sets of one size
            a, b = (vectors[n][rng.permutation(len(vectors[n]))[:count]] for n in ("h", name))
            values.append(float(MMDMetric()(torch.from_numpy(a), torch.from_numpy(b))))
        return float(np.mean(values))

    return Quality(mmd("g"), mmd("t"))


@dataclass(frozen=True)
class Measurement:
    """Measures a model in its folder.

    Attributes:
        preprocessing: the bundle's chain, for the rivals and the quality.
        methods: rival similarities by name, None where weights are not given.
        features: of the quality; None: pixels of images at an eighth of the size.
    """

    preprocessing: Preprocessing
    methods: Mapping[str, SearchMethod | None]
    features: Features | None = None

    def __call__(self, job: Job) -> CellResult:
        """Return what the audit in the job's folder and the rivals found, and a membership attack if there was one."""
        folder = job.folder
        report = json.loads((folder / "audit" / "report.json").read_text(encoding="utf-8"))
        matches = read_table(folder / "audit" / "matches.csv")
        images, leaked = self._images(folder, matches), report["leaked_subjects"]
        subjects = _subjects(report, read_table(folder / "model" / "records.csv"))
        return CellResult(
            cell=job.cell,
            seed=job.seed,
            memorized=report["memorized"],
            duplicates=sum(row["memorized"] == "1" and row["label"] == "duplicate" for row in matches),
            empty=len(report["inputs"]["generated"]["skipped"]),
            leaked_subjects=LeakedRate(
                count=leaked["count"], rate=leaked["rate"], ci95=leaked["ci95"], curve=leaked["curve"]
            ),
            set_level=report["set_level"],
            positive_control=report["positive_control"],
            subjects=subjects,
            rivals={name: flagged(m, *images) for name, m in self.methods.items() if m is not None},
            quality=quality(self.features or pooled, *images),
            seconds=json.loads((folder / "seconds.json").read_text(encoding="utf-8")),
            membership=_membership(folder / "membership" / "membership.csv", report, matches, subjects),
        )

    def _images(self, folder: Path, matches: list[dict[str, str]]) -> tuple[Images, Images, Images]:
        """Return the training, the unseen and the generated images, without those that show nothing."""
        train, holdout = (find_images(folder / f"{name}.csv", warn=False) for name in ("train", "holdout"))
        generated: list[Item] = [
            {"image": row["generated_path"], "id": row["generated_path"], "subject_id": row["generated_id"]}
            for row in matches
        ]
        return (
            SliceSet.load(train, self.preprocessing).images,
            SliceSet.load(holdout, self.preprocessing).images,
            SliceSet.load(generated, self.preprocessing).images,
        )


def _subjects(report: Mapping[str, Any], records: list[dict[str, str]]) -> list[SubjectLeak]:
    # the audit cannot tell merged subjects apart: copies are of them all
    leaked = {name for found in report["leaked_subjects"]["ids"] for name in _merged(report).get(found, [found])}
    copies = {row["subject_id"]: int(row["copies"]) for row in records}
    return [SubjectLeak(name, count, name in leaked) for name, count in copies.items()]


def _membership(
    path: Path, report: Mapping[str, Any], matches: list[dict[str, str]], subjects: list[SubjectLeak]
) -> Membership | None:
    if not path.exists():
        return None
    merged = _merged(report)
    sources = [row["train_subject"] for row in matches if row["memorized"] == "1"]
    called = Counter(name for source in sources for name in merged.get(source, [source]))
    return coincidence(attacked_subjects(read_table(path), subjects, called))


def _merged(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the subjects of each group that the audit cannot tell apart, by the group's name."""
    return {"+".join(group): group for group in report["merged_subjects"]["groups"]}
