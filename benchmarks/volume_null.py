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

"""Does the null hold for whole volumes? Random splits of real people, of whom nobody was copied.

python benchmarks/volume_null.py --dataset_dir IXI/participants.tsv [--splits 100] [--output_dir eval/volume_null]

In each split some people are the training subjects and others the generated volumes. Every call is a false one: at a
false-discovery rate of 0.05 at most 5 % of the splits should have any. Splits that are done are not done again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from bundle_root import ROOT
from numpy.typing import NDArray
from remembering import RememberingVolumeVerifier
from scripts import component, find_images
from scripts.auditing.audit import Audit
from scripts.decision.rates import exact_interval
from scripts.embedder.embedder import Embedder
from scripts.embedder.embedding_set import EmbeddingSet


def part(data: EmbeddingSet, rows: NDArray) -> EmbeddingSet:
    """Return some rows of a set of whole volumes as a set."""
    items = [data.items[row] for row in rows]
    return EmbeddingSet(
        items, np.arange(len(rows)), data.slice[rows], data.level[rows], data.vectors[rows], data.images[rows], []
    )


def main() -> None:
    """Run the splits and print how many have a call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True, help="a datalist of volumes, one a person")
    parser.add_argument("--output_dir", default="eval/volume_null", type=Path)
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--train", type=int, default=35, help="training subjects of a split")
    parser.add_argument("--generated", type=int, default=40, help="other people")
    given = parser.parse_args()
    given.output_dir.mkdir(parents=True, exist_ok=True)
    keys: dict[str, object] = {"output_dir": str(given.output_dir), "volumes": "whole", "null_transform": "none"}
    keys |= {"control_images": 1, "volume_bends": []}
    audit: Audit = component(ROOT / "configs/detect.yaml", "audit", **keys)
    audit.verifier = RememberingVolumeVerifier()
    embedder: Embedder = component(ROOT / "configs/detect.yaml", "embedder", **keys)
    items = find_images(given.dataset_dir)
    for item in items:
        item.pop("mask", None)
    everybody = embedder.embed_files(items, "volumes")
    log = given.output_dir / "splits.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for split in range(len(rows), given.splits):
        order = np.random.RandomState(split).permutation(len(everybody))
        train, generated = np.sort(order[: given.train]), np.sort(order[given.train :][: given.generated])
        result = audit(part(everybody, train), part(everybody, generated))
        low = float(np.sort(result.p_value)[0])
        rows.append({"split": split, "called": int(result.memorized.sum()), "least_p": low})
        with log.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(rows[-1], flush=True)
    some = sum(row["called"] > 0 for row in rows[: given.splits])
    interval = exact_interval(some, given.splits)
    print(f"{some} of {given.splits} splits have a call (95 % interval {interval[0]:.2f} to {interval[1]:.2f})")


if __name__ == "__main__":
    main()
