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

"""Do weights suit images? The share of the control's copies whose subject the embedding alone has as the nearest.

python benchmarks/weights_suit.py --dataset_dir IXI/participants.tsv --split_file configs/splits/ixi.json [--people 25]
python benchmarks/weights_suit.py --dataset_dir CHEST --split_file configs/splits/chest.json \
    --subject_pattern '(?P<subject>[0-9]{8})_'

Each of the bundle's weights of images, and random ones, on the same 100 copies of the split's test subjects.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from bundle_root import ROOT
from numpy.typing import NDArray
from scripts import AutocastInferer, component, find_images, load_weights, split_subjects
from scripts.auditing.neighbors import nearest_subjects
from scripts.decision.rates import exact_interval
from scripts.images.items import Item
from scripts.images.loading import SliceSet
from scripts.studies.rival_networks import Embedding

DETECT, INFERENCE = (ROOT / "configs" / name for name in ("detect.yaml", "inference.yaml"))
WEIGHTS = ("model.pt", "model_chest_xray.pt", None)
COPIES, CANDIDATES = 100, 6


def networks(weights: Sequence[str | None]) -> dict[str, torch.nn.Module]:
    """Return the bundle's network with each of the weights, by their name."""
    found = {}
    for name in weights:
        torch.manual_seed(0)
        network = component(INFERENCE, "network_def").eval()
        found[name or "random"] = load_weights(network, ROOT / "models" / name) if name else network
    return found


def shares(network: torch.nn.Module, data: SliceSet, rows: NDArray, copies: NDArray) -> tuple[int, int]:
    """Return how many copies of these rows have their subject as the nearest, and among the first candidates."""
    method = Embedding(network, AutocastInferer(enabled=False))
    near = nearest_subjects(method.vectors(copies), method.vectors(data.images), data.subject, CANDIDATES).subject
    right = near == data.subject[rows, None]
    return int(right[:, 0].sum()), int(right.any(1).sum())


def drawn(items: Sequence[Item]) -> tuple[SliceSet, NDArray, NDArray]:
    """Return the images of items, and which of them are copied, with the copies that the positive control makes."""
    data = SliceSet.load(items, component(INFERENCE, "preprocessing"))
    rng = np.random.RandomState(0)
    rows = rng.choice(len(data.images), min(COPIES, len(data.images)), replace=False)
    control = component(DETECT, "image_control")
    control.set_random_state(state=rng)
    made = [control({"image": torch.from_numpy(data.images[row][None].astype(np.float32))}) for row in rows]
    return data, rows, np.stack([copy["image"].numpy()[0] for copy in made])


def main() -> None:
    """Print a row for each of the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--split_file", required=True, type=Path)
    parser.add_argument("--subject_pattern")
    parser.add_argument("--people", type=int, help="the first so many of the test subjects; all without it")
    options = parser.parse_args()
    items = find_images(options.dataset_dir, options.subject_pattern)
    items = split_subjects(items, options.split_file, 0.1, 0)["test"]
    people = sorted({item["subject_id"] for item in items})[: options.people]
    items = [item for item in items if item["subject_id"] in people]
    for item in items:
        item.pop("mask", None)  # whole heads
    data, rows, copies = drawn(items)
    print(f"{len(rows)} copies among {len(data.images)} images of {len(people)} people")
    print(f"| weights | nearest (95 %) | among the first {CANDIDATES} |\n|---|---|---|")
    for name, network in networks(WEIGHTS).items():
        first, among = shares(network, data, rows, copies)
        low, high = exact_interval(first, len(rows))
        print(f"| {name} | {first / len(rows):.2f} ({low:.2f} to {high:.2f}) | {among / len(rows):.2f} |", flush=True)


if __name__ == "__main__":
    main()
