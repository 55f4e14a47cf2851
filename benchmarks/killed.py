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

"""Killed at random moments: is what remains whole, does the same command go on, and is the result the same?

python benchmarks/killed.py [--kills 20] [--stages embedder sampling ...] [--output_dir eval/killed] [--seed 0]

Each stage runs the bundle's configs on the demo, at a small size, in a process of its own. One run is not disturbed.
The others get SIGKILL at a moment drawn between start and end, and are started again, as README says to go on:
trainings with `--resume` of the last checkpoint, all else with the same command. Each trial is a line of results.jsonl;
a run of this script goes on where it stopped. Unix only: processes are forked, so that each need not import torch.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bundle_root import ROOT
from monai.bundle import run
from PIL import Image
from scripts.auditing.result import AuditResult
from scripts.bundle.components import component
from scripts.bundle.files import read_table
from scripts.detect import AuditData, run_audit
from scripts.report.report import OUTPUTS, Report
from scripts.report.summary import Timing

CONFIGS = ROOT / "configs"
DEMO = ROOT / "demo"
TEMPORARY = "."  # names that begin so are of unfinished files


class Stage:
    """Something that writes files into a folder, and may be stopped."""

    name: str

    @abstractmethod
    def run(self, folder: Path, again: bool) -> None:
        """Do it; `again`: after it was killed."""

    @abstractmethod
    def difference(self, folder: Path, undisturbed: Path) -> float:
        """Return the greatest difference of the two results, 0 for equal ones."""


@dataclass
class Training(Stage):
    """A training by configs; its result are the weights after the last epoch."""

    name: str
    configs: tuple[str, ...]
    keys: Mapping[str, object]

    def run(self, folder: Path, again: bool) -> None:
        kept = sorted(folder.glob("checkpoint_epoch=*.pt"), key=lambda path: path.stat().st_mtime)
        resume = {"resume": str(kept[-1])} if again and kept else {}
        _run(self.configs, {"output_dir": str(folder), **self.keys, **resume})

    def difference(self, folder: Path, undisturbed: Path) -> float:
        name = f"checkpoint_epoch={self.keys['epochs']}.pt"
        here, there = (torch.load(path / name, weights_only=True)["model"] for path in (folder, undisturbed))
        return max(float((here[key].float() - there[key].float()).abs().max()) for key in there)


@dataclass
class Sampling(Stage):
    """Draws images; the difference is in grey levels."""

    model_dir: Path
    name: str = "sampling"

    def run(self, folder: Path, again: bool) -> None:
        keys = {"model_dir": self.model_dir, "size": "cpu", "steps": 8, "samples_per_record": 1, "batch_size": 4}
        files = {"autoencoder_file": ROOT / "models" / "autoencoder.pt", "output_dir": folder}
        _run(("ldm/generate.yaml",), {key: str(v) if isinstance(v, Path) else v for key, v in (keys | files).items()})

    def difference(self, folder: Path, undisturbed: Path) -> float:
        assert read_table(folder / "generated.csv") == read_table(undisturbed / "generated.csv")
        names = sorted(path.name for path in (undisturbed / "images").iterdir())
        assert names == sorted(path.name for path in (folder / "images").iterdir() if path.name[0] != TEMPORARY)
        pairs = [[np.asarray(Image.open(f / "images" / name), float) for f in (folder, undisturbed)] for name in names]
        return max(float(np.abs(here - there).max()) for here, there in pairs)


@dataclass
class Writing(Stage):
    """Writes the report of an audit; the date and the time taken are not compared."""

    result: AuditResult
    name: str = "report"

    def run(self, folder: Path, again: bool) -> None:
        Report(folder, ROOT / "models" / "model.pt").write(self.result, Timing(1.0, 0))

    def difference(self, folder: Path, undisturbed: Path) -> float:
        return float(any(_text(folder / name) != _text(undisturbed / name) for name in OUTPUTS[:-1]))


def _text(path: Path) -> str:
    if path.suffix != ".json":
        return path.read_text(encoding="utf-8")
    report = json.loads(path.read_text(encoding="utf-8"))
    del report["run"]["date"], report["timing"]
    return json.dumps(report)


def _run(configs: tuple[str, ...], keys: Mapping[str, Any]) -> None:
    sys.argv = ["killed"]
    run(config_file=[str(CONFIGS / name) for name in configs], **keys)


def broken(folder: Path) -> list[str]:
    """Return the files below a folder that have their names and are not whole."""
    readers: dict[str, Callable[[Path], object]] = {
        ".pt": lambda path: torch.load(path, weights_only=True),
        ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
        ".csv": read_table,
        ".npy": np.load,
        ".png": lambda path: Image.open(path).load(),
        ".html": lambda path: path.read_text(encoding="utf-8").rindex("</html>"),
    }
    found = []
    for path in sorted(folder.rglob("*")):
        if path.name[0] == TEMPORARY or path.suffix not in readers:
            continue
        try:
            readers[path.suffix](path)
        except Exception as error:
            found.append(f"{path}: {error}")
    written = [name for name in OUTPUTS if (folder / name).exists()]
    if OUTPUTS[-1] in written and len(written) < len(OUTPUTS):
        found.append(f"{folder}: a page without {set(OUTPUTS) - set(written)}")
    return found


@dataclass(frozen=True)
class Trial:
    """A killed run: when, as a share of an undisturbed one's time; what it left broken; how it went on."""

    stage: str
    number: int
    moment: float
    broken: list[str]
    ended_well: bool
    difference: float


