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

"""Train, sample and audit latent diffusion models under conditions that favour memorization: does the audit follow?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.metrics import MMDMetric
from numpy.typing import NDArray

from ..bundle.components import bundle_file, choice
from ..bundle.files import read_table, replacing, write_table
from ..images.datalists import find_images
from ..images.items import Item
from ..images.loading import SliceSet, planar_slices
from ..images.writing import write_image
from ..ldm.conditions import MISSING, tissue_shares
from .rivals import Method
from .study_report import leaks_by_copies, leaks_by_sight, plot_study, table

__all__ = ["CaseStudy", "Cell", "export_slices"]


@dataclass(frozen=True)
class Cell:
    """One training condition: so many `subjects`, trained on `passes` times; `slices` of them, a name among the study's
    tables; `duplication` and `condition` as in configs/ldm/train_diffusion.yaml."""

    name: str
    subjects: int
    slices: str = "one"
    duplication: str = "none"
    passes: int = 100
    condition: str = "none"


def export_slices(
    items: Sequence[Item],
    preprocessing: Callable,
    levels: Sequence[float],
    output_dir: str | Path,
    tissues: Mapping[str, Sequence[int]] | None = None,
) -> Path:
    """Write the slices of each item nearest to `levels` mm as PNG, and slices.csv with its columns; return that.

    Items with a mask are skull-stripped. A finished slices.csv is left as it is.

    Args:
        items: of volumes with `subject_id`.
        preprocessing: the bundle's chain.
        tissues: labels of :func:`tissue_shares`, for items with a label map as `mask`.
    """
    output = Path(output_dir)
    table = output / "slices.csv"
    if table.exists():
        return table
    rows = []
    for item in items:
        shares = tissue_shares(item["mask"], tissues) if tissues and "mask" in item else {}
        columns = {k: v for k, v in item.items() if k not in ("image", "mask", "id", "subject_id", "participant_id")}
        slices = planar_slices([item], preprocessing, levels)
        for number, slice_ in enumerate(slices):
            name = f"{item['subject_id']}{f'_{number}' if slices[1:] else ''}.png"
            with replacing(output / name) as path:
                write_image(np.asarray(slice_["image"])[0], path)
            rows.append({"image": name, "subject_id": item["subject_id"], **columns, **shares})
    write_table(table, rows)
    return table


class CaseStudy:
    """Trains, samples and audits every cell with every seed; each stage is skipped where its output exists.

    Below `output_dir`, cells/NAME_SEED/ holds train.csv, holdout.csv, model/, generated/, audit/, result.json, log.txt.

    Args:
        tables: of :func:`export_slices`, by what a cell calls its `slices`; all of the same subjects.
        autoencoder_file: weights of configs/ldm/train_autoencoder.yaml.
        output_dir: of the study.
        cells: conditions.
        seeds: each draws the training subjects, the copies, the initial weights and the noise.
        samples: images of each model; the same in every cell, as leaked subjects grow with them.
        preprocessing: the bundle's chain, for the rivals and the quality.
        methods: rival similarities by name.
        features: images (N, H, W) to vectors (N, D) for the quality; None: pixels of images at an eighth of the size.
        condition_columns: of the tables, where a cell's condition is `variables`; such a cell trains on subjects that
            have a value in each.
        overlay: config laid over train_diffusion.yaml; None: none.
        train, generate, detect: keys that differ in the three configs.
        workers: cells at a time, each with its share of the cores: small networks gain little from a second one.
    """

    def __init__(
        self,
        tables: Mapping[str, str | Path],
        autoencoder_file: str | Path,
        output_dir: str | Path,
        cells: Sequence[Mapping[str, Any]],
        seeds: Sequence[int],
        samples: int,
        preprocessing: Callable,
        methods: Mapping[str, Method | None],
        features: Callable[[NDArray], NDArray] | None = None,
        condition_columns: Sequence[str] = (),
        overlay: str | Path | None = None,
        train: Mapping[str, Any] | None = None,
        generate: Mapping[str, Any] | None = None,
        detect: Mapping[str, Any] | None = None,
        workers: int = 1,
    ) -> None:
        self.tables = {name: Path(table).absolute() for name, table in tables.items()}
        self.autoencoder_file = Path(autoencoder_file).absolute()
        self.output_dir = Path(output_dir).absolute()
        self.cells, self.seeds, self.samples = [Cell(**cell) for cell in cells], list(seeds), samples
        self.preprocessing = preprocessing
        self.methods = {name: method for name, method in methods.items() if method is not None}
        self.features, self.condition_columns, self.overlay = features or _pooled, list(condition_columns), overlay
        self.workers, self._one = workers, threading.Lock()
        self.keys = {"train": dict(train or {}), "generate": dict(generate or {}), "detect": dict(detect or {})}
        for cell in self.cells:
            images, unseen = (self._rows(cell, self.seeds[0], part) for part in (True, False))
            people = len({row["subject_id"] for row in images})
            if people < cell.subjects or len({row["subject_id"] for row in unseen}) < 6:
                raise ValueError(
                    f"cell {cell.name}: expected {cell.subjects} subjects to train on and 6 or more as holdout, found "
                    f"{people} and {len({row['subject_id'] for row in unseen})}; change the cell"
                )
            if len(images) < samples and samples % len(images):
                raise ValueError(
                    f"cell {cell.name}: expected a number of training images that divides {samples} samples, found "
                    f"{len(images)}; change the cell or samples"
                )

    def run(self) -> dict[str, Any]:
        """Run what is missing, write case_study.json, .md and .png after each cell and return the first's content."""
        jobs = [(cell, seed) for seed in self.seeds for cell in self.cells]
        results: list[dict[str, Any]] = []
        with ThreadPoolExecutor(self.workers) as pool:  # threads that wait for processes
            try:
                for result in pool.map(self.run_cell, *zip(*jobs)):
                    results.append(result)
                    leaks = {**leaks_by_copies(results), "seen": leaks_by_sight(results)}
                    study = {"samples": self.samples, "cells": results, **leaks}
                    with replacing(self.output_dir / "case_study.json") as path:
                        path.write_text(json.dumps(study, indent=1))
                    with replacing(self.output_dir / "case_study.md") as path:
                        path.write_text(table(study))
                    plot_study(study, self.output_dir / "case_study.png")
                    print(_line(result), flush=True)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return study

    def run_cell(self, cell: Cell, seed: int) -> dict[str, Any]:
        """Return one cell's result, from its folder if it is finished."""
        folder = self.output_dir / "cells" / f"{cell.name}_{seed}"
        done = folder / "result.json"
        if done.exists():
            found = json.loads(done.read_text())
            if found["cell"] != asdict(cell):
                raise ValueError(
                    f"{folder}: expected the cell {asdict(cell)}, found {found['cell']}; remove the folder"
                )
            return found
        self._split(cell, seed, folder)
        self._train(cell, seed, folder)
        self._generate(cell, seed, folder)
        self._audit(folder)
        with self._one:  # a rival's `fit` changes it
            result = {"cell": asdict(cell), "seed": seed, **self._measure(folder)}
        with replacing(done) as path:
            path.write_text(json.dumps(result, indent=1))
        return result

    def _rows(self, cell: Cell, seed: int, training: bool) -> list[dict[str, Any]]:
        """Return the images that a cell trains on, or those of all other subjects.

        Cells of one seed draw from the same permutation, so that the fewer subjects are among the more.
        """
        table = choice("slices", self.tables, cell.slices)
        rows = read_table(table)
        needed = self.condition_columns if cell.condition == "variables" else []
        usable = {r["subject_id"] for r in rows if all(r.get(c) not in MISSING for c in needed)}
        order = np.random.RandomState(seed).permutation(sorted({row["subject_id"] for row in rows})).tolist()
        chosen = set([name for name in order if name in usable][: cell.subjects])
        return [r | {"image": str(table.parent / r["image"])} for r in rows if (r["subject_id"] in chosen) is training]

    def _split(self, cell: Cell, seed: int, folder: Path) -> None:
        for name, training in (("train", True), ("holdout", False)):
            write_table(folder / f"{name}.csv", self._rows(cell, seed, training))

    def _train(self, cell: Cell, seed: int, folder: Path) -> None:
        model = folder / "model"
        if (model / "diffusion.pt").exists():
            return
        keys: dict[str, Any] = {
            "dataset_dir": folder / "train.csv",
            "autoencoder_file": self.autoencoder_file,
            "output_dir": model,
            "duplication": cell.duplication,
            "passes": cell.passes,
            "condition": cell.condition,
            "seed": seed,
        }
        if cell.condition == "variables":
            keys["condition_columns"] = self.condition_columns
        stopped = sorted(model.glob("checkpoint_epoch=*.pt"), key=lambda path: path.stat().st_mtime)
        if stopped:
            keys["resume"] = stopped[-1]
        overlay = [] if self.overlay is None else [self.overlay]
        self._run_config(folder, "train", [bundle_file("configs/ldm/train_diffusion.yaml"), *overlay], keys)
        for path in model.glob("checkpoint_epoch=*.pt"):  # the weights are in diffusion.pt
            path.unlink()

    def _generate(self, cell: Cell, seed: int, folder: Path) -> None:
        if (folder / "generated" / "generated.csv").exists():
            return
        images = len(read_table(folder / "train.csv"))
        keys = {
            "model_dir": folder / "model",
            "autoencoder_file": self.autoencoder_file,
            "output_dir": folder / "generated",
            "samples_per_record": max(1, self.samples // images),
            "records": min(images, self.samples),
            "seed": 1_000_000 * seed,
        }
        self._run_config(folder, "generate", [bundle_file("configs/ldm/generate.yaml")], keys)

    def _audit(self, folder: Path) -> None:
        if (folder / "audit" / "report.json").exists():
            return
        keys = {
            "train_dir": folder / "train.csv",
            "generated_dir": folder / "generated" / "generated.csv",
            "holdout_dir": folder / "holdout.csv",
            "output_dir": folder / "audit",
        }
        self._run_config(folder, "detect", [bundle_file("configs/detect.yaml")], keys)

    def _run_config(self, folder: Path, stage: str, configs: Sequence[str | Path], keys: Mapping) -> None:
        """Run a config as a user does, in a process of its own, and keep its time and log.

        Raises:
            ChildProcessError: if it fails; its log tells why.
        """
        files = [str(path) for path in configs]
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(files) if files[1:] else files[0]]
        for key, value in {**keys, **self.keys[stage]}.items():
            command += [f"--{key}", str(value)]
        log = folder / "log.txt"
        start = time.perf_counter()
        with log.open("a") as file:
            share = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.workers))}
            status = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, cwd=folder, env={**os.environ, **share}
            ).returncode
        if status:
            raise ChildProcessError(
                f"{log}: expected stage {stage} to end well, found exit status {status}; see the log's end"
            )
        path = folder / "seconds.json"
        seconds = json.loads(path.read_text()) if path.exists() else {}
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(seconds | {stage: round(time.perf_counter() - start, 1)}))

    def _measure(self, folder: Path) -> dict[str, Any]:
        report = json.loads((folder / "audit" / "report.json").read_text())
        records = read_table(folder / "model" / "records.csv")
        leaked = set(report["leaked_subjects"]["ids"])
        for group in report["merged_subjects"]["groups"]:  # the audit cannot tell them apart: copies are of them all
            if "+".join(group) in leaked:
                leaked.update(group)
        matches = read_table(folder / "audit" / "matches.csv")
        items = {name: find_images(folder / f"{name}.csv", warn=False) for name in ("train", "holdout")}
        items["generated"] = [  # without those that show nothing
            {"image": row["generated_path"], "id": row["generated_path"], "subject_id": row["generated_id"]}
            for row in matches
        ]
        images = {name: SliceSet.load(some, self.preprocessing).images for name, some in items.items()}
        return {
            "memorized": report["memorized"],
            "duplicates": sum(row["memorized"] == "1" and row["label"] == "duplicate" for row in matches),
            "empty": len(report["inputs"]["generated"]["skipped"]),
            "leaked_subjects": {key: report["leaked_subjects"][key] for key in ("count", "rate", "ci95", "curve")},
            "set_level": report["set_level"],
            "positive_control": report["positive_control"],
            "subjects": [
                {"subject_id": name, "copies": copies, "leaked": name in leaked}
                for name, copies in {r["subject_id"]: int(r["copies"]) for r in records}.items()
            ],
            "rivals": {name: _flagged(method, **images) for name, method in self.methods.items()},
            "quality": _quality(self.features, **images),
            "seconds": json.loads((folder / "seconds.json").read_text()),
        }


