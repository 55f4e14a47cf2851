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

"""Audits with a planted truth: copies of training subjects and images of new ones, degraded alike, from real scans."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import nibabel
import numpy as np
import torch
from matplotlib.figure import Figure
from monai.transforms import Compose, LoadImage, Orientation, Randomizable
from numpy.typing import NDArray

from ..audit.neighbors import nearest_subjects
from ..audit.result import AuditResult
from ..bundle.components import component
from ..bundle.files import read_table, write_table
from ..detect import AuditData, run_audit
from ..images.subjects import starts_of_runs
from ..images.writing import write_image

__all__ = ["PlantedCopies", "plot_curve", "run_study"]


PUBLISHED_CUT = 0.85  # arXiv 2509.16582: a similarity above it is a duplicate
Slice = tuple[float | None, NDArray]  # level in mm, image


class PlantedCopies(Randomizable):
    """Writes train and generated folders whose copies are known, drawn at random from scans of `items`.

    Train holds all slices (or the volume) of `train_subjects` random subjects; generated holds degraded copies of
    random ones of them, and images of the other subjects, degraded alike.

    Args:
        items: item dicts of volumes with `subject_id`.
        preprocessing: the bundle's chain, for the slices.
        train_subjects: subjects in train; the rest is new to it.
        copies, new: generated images of either kind.
        volumes: write whole NIfTI volumes instead of PNG slices.
    """

    def __init__(
        self,
        items: Sequence[dict[str, Any]],
        preprocessing: Callable,
        train_subjects: int = 35,
        copies: int = 60,
        new: int = 60,
        volumes: bool = False,
    ) -> None:
        self.items = {item["subject_id"]: item for item in items}
        self.train_subjects, self.copies, self.new, self.volumes = train_subjects, copies, new, volumes
        self.preprocessing = preprocessing
        self.cache: dict[str, list[Slice]] = {}

    def write(self, folder: Path, degrade: Any, seed: int) -> None:
        """Write train/, generated/, train.csv (a datalist) and truth.csv (generated_id, train_id, subject_id)."""
        self.set_random_state(seed)
        degrade.set_random_state(state=self.R)
        subjects = self.R.permutation(sorted(self.items)).tolist()
        train, strangers = sorted(subjects[: self.train_subjects]), sorted(subjects[self.train_subjects :])
        for name in ("train", "generated"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        rows = []
        for subject in train:
            for index, (level, image) in enumerate(self._images(subject)):
                name = self._save(image, folder / "train" / f"{subject}_{index:02d}")
                rows.append({"image": f"train/{name}", "subject_id": subject, "level": level})
        write_table(folder / "train.csv", [{k: v for k, v in row.items() if v is not None} for row in rows])
        truth = []
        picked = self.R.choice(len(rows), self.copies, replace=self.copies > len(rows))
        chosen = [(rows[i]["subject_id"], Path(rows[i]["image"]).name, i) for i in picked]
        order = [*chosen, *[(strangers[i % len(strangers)], "", -1) for i in range(self.new)]]
        # names tell nothing: copies and new images are shuffled together
        for number, which in enumerate(self.R.permutation(len(order))):
            subject, source, _ = order[which]
            images = self._images(subject)
            index = int(Path(source).name.split(".")[0].rsplit("_", 1)[1]) if source else self.R.randint(len(images))
            name = self._save(
                degrade({"image": torch.from_numpy(images[index][1])})["image"].numpy(),
                folder / "generated" / f"{number:03d}",
            )
            truth.append(
                {
                    "generated_id": name,
                    "train_id": f"train/{source}" if source else "",
                    "subject_id": subject if source else "",
                }
            )
        write_table(folder / "truth.csv", truth)

    def _images(self, subject: str) -> list[Slice]:
        """The subject's slices (level, (1, H, W)), or its volume (None, (Z, X, Y)); in [0, 1]."""
        if subject not in self.cache:
            item = self.items[subject]
            if self.volumes:
                chain = Compose([LoadImage(ensure_channel_first=True), Orientation("RAS", labels=None)])
                volume = np.asarray(chain(item["image"]).numpy()[0], np.float32)
                volume = (volume / np.percentile(volume, 99.5)).clip(0, 1)
                self.cache[subject] = [(None, np.ascontiguousarray(volume.transpose(2, 0, 1)))]
            else:
                self.cache[subject] = [(e["level"], np.asarray(e["image"])) for e in self.preprocessing(dict(item))]
        return self.cache[subject]

    def _save(self, image: NDArray, stem: Path) -> str:
        if self.volumes:
            array = (image.transpose(1, 2, 0) * 1000).astype(np.int16)
            path = stem.with_name(stem.name + ".nii.gz")
            nibabel.save(nibabel.Nifti1Image(array, np.diag([2.0, 2.0, 2.0, 1.0])), path)
        else:
            path = stem.with_name(stem.name + ".png")
            write_image(image[0], path)
        return path.name


