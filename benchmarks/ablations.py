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

"""Train the embedder with one ingredient changed at a time, a quarter as long, and tabulate its held-out figures.

python benchmarks/ablations.py --dataset_dir IXI/participants.tsv --split_file configs/splits/ixi.json

The figures are those that training prints at its end, on the validation subjects. A stopped run goes on with the next
variant; one variant takes about six minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from bundle_root import ROOT


def network(**keys: object) -> dict[str, object]:
    """Return the override of train.yaml that changes keys of the network."""
    changes = {f"network_def::{key}": value for key, value in keys.items()}
    return {"network_def": f"$scripts.component(@bundle_root + '/configs/inference.yaml', 'network_def', **{changes})"}


# name -> keys of configs/train.yaml that differ
VARIANTS: dict[str, dict[str, object]] = {
    "as shipped, a quarter as long": {},
    "no copy loss": {"copy_weight": 0.0},
    "copy loss weighs 0.003": {"copy_weight": 0.003},
    "copy loss weighs 0.03": {"copy_weight": 0.03},
    "N / 2 disjoint pairs": {"embedding_loss::disjoint": True},
    "all bins of SSIM as they come": {"embedding_loss::balance": 0.0},
    "no pose loss": {"pose_weight": 0.0},
    "no agreement within a group": {"pose_loss::agreement": 0.0},
    "no level batches": {"train::sampler::share": 0.0},
    "no elastic copies": {"copy::elastic": [0.0, 0.0]},
    "three elastic copies a group": {"train::dataset::copies": 3, "groups": 21},
    "projection learns as fast as the rest": {"projection_lr": 1.0e-3},
    "random projection": {"projection_images": 1},
    "one orientation": network(orientations=1),
    "four orientations": network(orientations=4),
    "half the channels": network(channels=[12, 24, 32], filters=12),
    "128 dimensions": network(embedding_dim=128),
    "float32": {"amp": False},
    "batches of half the size": {"groups": 16, "iterations": 200},
}


def train(options: argparse.Namespace, folder: Path, keys: dict[str, object]) -> None:
    """Run configs/train.yaml into `folder` with the keys changed."""
    arguments = {
        "dataset_dir": options.dataset_dir,
        "split_file": options.split_file,
        "output_dir": str(folder),
        "epochs": options.epochs,
        "val_interval": options.epochs,
        **keys,
    }
    flags = [part for key, value in arguments.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(ROOT / "configs" / "train.yaml")]
    subprocess.run([*command, *flags], check=True)


def row(name: str, summary: Path) -> str:
    """Return the table's line of one variant, from what training wrote at its end."""
    found = json.loads(summary.read_text())
    return f"| {name} | {' | '.join(f'{value:.3f}' for value in (found['ssim_error'], *found['recall'].values()))} |"


def main() -> None:
    """Train the variants that are missing, print each, and write the table of all that there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--split_file", required=True)
    parser.add_argument("--output_dir", default=str(ROOT / "eval" / "ablations"))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--only", nargs="*", choices=VARIANTS, metavar="NAME", help="variants; all without it")
    options = parser.parse_args()
    lines = ["| changed | error to SSIM | source nearest | source within 6 |", "|---|---|---|---|"]
    for number, (name, keys) in enumerate(VARIANTS.items()):
        folder = Path(options.output_dir) / f"{number:02d}"
        summary = folder / "held_out.json"
        if not summary.is_file() and (not options.only or name in options.only):
            train(options, folder, keys)
        if summary.is_file():
            lines.append(row(name, summary))
            print(lines[-1], flush=True)
    (Path(options.output_dir) / "ablations.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
