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

"""The same audit in other batches, processes, threads, orders and folders: are the calls and the numbers the same?

python benchmarks/same_audit.py [--train_dir demo/train --generated_dir demo/generated] [--output_dir eval/same_audit]

Each variant is a process of its own with an empty cache. The table compares its matches.csv with the first one's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from bundle_root import ROOT
from scripts.bundle.files import read_table, write_table
from scripts.images.datalists import find_images

NUMBERS = ("similarity", "aligned_ssim", "statistic", "p_value", "q_value")
DECISIONS = ("train_id", "train_subject", "label", "memorized", "verdict")


@dataclass(frozen=True)
class Variant:
    """An audit that must give the same result: its keys and environment, the order of its files, and their folder."""

    name: str
    keys: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    shuffled: bool = False
    moved: bool = False


LIBRARIES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ONE_THREAD = dict.fromkeys(LIBRARIES, "1")
VARIANTS = (
    Variant("as it is"),
    Variant("again"),
    Variant("batches of 7", {"batch_size": 7}),
    Variant("batches of 256", {"batch_size": 256}),
    Variant("2 processes read files", {"num_workers": 2}),
    Variant("one thread", environment=ONE_THREAD),
    Variant("files listed in another order", shuffled=True),
    Variant("files in another folder", moved=True),
)


def audit(variant: Variant, folders: Mapping[str, Path], output_dir: Path) -> list[dict[str, str]]:
    """Return the rows of matches.csv, in the order of the generated images."""
    shutil.rmtree(output_dir, ignore_errors=True)
    output_dir.mkdir(parents=True)
    keys = {name: str(_prepared(name, folder, variant, output_dir)) for name, folder in folders.items()}
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(ROOT / "configs" / "detect.yaml")]
    for key, value in {**keys, **variant.keys, "output_dir": output_dir / "audit", "thumbnails": False}.items():
        command += [f"--{key}", str(value)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **variant.environment}, capture_output=True, text=True)
    if not (output_dir / "audit" / "report.html").exists():
        sys.exit(f"error: {variant.name}: expected an audit, found {done.stderr.strip().splitlines()[-1:]}")
    return sorted(read_table(output_dir / "audit" / "matches.csv"), key=lambda row: row["generated_id"])


def _prepared(name: str, folder: Path, variant: Variant, output_dir: Path) -> Path:
    """Return the folder or list that a variant audits; its images have the ids of the folder's."""
    if variant.moved:
        return Path(shutil.copytree(folder, output_dir / "moved" / name))
    if variant.shuffled:
        items = find_images(folder)
        chosen = [items[i] for i in np.random.RandomState(0).permutation(len(items))]
        # beside the images' copies, so that the ids are those of the folder
        copied = Path(shutil.copytree(folder, output_dir / "listed" / name))
        rows = [{"image": item["id"], "subject_id": item["subject_id"]} for item in chosen]
        write_table(copied / "list.csv", rows)
        return copied / "list.csv"
    return folder


def compared(first: list[dict[str, str]], other: list[dict[str, str]]) -> dict[str, float]:
    """Return how many images have another decision, and by how much each number differs at most."""
    if [row["generated_id"] for row in first] != [row["generated_id"] for row in other]:
        raise ValueError("expected the same generated images, found others")
    found: dict[str, float] = {
        "decisions": sum(any(a[key] != b[key] for key in DECISIONS) for a, b in zip(first, other))
    }
    for key in NUMBERS:
        a, b = (np.array([float(row[key] or "nan") for row in rows]) for rows in (first, other))
        found[key] = float(np.nanmax(np.abs(a - b), initial=0.0))
        found[key] = float("inf") if (np.isnan(a) != np.isnan(b)).any() else found[key]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train_dir", type=Path, default=ROOT / "demo" / "train")
    parser.add_argument("--generated_dir", type=Path, default=ROOT / "demo" / "generated")
    parser.add_argument("--output_dir", type=Path, default=ROOT / "eval" / "same_audit")
    arguments = parser.parse_args()
    folders = {name: getattr(arguments, name).resolve() for name in ("train_dir", "generated_dir")}
    print("| the same audit | other decisions | " + " | ".join(NUMBERS) + " |")
    print("|---|---|" + "---|" * len(NUMBERS))
    first = None
    for number, variant in enumerate(VARIANTS):
        rows = audit(variant, folders, (arguments.output_dir / str(number)).resolve())
        first = rows if first is None else first
        differences = compared(first, rows)
        numbers = " | ".join(f"{differences[key]:.1g}" for key in NUMBERS)
        print(f"| {variant.name} | {differences['decisions']:.0f} of {len(rows)} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