def run_study(
    sets: PlantedCopies,
    strengths: Mapping[str, Callable],
    draws: int,
    detect_config: str,
    output_dir: str,
    seed: int = 0,
    **overrides: Any,
) -> list[dict[str, Any]]:
    """Audit every strength `draws` times and return one row each; finished rows come from results.jsonl.

    `overrides` are keys of the detect config. Each row holds recall, false-discovery share, how many copies have their
    true source image and subject as the verified match, the positive control's recall and the run time.
    """
    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    log = output / "results.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for draw in range(draws):
        for name, degrade in strengths.items():
            if any(row["strength"] == name and row["draw"] == draw for row in rows):
                continue
            folder = output / f"{name}_{draw}"
            sets.write(folder, degrade, seed + draw)
            start = perf_counter()
            audit = component(detect_config, "audit", output_dir=str(folder), **overrides)
            result = run_audit(AuditData(folder / "train.csv", folder / "generated"), audit.embedder, audit)
            row = {"strength": name, "draw": draw, **_score(result, folder), "seconds": perf_counter() - start}
            rows.append(row)
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    return rows


def _score(result: AuditResult, folder: Path) -> dict[str, float | None]:
    truth = {row["generated_id"]: row for row in read_table(folder / "truth.csv")}
    matches = [result.match(unit) for unit in range(len(result.units))]
    planted = [truth[result.generated.items[match.file]["id"]] for match in matches]
    copy = np.array([bool(row["train_id"]) for row in planted])
    image = np.array([result.train.items[m.train_file]["id"] == row["train_id"] for m, row in zip(matches, planted)])
    subject = np.array([result.subject_names[m.subject] == row["subject_id"] for m, row in zip(matches, planted)])
    called = result.memorized
    return {
        "recall": float((called & copy).sum() / copy.sum()),
        "false_discovery_share": float((called & ~copy).sum() / max(1, called.sum())),
        "source_image": float(image[copy].mean()),
        "source_subject": float(subject[copy].mean()),
        "called": int(called.sum()),
        "control_recall": result.control.recall,
        "match_auc": result.calibration.match_auc,
        "null_blur": result.calibration.null_blur,
        "null_noise": result.calibration.null_noise,
        **_earlier_rules(result, copy),
    }


def _earlier_rules(result: AuditResult, copy: NDArray[np.bool_]) -> dict[str, float]:
    """Recall and false-discovery share of two rules without an error rate, on this audit's own embeddings.

    `cut`: cosine above 0.85 (DeepSSIM). `percentile`: above the 95th percentile of the similarity that real images have
    to other subjects (Dar et al.).
    """
    units = result.units
    nearest = np.maximum.reduceat(result.found.similarity[:, 0], starts_of_runs(units.unit))
    subjects = result.train_subject
    vectors = result.train.vectors
    real = nearest_subjects(vectors, vectors, subjects, 1, exclude=subjects).similarity[:, 0]
    scores = {}
    for name, cut in (("cut", PUBLISHED_CUT), ("percentile", float(np.percentile(real, 95)))):
        called = nearest > cut
        scores[f"{name}_recall"] = float((called & copy).sum() / copy.sum())
        scores[f"{name}_false_discovery_share"] = float((called & ~copy).sum() / max(1, called.sum()))
    return scores


def plot_curve(rows: Sequence[Mapping[str, Any]], path: str, level: float = 0.05) -> None:
    """Write recall, true source and false-discovery share against the strength of degradation as a figure."""
    names = list(dict.fromkeys(row["strength"] for row in rows))
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for key, label, color in (
        ("recall", "recall", "#15616d"),
        ("source_subject", "true source is the verified match", "#9aa5b1"),
        ("control_recall", "recall that the positive control announces", "#7c9a5e"),
        ("false_discovery_share", "false-discovery share", "#c2410c"),
    ):
        values = [[row[key] for row in rows if row["strength"] == name] for name in names]
        means = [np.mean(v) for v in values]
        spread = [[m - min(v) for m, v in zip(means, values)], [max(v) - m for m, v in zip(means, values)]]
        axes.errorbar(range(len(names)), means, spread, label=label, color=color, marker="o", capsize=3, lw=1.8)
    axes.axhline(level, color="#c2410c", ls=":", lw=1)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("strength of degradation (mean and range over draws)")
    axes.set_ylim(-0.03, 1.03)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left")
    figure.savefig(path, dpi=150)
