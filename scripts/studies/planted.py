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
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import nibabel
import numpy as np
import torch
from matplotlib.figure import Figure
from monai.transforms import Compose, EnsureChannelFirstd, Orientationd, Randomizable
from numpy.typing import NDArray

from ..auditing.neighbors import nearest_subjects
from ..auditing.result import AuditResult
from ..bundle.components import component
from ..bundle.files import read_table, write_table
from ..detect import AuditData, run_audit
from ..images.items import Item, Preprocessing, RandomTransform
from ..images.loading import LoadFiled, prepared_images
from ..images.subjects import starts_of_runs
from ..images.writing import write_image

__all__ = ["PlantedCopies", "PlantedRow", "plot_curve", "run_study"]


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
        acquisition: what happens to all people's scans first, from an item to one whose `image`, and `mask` if it has
            one, are loaded, (X, Y, Z); None: nothing.
    """

    def __init__(
        self,
        items: Sequence[Item],
        preprocessing: Preprocessing,
        train_subjects: int = 35,
        copies: int = 60,
        new: int = 60,
        volumes: bool = False,
        acquisition: Callable[[Item], Item] | None = None,
    ) -> None:
        self.items = {item["subject_id"]: item for item in items}
        self.train_subjects, self.copies, self.new, self.volumes = train_subjects, copies, new, volumes
        self.preprocessing, self.acquisition = preprocessing, acquisition
        self.cache: dict[str, list[Slice]] = {}

    def write(self, folder: Path, degrade: RandomTransform, seed: int) -> None:
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
        """The subject's slices (level, (1, H, W)), or its volume (None, (1, X, Y, Z)); in [0, 1]."""
        if subject not in self.cache:
            item = self.items[subject]
            if self.acquisition:
                item = self.acquisition(item.copy())
            if self.volumes:
                chain = Compose(
                    [LoadFiled("image"), EnsureChannelFirstd("image"), Orientationd("image", "RAS", labels=None)]
                )
                volume = np.asarray(chain(item)["image"].numpy()[0], np.float32)
                volume = (volume / np.percentile(volume, 99.5)).clip(0, 1)
                self.cache[subject] = [(None, volume[None])]
            else:
                slices = prepared_images([item], self.preprocessing)
                self.cache[subject] = [(s["level"], np.asarray(s["image"])) for s in slices]
        return self.cache[subject]

    def _save(self, image: NDArray, stem: Path) -> str:
        if self.volumes:
            array = (image[0] * 1000).astype(np.int16)
            path = stem.with_name(stem.name + ".nii.gz")
            nibabel.save(nibabel.Nifti1Image(array, np.diag([2.0, 2.0, 2.0, 1.0])), path)
        else:
            path = stem.with_name(stem.name + ".png")
            write_image(image[0], path)
        return path.name


@dataclass(frozen=True)
class PlantedRow:
    """What one audit with a planted truth found, a line of results.jsonl.

    `recall` and `false_discovery_share` of the calls, `copy_recall` of the calls that are copies and no likenesses; of
    the copies, the shares whose verified match is the true source's image (`source_image`) and subject
    (`source_subject`). `cut_*` and `percentile_*` are those of two rules without an error rate on the same embeddings:
    a cosine above 0.85 (DeepSSIM), and one above the 95th percentile of the similarity that real images have to other
    subjects (Dar et al.).
    """

    strength: str
    draw: int
    recall: float
    copy_recall: float
    false_discovery_share: float
    source_image: float
    source_subject: float
    called: int
    control_recall: float
    match_auc: float | None
    null_blur: float
    null_noise: float
    cut_recall: float
    cut_false_discovery_share: float
    percentile_recall: float
    percentile_false_discovery_share: float
    seconds: float