def in_a_process(stage: Stage, folder: Path, again: bool, kill_after: float | None = None) -> tuple[int, float]:
    """Run a stage; return the exit status and the seconds."""
    process = multiprocessing.get_context("fork").Process(target=_quietly, args=(stage, folder, again))
    start = time.perf_counter()
    process.start()
    process.join(kill_after)
    if kill_after is not None:
        process.kill()
    process.join()
    return int(process.exitcode or 0), time.perf_counter() - start


def _quietly(stage: Stage, folder: Path, again: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder.with_suffix(".log"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    stage.run(folder, again)


def trials(stage: Stage, kills: int, folder: Path, seed: int) -> list[Trial]:
    """Return the trials of a stage, those that results.jsonl holds and new ones."""
    results = folder / "results.jsonl"
    done = [Trial(**json.loads(line)) for line in results.read_text().splitlines()] if results.exists() else []
    done = [trial for trial in done if trial.stage == stage.name]
    if len(done) >= kills:
        return done[:kills]
    undisturbed = folder / f"{stage.name}_undisturbed"
    for path in (undisturbed, folder / f"{stage.name}_first"):  # the first one compiles what the others find
        shutil.rmtree(path, ignore_errors=True)
    in_a_process(stage, folder / f"{stage.name}_first", again=False)
    status, seconds = in_a_process(stage, undisturbed, again=False)
    if status:
        sys.exit(f"error: {undisturbed}.log: expected stage {stage.name} to run, found status {status}; see the log")
    for number in range(len(done), kills):
        here, rng, killed = folder / f"{stage.name}_{number}", np.random.RandomState([seed, number]), False
        while not killed:  # a run may end before its moment
            shutil.rmtree(here, ignore_errors=True)
            moment = float(rng.uniform())
            killed = in_a_process(stage, here, again=False, kill_after=moment * seconds)[0] == -signal.SIGKILL
        left = broken(here)
        well = in_a_process(stage, here, again=True)[0] == 0
        difference = stage.difference(here, undisturbed) if well else float("nan")
        trial = Trial(stage.name, number, round(moment, 3), left, well, difference)
        with results.open("a") as file:
            file.write(json.dumps(asdict(trial)) + "\n")
        done.append(trial)
        shutil.rmtree(here)
    return done


def table(done: list[Trial]) -> str:
    """Return a line of Markdown a stage."""
    lines = ["| stage | killed | left something broken | went on to the end | as undisturbed | greatest difference |"]
    lines.append("|---|---|---|---|---|---|")
    for name in dict.fromkeys(trial.stage for trial in done):
        own = [trial for trial in done if trial.stage == name]
        worst = max((trial.difference for trial in own), default=0.0)
        counts = (sum(bool(t.broken) for t in own), sum(t.ended_well for t in own), sum(t.difference == 0 for t in own))
        lines.append(f"| {name} | {len(own)} | {counts[0]} | {counts[1]} | {counts[2]} | {worst:.1e} |")
    return "\n".join(lines)


def _audited(folder: Path) -> AuditResult:
    embedder, audit = (
        component(CONFIGS / "detect.yaml", key, output_dir=str(folder), control_images=4)
        for key in ("embedder", "audit")
    )
    return run_audit(AuditData(DEMO / "train", DEMO / "generated"), embedder, audit)


def all_stages(folder: Path) -> dict[str, Callable[[], Stage]]:
    """Return the stages, made when they are asked for."""
    small = {"dataset_dir": str(DEMO / "train"), "epochs": 3, "iterations": 2}
    diffusion = {"autoencoder_file": str(ROOT / "models" / "autoencoder.pt"), "batch_size": 4}

    def embedder(name: str = "embedder", workers: int = 0) -> Stage:
        return Training(name, ("train.yaml",), {**small, "groups": 4, "num_workers": workers, "val_interval": 1})

    def autoencoder() -> Stage:
        return Training(
            "autoencoder", ("ldm/train_autoencoder.yaml", "ldm/autoencoder_cpu.yaml"), {**small, "batch_size": 2}
        )

    def diffusing() -> Training:
        return Training("diffusion", ("ldm/train_diffusion.yaml", "ldm/diffusion_cpu.yaml"), {**small, **diffusion})

    def sampling() -> Stage:
        if not (folder / "model" / "diffusion.pt").exists():
            in_a_process(diffusing(), folder / "model", again=False)
        return Sampling(folder / "model")

    def report() -> Stage:
        # in a process of its own: OpenMP, once started, does not survive a fork
        with multiprocessing.get_context("fork").Pool(1) as pool:
            audited = pool.apply(_audited, (folder / "audit",))
        return Writing(audited)

    return {
        "embedder": embedder,
        "workers": lambda: embedder("workers", 2),
        "autoencoder": autoencoder,
        "diffusion": diffusing,
        "sampling": sampling,
        "report": report,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of each stage")
    parser.add_argument(
        "--stages", nargs="+", default=None, help="all: embedder workers autoencoder diffusion sampling report"
    )
    parser.add_argument("--output_dir", type=Path, default=ROOT / "eval" / "killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    stages = all_stages(arguments.output_dir)
    done: list[Trial] = []
    for name in arguments.stages or stages:
        done += trials(stages[name](), arguments.kills, arguments.output_dir, arguments.seed)
        print(table(done), flush=True)


if __name__ == "__main__":
    main()
