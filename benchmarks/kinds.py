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

"""How alike are the halves of a training set: of one kind, and of two?

python benchmarks/kinds.py --dataset_dir IXI/participants.tsv

Of two kinds every second, or every seventh, of the 50 test subjects of the split has another contrast, lies across, or
is skull-stripped. A set is said to be of two kinds below `APART` of scripts/auditing/kinds.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from bundle_root import ROOT
from numpy.typing import NDArray
from scripts import component, find_images, split_subjects
from scripts.auditing.kinds import halves, likeness_of_subjects
from scripts.embedder.embedder import Embedder
from scripts.images.items import Item
from scripts.images.loading import SliceSet

CONFIGS = [ROOT / "configs" / name for name in ("inference.yaml", "inference_3d.yaml")]


def other_contrast(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return images in [0, 1] with the contrast inside the object reversed, as T2 beside T1."""
    return np.where(images > 0.1, 1.05 - images, 0).clip(0, 1).astype(np.float32)


def across(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return images (N, H, W) with the axes of their middle square swapped, black around it."""
    result = np.zeros_like(images)
    side = min(images.shape[1:])
    a, b = ((n - side) // 2 for n in images.shape[1:])
    result[:, a : a + side, b : b + side] = images[:, a : a + side, b : b + side].transpose(0, 2, 1)
    return result


CHANGES: dict[str, Callable[[NDArray], NDArray]] = {"another contrast": other_contrast, "across": across}


def ratio(embedder: Embedder, images: NDArray[np.float32], subject: NDArray[np.int64]) -> str:
    """Return how alike the halves are."""
    vectors = embedder.embed_images(images.astype(np.float16))
    return f"{halves(likeness_of_subjects(vectors, subject)).alike:.2f}"


def report(name: str, items: list[Item], whole: bool) -> None:
    """Print the rows of one kind of data."""
    embedder: Embedder = component(ROOT / "configs/detect.yaml", "embedder", volumes="whole" if whole else "slices")
    chain = component(CONFIGS if whole else CONFIGS[0], "preprocessing")
    brains = SliceSet.load(items, chain)
    for item in items:
        item.pop("mask")
    heads = SliceSet.load(items, chain)
    for form, data in (("heads", heads), ("brains", brains)):
        for count in (12, 24, 50):
            few = data.subject < count
            print(f"| {form}, {name} of {count} subjects | {ratio(embedder, data.images[few], data.subject[few])} |")
    for every in (2, 7):
        other = heads.subject % every == 0
        for kind, change in CHANGES.items():
            if whole and change is across:
                continue
            images = heads.images.copy()
            images[other] = change(images[other])
            print(f"| heads, {name}, one of {every} {kind} | {ratio(embedder, images, heads.subject)} |")
        rest, stripped = heads.subject % every != 0, brains.subject % every == 0
        images = np.concatenate([heads.images[rest], brains.images[stripped]])
        subject = np.concatenate([heads.subject[rest], brains.subject[stripped]])
        print(f"| heads, {name}, one of {every} skull-stripped | {ratio(embedder, images, subject)} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True, help="a datalist of the IXI volumes, with masks")
    given = parser.parse_args()
    print("| training images | likeness of the halves, of that within them |")
    print("|---|---|")
    for name in ("slices", "volumes"):
        items = split_subjects(find_images(given.dataset_dir), ROOT / "configs/splits/ixi.json", 0.1, 0)["test"]
        report(name, items, whole=name == "volumes")


if __name__ == "__main__":
    main()
