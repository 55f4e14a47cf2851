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

"""The stages that make a model of a case study and audit it, each skipped where its output exists."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..bundle.components import bundle_file
from ..bundle.files import read_table, replacing, write_table
from ..detect import STATUS_INCONCLUSIVE
from ..ldm.texts import Template
from .image_tables import subject_rows
from .study_results import Cell

__all__ = ["Attack", "AuditSamples", "Generate", "Job", "Split", "Stage", "Train"]

LEAST_HOLDOUT = 6  # subjects: the statistic compares five


@dataclass(frozen=True)
class Job:
    """A model to be made: its condition, the images to draw from it, its `folder`, and the cores that it may use."""

    cell: Cell
    seed: int
    samples: int
    folder: Path
    cores: int = 1


class Stage(ABC):
    """A step in making a model."""

    def check(self, job: Job) -> None:  # noqa: B027 -- most stages ask nothing
        """Raise a ValueError if the job cannot be done; asked of all jobs before the first begins."""

    @abstractmethod
    def output(self, job: Job) -> Path:
        """Return the file that exists once the stage is done."""

    @abstractmethod
    def make(self, job: Job) -> None:
        """Do the stage."""

    def __call__(self, job: Job) -> None:
        """Do the stage if it is not done."""
        if not self.output(job).exists():
            self.make(job)


@dataclass(frozen=True)
class Split(Stage):
    """Writes train.csv and holdout.csv.

    Attributes:
        tables: of :func:`~scripts.studies.image_tables.export_images`, by what a cell calls its `slices`; all of the
            same subjects.
        condition_columns: of the tables, where a cell's condition is `variables`; such a cell trains on subjects that
            have a value in each.
        text: where it is `text`, the sentence; the same of the columns that it names.
    """

    tables: Mapping[str, str | Path]
    condition_columns: Sequence[str] = ()
    text: str | None = None

    def rows(self, cell: Cell, seed: int, training: bool) -> list[dict[str, str]]:
        """Return the images that a cell trains on, or those of all other subjects."""
        needed = list(self.condition_columns) if cell.condition == "variables" else []
        if cell.condition == "text":
            needed = Template(self.text or "").columns
        return subject_rows(self.tables, needed, cell, seed, training)

    def check(self, job: Job) -> None:
        cell = job.cell
        images, unseen = (self.rows(cell, job.seed, part) for part in (True, False))
        people, others = (len({row["subject_id"] for row in rows}) for rows in (images, unseen))
        if people < cell.subjects or others < LEAST_HOLDOUT:
            raise ValueError(
                f"cell {cell.name}: expected {cell.subjects} subjects to train on and {LEAST_HOLDOUT} or more as "
                f"holdout, found {people} and {others}; change the cell"
            )
        if len(images) < job.samples and job.samples % len(images):
            raise ValueError(
                f"cell {cell.name}: expected a number of training images that divides {job.samples} samples, found "
                f"{len(images)}; change the cell or samples"
            )

    def output(self, job: Job) -> Path:
        return job.folder / "holdout.csv"

    def make(self, job: Job) -> None:
        for name, training in (("train", True), ("holdout", False)):
            write_table(job.folder / f"{name}.csv", self.rows(job.cell, job.seed, training))


class ConfigStage(Stage):
    """Runs configs of the bundle as a user does, in a process of its own, and keeps its time and log."""

    name: str
    overrides: Mapping[str, object]
    good: tuple[int, ...] = (0,)  # exit statuses

    @abstractmethod
    def configs(self) -> list[str | Path]:
        """Return the config and its overlays."""

    @abstractmethod
    def keys(self, job: Job) -> dict[str, object]:
        """Return the values of the configs' keys."""

    def make(self, job: Job) -> None:
        """Run the configs.

        Raises:
            ChildProcessError: if they fail; the log tells why.
        """
        files = [str(path) for path in self.configs()]
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(files) if files[1:] else files[0]]
        for key, value in {**self.keys(job), **self.overrides}.items():
            command += [f"--{key}", str(value)]
        log, start = job.folder / "log.txt", time.perf_counter()
        environment = {**os.environ, "OMP_NUM_THREADS": str(job.cores)}
        with log.open("a", encoding="utf-8") as file:
            status = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, cwd=job.folder, env=environment
            ).returncode
        if status not in self.good:
            raise ChildProcessError(
                f"{log}: expected stage {self.name} to end well, found exit status {status}; see the log's end"
            )
        path = job.folder / "seconds.json"
        seconds = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(seconds | {self.name: round(time.perf_counter() - start, 1)}))


