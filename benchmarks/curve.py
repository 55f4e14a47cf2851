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
constraints.txt`. Each network is trained as `configs/train.yaml` says, about an hour on one core; weights that are
there are kept. Quality is that of the benchmark's misaligned pairs of test subjects, `as shipped` being the reference.
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
SHIPPED = "as shipped"
CONDITION = "misaligned"
BATCH, REPEATS = 64, 5


@dataclass(frozen=True)
class Point:
    """A network on the curve: keys of it that differ, mm a pixel, and whether it has weights of its own."""

    keys: Mapping[str, object] = field(default_factory=dict)
    pixel_mm: float = 2.0
    trained: bool = True

    def definition(self) -> DeepSSIM:
        """Return the network, with random weights."""
        return component(INFERENCE, "network_def", **{f"network_def::{key}": v for key, v in self.keys.items()})

    def training(self) -> dict[str, object]:
        """Return the overrides of train.yaml."""
        if "spatial_size" not in self.keys:
            return network(**self.keys)
        chain = f"spatial_size={self.keys['spatial_size']}, pixel_mm={self.pixel_mm}, slice_spacing=@slice_spacing"
        chain = f"$scripts.component(@bundle_root + '/configs/inference.yaml', 'preprocessing', {chain})"
        return {**network(**self.keys), "preprocessing": chain}

    def method(self, weights: Path) -> Embedding:
        """Return what the benchmark asks, of images on its own field."""
        model: torch.nn.Module = load_weights(self.definition(), weights).to(memory_format=torch.channels_last)
        if "spatial_size" in self.keys:
            model = OnField(model, component(INFERENCE, "pixel_mm") / self.pixel_mm, self.keys["spatial_size"])
        return Embedding(model, AutocastInferer(), "foreground")


POINTS = {
    SHIPPED: Point(trained=False),
    "one orientation, the same weights": Point({"orientations": 1}, trained=False),
    "filters 16, channels 16, 32, 64": Point({"filters": 16, "channels": [16, 32, 64]}),
    "filters 8, channels 8, 16, 32": Point({"filters": 8, "channels": [8, 16, 32]}),
    "80 x 96 pixels of 2.4 mm": Point({"spatial_size": [80, 96]}, pixel_mm=2.4),
}


def milliseconds(model: torch.nn.Module, shape: Sequence[int]) -> float:
    """Return the time of an image (C, H, W) in a batch, in float32."""
    images = torch.rand(BATCH, *shape).to(memory_format=torch.channels_last)
    model = model.eval().to(memory_format=torch.channels_last)
    with torch.no_grad():
        return 1000 * seconds(lambda: model(images), REPEATS) / BATCH


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
        weights[name] = folder / "model.pt" if point.trained else ROOT / "models" / "model.pt"
        if point.trained and not (folder / "held_out.json").is_file():  # written at a training's end
            train(options, folder, point.training())

    if (published := convnext_tiny()) is None:
        parser.error("needs transformers: pip install transformers -c constraints.txt")
    theirs = milliseconds(published, (3, *component(INFERENCE, "spatial_size")))
    print(
        f"| network | ms an image | ConvNeXt-Tiny takes, times |\n|---|---|---|\n| ConvNeXt-Tiny | {theirs:.1f} | 1 |"
    )
    for name, point in chosen.items():
        size = point.keys.get("spatial_size", component(INFERENCE, "spatial_size"))
        ours = milliseconds(point.definition(), (1, *size))
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
