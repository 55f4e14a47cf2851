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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..bundle.files import replacing
from .leaks import leaks_by_copies, leaks_by_sight
from .membership_report import plot_membership
from .stages import Job, Stage
from .study_report import plot_study, progress, table
from .study_results import Cell, CellResult, StudyResult

__all__ = ["CaseStudy"]


class CaseStudy:
    """Trains, samples and audits every cell with every seed.

    Below `output_dir`, cells/NAME_SEED/ holds train.csv, holdout.csv, model/, membership/, generated/, audit/,
    result.json, log.txt.

    Args:
        output_dir: of the study.
        cells: conditions, fields of :class:`~scripts.studies.study_results.Cell`.
        seeds: each draws the training subjects, the copies, the initial weights and the noise.
        samples: images of each model; the same in every cell, as leaked subjects grow with them.
        stages: what makes a model, in this order.
        measure: gives a model's result once it is made.
        workers: cells at a time, each with its share of the cores: small networks gain little from a second one.
    """

    def __init__(
        self,
        output_dir: str | Path,
        cells: Sequence[Mapping[str, Any]],
        seeds: Sequence[int],
        samples: int,
        stages: Sequence[Stage],
        measure: Callable[[Job], CellResult],
        workers: int = 1,
    ) -> None:
        self.output_dir, self.samples, self.workers = Path(output_dir).absolute(), samples, workers
        self.stages, self.measure = stages, measure
        cores = max(1, (os.cpu_count() or 1) // workers)
        self.jobs = [
            Job(cell, seed, samples, self.output_dir / "cells" / f"{cell.name}_{seed}", cores)
            for seed in seeds
            for cell in (Cell(**fields) for fields in cells)
        ]
        if not self.jobs:
            raise ValueError("cells and seeds: expected one or more of each, found none; give a cell and a seed")

    def run(self) -> StudyResult:
        """Run what is missing and return the study; case_study.json, .md and .png are written after each cell,
        and membership.png where a model was attacked.

        Raises:
            ValueError: if a cell cannot be, or a folder holds the result of another one.
        """
        for job in self.jobs:
            for stage in self.stages:
                stage.check(job)
        results: list[CellResult] = []
        with ThreadPoolExecutor(self.workers) as pool:  # threads that wait for processes
            try:
                for job, found in zip(self.jobs, pool.map(self._make, self.jobs)):
                    results.append(found or self._measure(job))
                    self._write(study := self._study(results))
                    print(progress(results[-1]), flush=True)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return study

    def _make(self, job: Job) -> CellResult | None:
        """Return the job's result if it is finished; otherwise do its stages."""
        path = job.folder / "result.json"
        if path.exists():
            result = CellResult.read(path)
            if result.cell != job.cell:
                raise ValueError(
                    f"{job.folder}: expected the cell {asdict(job.cell)}, found {asdict(result.cell)}; "
                    "remove the folder"
                )
            return result
        for stage in self.stages:
            stage(job)
        return None

    def _measure(self, job: Job) -> CellResult:
        # in the main thread: the kernels take all cores already
        result = self.measure(job)
        result.write(job.folder / "result.json")
        return result

    def _study(self, results: Sequence[CellResult]) -> StudyResult:
        return StudyResult(self.samples, list(results), leaks_by_copies(results), leaks_by_sight(results))

    def _write(self, study: StudyResult) -> None:
        with replacing(self.output_dir / "case_study.json") as path:
            path.write_text(json.dumps(study.json(), indent=1), encoding="utf-8")
        with replacing(self.output_dir / "case_study.md") as path:
            path.write_text(table(study), encoding="utf-8")
        plot_study(study, self.output_dir / "case_study.png")
        plot_membership(study.cells, self.output_dir / "membership.png")