def run_study(
    sets: PlantedCopies,
    strengths: Mapping[str, RandomTransform],
    draws: int,
    detect_config: str,
    output_dir: str,
    seed: int = 0,
    **overrides: object,
) -> list[PlantedRow]:
    """Audit every strength `draws` times and return one row each; finished rows come from results.jsonl.

    `overrides` are keys of the detect config.
    """
    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    log = output / "results.jsonl"
    rows = (
        [PlantedRow(**json.loads(line)) for line in log.read_text(encoding="utf-8").splitlines()]
        if log.exists()
        else []
    )
    for draw in range(draws):
        for name, degrade in strengths.items():
            if any(row.strength == name and row.draw == draw for row in rows):
                continue
            folder = output / f"{name}_{draw}"
            sets.write(folder, degrade, seed + draw)
            start = perf_counter()
            audit = component(detect_config, "audit", output_dir=str(folder), **overrides)
            result = run_audit(AuditData(folder / "train.csv", folder / "generated"), audit.embedder, audit)
            row = _row(result, folder, name, draw, perf_counter() - start)
            rows.append(row)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(row)) + "\n")
            print(row, flush=True)
    return rows


def _row(result: AuditResult, folder: Path, strength: str, draw: int, seconds: float) -> PlantedRow:
    truth = {row["generated_id"]: row for row in read_table(folder / "truth.csv")}
    matches = [result.match(unit) for unit in range(len(result.units))]
    planted = [truth[result.generated.items[match.file]["id"]] for match in matches]
    copy = np.array([bool(row["train_id"]) for row in planted])
    image = np.array([result.train.items[m.train_file]["id"] == row["train_id"] for m, row in zip(matches, planted)])
    subject = np.array([result.subject_names[m.subject] == row["subject_id"] for m, row in zip(matches, planted)])
    nearest, percentile = _similarities(result)
    recall, false_share = _rates(result.memorized, copy)
    cut, of_percentile = _rates(nearest > PUBLISHED_CUT, copy), _rates(nearest > percentile, copy)
    return PlantedRow(
        strength=strength,
        draw=draw,
        recall=recall,
        copy_recall=_rates(result.copy, copy)[0],
        false_discovery_share=false_share,
        source_image=float(image[copy].mean()),
        source_subject=float(subject[copy].mean()),
        called=int(result.memorized.sum()),
        control_recall=result.control.recall,
        match_auc=result.calibration.match_auc,
        null_blur=result.calibration.null_blur,
        null_noise=result.calibration.null_noise,
        cut_recall=cut[0],
        cut_false_discovery_share=cut[1],
        percentile_recall=of_percentile[0],
        percentile_false_discovery_share=of_percentile[1],
        seconds=seconds,
    )


def _rates(called: NDArray[np.bool_], copy: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the share of copies that are called, and the share of calls that are no copies."""
    return float((called & copy).sum() / copy.sum()), float((called & ~copy).sum() / max(1, called.sum()))


def _similarities(result: AuditResult) -> tuple[NDArray[np.float64], float]:
    """Return each generated image's (volume's) highest cosine, and the 95th percentile of those of real images."""
    nearest = np.maximum.reduceat(result.found.similarity[:, 0], starts_of_runs(result.units.unit))
    vectors, subjects = result.train.vectors, result.train_subject
    real = nearest_subjects(vectors, vectors, subjects, 1, exclude=subjects).similarity[:, 0]
    return nearest, float(np.percentile(real, 95))


def plot_curve(rows: Sequence[PlantedRow], path: str, level: float = 0.05) -> None:
    """Write recall, true source and false-discovery share against the strength of degradation as a figure."""
    names = list(dict.fromkeys(row.strength for row in rows))
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for key, label, color in (
        ("recall", "recall", "#15616d"),
        ("source_subject", "true source is the verified match", "#9aa5b1"),
        ("control_recall", "recall that the positive control announces", "#7c9a5e"),
        ("false_discovery_share", "false-discovery share", "#c2410c"),
    ):
        values = [[getattr(row, key) for row in rows if row.strength == name] for name in names]
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