@dataclass(frozen=True)
class Train(ConfigStage):
    """Trains a diffusion model.

    Attributes:
        autoencoder_file: weights of configs/ldm/train_autoencoder.yaml.
        condition_columns: of the tables, where a cell's condition is `variables`.
        text, text_encoder: of that config, where a cell's condition is `text`. All cells share text_embeddings.npz
            beside their folders, so that the encoder sees a sentence once.
        overlays: configs laid over train_diffusion.yaml.
        overrides: keys that differ in the config.
    """

    autoencoder_file: str | Path
    condition_columns: Sequence[str] = ()
    text: str | None = None
    text_encoder: str | Path | None = None
    overlays: Sequence[str | Path] = ()
    overrides: Mapping[str, object] = field(default_factory=dict)
    name = "train"

    def configs(self) -> list[str | Path]:
        return [bundle_file("configs/ldm/train_diffusion.yaml"), *self.overlays]

    def output(self, job: Job) -> Path:
        return job.folder / "model" / "diffusion.pt"

    def keys(self, job: Job) -> dict[str, object]:
        cell, model = job.cell, job.folder / "model"
        keys: dict[str, object] = {
            "dataset_dir": job.folder / "train.csv",
            "autoencoder_file": Path(self.autoencoder_file).absolute(),
            "output_dir": model,
            "duplication": cell.duplication,
            "passes": cell.passes,
            "condition": cell.condition,
            "seed": job.seed,
        }
        if cell.condition == "variables":
            keys["condition_columns"] = list(self.condition_columns)
        keys |= _text_keys(job, self.text, self.text_encoder)
        stopped = sorted(model.glob("checkpoint_epoch=*.pt"), key=lambda path: path.stat().st_mtime)
        if stopped:
            keys["resume"] = stopped[-1]
        return keys

    def make(self, job: Job) -> None:
        super().make(job)
        for path in (job.folder / "model").glob("checkpoint_epoch=*.pt"):  # the weights are in diffusion.pt
            path.unlink()


def _text_keys(job: Job, text: str | None, encoder: str | Path | None) -> dict[str, object]:
    """Return the keys of a cell that is conditioned on sentences, whose vectors all cells share."""
    if job.cell.condition != "text":
        return {}
    keys: dict[str, object] = {"text": repr(text)}  # fire reads commas as a tuple
    keys["text_cache"] = job.folder.parent / "text_embeddings.npz"
    if encoder is not None:  # else an overlay gives one
        keys["text_encoder"] = Path(encoder).expanduser().absolute()
    return keys


@dataclass(frozen=True)
class Attack(ConfigStage):
    """Scores the training images and the holdout by a membership attack on the model.

    Attributes:
        autoencoder_file: as in training.
        overlays: configs laid over membership.yaml.
        overrides: keys that differ in configs/ldm/membership.yaml.
        text, text_encoder: as in training.
    """

    autoencoder_file: str | Path
    overlays: Sequence[str | Path] = ()
    overrides: Mapping[str, object] = field(default_factory=dict)
    text: str | None = None
    text_encoder: str | Path | None = None
    name = "attack"

    def configs(self) -> list[str | Path]:
        return [bundle_file("configs/ldm/membership.yaml"), *self.overlays]

    def output(self, job: Job) -> Path:
        return job.folder / "membership" / "membership.csv"

    def keys(self, job: Job) -> dict[str, object]:
        return {
            "model_dir": job.folder / "model",
            "autoencoder_file": Path(self.autoencoder_file).absolute(),
            "train_dir": job.folder / "train.csv",
            "holdout_dir": job.folder / "holdout.csv",
            "output_dir": job.folder / "membership",
            **_text_keys(job, self.text, self.text_encoder),
        }


@dataclass(frozen=True)
class Generate(ConfigStage):
    """Draws samples from the model.

    Attributes:
        autoencoder_file: as in training.
        overlays: configs laid over generate.yaml.
        overrides: keys that differ in configs/ldm/generate.yaml.
    """

    autoencoder_file: str | Path
    overlays: Sequence[str | Path] = ()
    overrides: Mapping[str, object] = field(default_factory=dict)
    name = "generate"

    def configs(self) -> list[str | Path]:
        return [bundle_file("configs/ldm/generate.yaml"), *self.overlays]

    def output(self, job: Job) -> Path:
        return job.folder / "generated" / "generated.csv"

    def keys(self, job: Job) -> dict[str, object]:
        images = len(read_table(job.folder / "train.csv"))
        return {
            "model_dir": job.folder / "model",
            "autoencoder_file": Path(self.autoencoder_file).absolute(),
            "output_dir": job.folder / "generated",
            "samples_per_record": max(1, job.samples // images),
            "records": min(images, job.samples),
            "seed": 1_000_000 * job.seed,
        }


@dataclass(frozen=True)
class AuditSamples(ConfigStage):
    """Audits the samples against the training images; the null comes from the holdout.

    `overrides` are keys that differ in configs/detect.yaml.
    """

    overrides: Mapping[str, object] = field(default_factory=dict)
    name = "detect"
    good = (0, STATUS_INCONCLUSIVE)  # an audit without an answer is one of a study's results

    def configs(self) -> list[str | Path]:
        return [bundle_file("configs/detect.yaml")]

    def output(self, job: Job) -> Path:
        return job.folder / "audit" / "report.json"

    def keys(self, job: Job) -> dict[str, object]:
        return {
            "train_dir": job.folder / "train.csv",
            "generated_dir": job.folder / "generated" / "generated.csv",
            "holdout_dir": job.folder / "holdout.csv",
            "output_dir": job.folder / "audit",
        }
