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

"""How fast may the embedder be, and how well does it then tell copies? Smaller networks and fields, trained alike.

python benchmarks/curve.py --dataset_dir IXI/participants.tsv [--only NAME ...]

Needs transformers, for a ConvNeXt-Tiny of the published size to be measured beside: `pip install transformers -c
constraints.txt`. Each network is trained as `configs/train.yaml` says, about an hour on one core, one of them twice;
weights that are there are kept. Quality is that of the benchmark's misaligned pairs of test subjects, `as shipped`
being the reference.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from ablations import network, train
from bundle_root import ROOT
from scripts import AutocastInferer, component, find_images, load_weights, split_subjects, with_and_without_mask
from scripts.embedder.networks import DeepSSIM
from scripts.studies.benchmark import run_benchmark
from scripts.studies.rival_networks import Embedding, OnField
from speed import convnext_tiny, seconds

INFERENCE, BENCHMARK, SPLIT = (
    ROOT / "configs" / name for name in ("inference.yaml", "benchmark.yaml", "splits/ixi.json")
)
FIELD = (96, 112)  # of inference.yaml
SHIPPED = "as shipped"
CONDITION = "misaligned"
BATCH, REPEATS = 64, 5
AGAIN = {
    "lr": 5e-4,
    "iterations": 320,
    "epochs": 12,
    "val_interval": 3,
    "seed": 20261128,
}  # of a second training, which begins where the first ended


@dataclass(frozen=True)
class Point:
    """A network on the curve: its field and mm a pixel, what else differs, and how often it is trained; 0: not, as it
    has the shipped weights."""

    spatial_size: Sequence[int] = FIELD
    pixel_mm: float = 2.0
    changes: Mapping[str, object] = field(default_factory=dict)
    trainings: int = 1

    @property
    def keys(self) -> dict[str, object]:
        """The keys of the network that differ."""
        size = {} if self.spatial_size == FIELD else {"spatial_size": list(self.spatial_size)}
        return {**self.changes, **size}

    def definition(self) -> DeepSSIM:
        """Return the network, with random weights."""
        return component(INFERENCE, "network_def", **{f"network_def::{key}": v for key, v in self.keys.items()})

    def training(self) -> dict[str, object]:
        """Return the overrides of train.yaml."""
        if self.spatial_size == FIELD:
            return network(**self.keys)
        chain = f"spatial_size={list(self.spatial_size)}, pixel_mm={self.pixel_mm}, slice_spacing=@slice_spacing"
        chain = f"$scripts.component(@bundle_root + '/configs/inference.yaml', 'preprocessing', {chain})"
        return {**network(**self.keys), "preprocessing": chain}

    def method(self, weights: Path) -> Embedding:
        """Return what the benchmark asks, of images on its own field."""
        model = fast(load_weights(self.definition(), weights))
        if self.spatial_size != FIELD:
            model = OnField(model, component(INFERENCE, "pixel_mm") / self.pixel_mm, self.spatial_size)
        return Embedding(model, AutocastInferer(), "foreground")


POINTS = {
    SHIPPED: Point(trainings=0),
    "one orientation, the same weights": Point(changes={"orientations": 1}, trainings=0),
    "filters 16, channels 16, 32, 64": Point(changes={"filters": 16, "channels": [16, 32, 64]}),
    "filters 16, trained twice": Point(changes={"filters": 16, "channels": [16, 32, 64]}, trainings=2),
    "filters 8, channels 8, 16, 32": Point(changes={"filters": 8, "channels": [8, 16, 32]}),
    "80 x 96 pixels of 2.4 mm": Point((80, 96), 2.4),
}


def fast(model: torch.nn.Module) -> torch.nn.Module:
    """Return a network as audits run it."""
    return model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def milliseconds(model: torch.nn.Module, shape: Sequence[int]) -> float:
    """Return the time of an image (C, H, W) in a batch, in float32."""
    images, model = torch.rand(BATCH, *shape).to(memory_format=torch.channels_last), fast(model)
    with torch.no_grad():
        return 1000 * seconds(lambda: model(images), REPEATS) / BATCH


def train_point(options: argparse.Namespace, folder: Path, point: Point) -> Path:
    """Return the weights of a point, after it is trained as often as it says, unless that is done."""
    keys = point.training()
    for number in range(1, point.trainings + 1):
        place = folder if number == point.trainings else folder / f"{number}"
        if not (place / "held_out.json").is_file():  # written at a training's end
            train(options, place, keys)
        keys = {**point.training(), **AGAIN, "start_file": str(place / "model.pt")}
    return folder / "model.pt"


def main() -> None:
    """Train what has no weights yet, print the times, and run the benchmark's misaligned pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--split_file", default=str(SPLIT))
    parser.add_argument("--output_dir", type=Path, default=ROOT / "eval" / "curve")
    parser.add_argument("--epochs", type=int, default=32)
    parser.add_argument("--only", nargs="*", choices=POINTS, metavar="NAME", help="points; all without it")
    options = parser.parse_args()
    chosen = {name: POINTS[name] for name in POINTS if name == SHIPPED or not options.only or name in options.only}
    weights = {}
    for name, point in chosen.items():
        folder = options.output_dir / f"{list(POINTS).index(name):02d}"
        weights[name] = train_point(options, folder, point) if point.trainings else ROOT / "models" / "model.pt"

    if (published := convnext_tiny()) is None:
        parser.error("needs transformers: pip install transformers -c constraints.txt")
    theirs = milliseconds(published, (3, *FIELD))
    print(
        f"| network | ms an image | ConvNeXt-Tiny takes, times |\n|---|---|---|\n| ConvNeXt-Tiny | {theirs:.1f} | 1 |"
    )
    for name, point in chosen.items():
        ours = milliseconds(point.definition(), (1, *point.spatial_size))
        print(f"| {name} | {ours:.2f} | {theirs / ours:.1f} |", flush=True)

    whole = component(BENCHMARK, "benchmark")
    benchmark = replace(
        whole,
        methods={name: point.method(weights[name]) for name, point in chosen.items()},
        conditions={CONDITION: whole.conditions[CONDITION]},
        audits=None,
        reference=SHIPPED,
    )
    items = with_and_without_mask(find_images(options.dataset_dir))
    split = split_subjects(items, options.split_file, 0.1, 0)
    run_benchmark(benchmark, split, component(BENCHMARK, "preprocessing"), options.output_dir)


if __name__ == "__main__":
    main()