def _flagged(method: Method, train: NDArray, holdout: NDArray, generated: NDArray) -> dict[str, float]:
    """Return the shares of generated and of real unseen images above the 95th percentile of the latter (Dar et al.)."""
    method.fit(train)
    nearest = {name: method.matrix(images, train).max(1) for name, images in (("h", holdout), ("g", generated))}
    cut = float(np.percentile(nearest["h"], 95))
    return {"flagged": float((nearest["g"] > cut).mean()), "cut": cut}


def _quality(features: Callable[[NDArray], NDArray], train: NDArray, holdout: NDArray, generated: NDArray):
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

    return {"mmd": mmd("g"), "mmd_train": mmd("t")}


def _pooled(images: NDArray) -> NDArray[np.float32]:
    """Return images (N, H, W) at an eighth of their size, (N, h w): a look at shape and brightness."""
    small = torch.nn.functional.avg_pool2d(torch.from_numpy(images)[:, None], 8)
    return small.flatten(1).numpy()


def _line(result: Mapping[str, Any]) -> str:
    memorized, leaked = result["memorized"], result["leaked_subjects"]
    low, high = memorized["ci95"]
    return (
        f"{result['cell']['name']}, seed {result['seed']}: {memorized['rate']:.1%} of samples called ({low:.1%} to "
        f"{high:.1%}), {leaked['count']} of {len(result['subjects'])} subjects leaked; positive control "
        f"{result['positive_control']['recall']:.0%}; {sum(result['seconds'].values()) / 60:.0f} min"
    )
