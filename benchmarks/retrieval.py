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

"""Is a copy's source among the first subjects that the embedding finds? Copies of unseen people, bent more and more.

python benchmarks/retrieval.py --dataset_dir IXI/participants.tsv [--checkpoint FILE] [--volume_checkpoint FILE]

Nothing is aligned and nothing decided: this is what limits the recall of an audit from above. Slices are searched among
all slices of the split's test subjects, volumes among their whole heads.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from bundle_root import ROOT
from monai.transforms import Compose
from numpy.typing import NDArray
from scripts import AutocastInferer, component, find_images, split_subjects
from scripts.auditing.neighbors import nearest_subjects
from scripts.images.augmentations import RandCopyd, RandMisalignd
from scripts.images.loading import SliceSet
from scripts.studies.rival_networks import embedding

INFERENCE, VOLUMES = (ROOT / "configs" / name for name in ("inference.yaml", "inference_3d.yaml"))
FIRST = (1, 6, 12, 20)


def copies(bend: float, voxels: bool) -> Compose:
    """Return what makes a copy bent by so many pixels, or voxels, rms at the control points, and moves it."""
    soft, noise = ((0.0, 0.6), (0.0, 0.03)) if voxels else ((0.0, 0.0), (0.0, 0.0))
    move = RandMisalignd(
        "image",
        flip_prob=[0.5, 0.0, 0.0] if voxels else 0.5,
        affine_prob=1.0,
        rotation=12.0 if voxels else 10.0,
        shift=3.0 if voxels else 4.0,
        zoom=(0.95, 1.05),
        gamma_prob=1.0,
        gamma=(0.7, 1.4),
    )
    return Compose([RandCopyd("image", elastic=(bend, bend), blur=soft, noise=noise, grid=6), move])


def found_within(configs: Sequence[Path], checkpoint: str, dataset_dir: str, bends: Mapping[str, float]) -> None:
    """Print a row for each bend: the shares of 200 copies whose subject is among the first ones."""
    split = split_subjects(find_images(dataset_dir), ROOT / "configs" / "splits" / "ixi.json", 0.1, 0)["test"]
    for item in split:
        item.pop("mask", None)  # whole heads
    data = SliceSet.load(split, component(configs, "preprocessing"))
    method = embedding(configs, checkpoint, AutocastInferer(enabled=False))
    assert method is not None
    known = method.vectors(data.images)
    rng = np.random.RandomState(0)
    rows = rng.choice(len(data.images), 200, replace=len(data.images) < 200)
    for name, bend in bends.items():
        transform = copies(bend, data.images.ndim == 4)
        transform.set_random_state(1)
        moved = np.stack([moved_copy(transform, data.images[row]) for row in rows])
        near = nearest_subjects(method.vectors(moved), known, data.subject, max(FIRST)).subject
        rank = np.argmax(np.c_[near == data.subject[rows][:, None], np.ones(len(rows), bool)], axis=1)
        print(f"| {name} | " + " | ".join(f"{(rank < first).mean():.3f}" for first in FIRST) + " |", flush=True)


def moved_copy(transform: Compose, image: NDArray) -> NDArray[np.float32]:
    """Return a copy of one image."""
    return transform({"image": torch.from_numpy(image[None])})["image"].numpy()[0]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True, help="a datalist of the IXI volumes")
    parser.add_argument("--checkpoint", default=str(ROOT / "models" / "model.pt"))
    parser.add_argument("--volume_checkpoint", default=str(ROOT / "models" / "model_3d.pt"))
    given = parser.parse_args()
    slices = {f"slices, bent by {bend:g} pixels": bend for bend in (0, 1.5, 2, 3, 4)}
    volumes = {f"volumes, bent by {4 * bend:g} mm": bend for bend in (0, 0.5, 0.75, 1)}
    print(f"| copies | source within {' | '.join(map(str, FIRST))} of 50 people |")
    print("|---" * (len(FIRST) + 1) + "|")
    found_within([INFERENCE], given.checkpoint, given.dataset_dir, slices)
    found_within([INFERENCE, VOLUMES], given.volume_checkpoint, given.dataset_dir, volumes)


if __name__ == "__main__":
    main()
