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

"""Does the detail tell copies of whole heads from mixtures of heads, in the voxels of the search and in finer ones?

python benchmarks/volume_detail.py --dataset_dir participants.tsv [--part test] [--people 15] [--output_dir eval/detail]

A mixture is the mean of a head and of one or two others, aligned to it and bent onto it: the hardest kind. Each is
taken as it is, and degraded and moved as mild and strong copies of configs/planted_volumes.yaml are. Each person is a
line of results.jsonl; a run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import torch
from bundle_root import ROOT
from numpy.typing import NDArray
from scripts.bundle.components import component
from scripts.images.datalists import find_images
from scripts.images.items import Item
from scripts.images.subjects import split_subjects
from tqdm import trange

MIXTURES = {
    "copy": (1.0,),
    "blend of 0.7": (0.7, 0.3),
    "half and half": (0.5, 0.5),
    "average of three": (1 / 3, 1 / 3, 1 / 3),
}
STRENGTHS = ("none", "mild", "strong")
DETECT = ROOT / "configs" / "detect.yaml"


class Details:
    """Measures the detail of mixtures of people's heads.

    Args:
        items: volumes, one a person, without masks.
    """

    def __init__(self, items: list[Item]) -> None:
        self.items = items
        self.audit = component(DETECT, "audit", volumes="whole", output_dir="")
        self.load = component(DETECT, "preprocessing", volumes="whole")
        self.close_up = component(DETECT, "close_up", volumes="whole")
        planted = [str(ROOT / "configs" / name) for name in ("planted_copies.yaml", "planted_volumes.yaml")]
        self.strengths = component(planted, "strengths")
        self.cut = self.audit.criteria.copy_detail

    def of_person(self, number: int) -> list[dict[str, object]]:
        """Return, of each mixture of a person and strength, the detail in the search's voxels and in fine ones."""
        rng = np.random.RandomState(number)
        others = rng.choice([n for n in range(len(self.items)) if n != number], 2, replace=False)
        own = self._fine(self.items[number])
        verifier, rows = self.close_up.verifier, []
        lain = []
        for other in others:
            volume = self._fine(self.items[other])
            lain.append(verifier.show(own, volume, verifier.align(own, volume).matrix))
        for kind, weights in MIXTURES.items():
            mixed = sum(weight * volume for weight, volume in zip(weights, (own, *lain)))
            for name in STRENGTHS:
                image = mixed
                if name != "none":
                    degrade = self.strengths[name]
                    degrade.set_random_state(state=rng)
                    image = degrade({"image": torch.from_numpy(mixed.copy())})["image"].numpy()
                rows.append({"kind": kind, "strength": name, **self._detail(image[0], self.items[number])})
        return rows

    def _detail(self, volume: NDArray[np.float32], source: Item) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            mm = self.close_up.verifier.voxel_mm
            path = Path(folder) / "a.nii.gz"
            array = (volume.clip(0, 1) * 1000).astype(np.int16)
            nibabel.save(nibabel.Nifti1Image(array, np.diag([mm, mm, mm, 1.0])), path)
            item: Item = {"image": str(path), "id": path.name, "subject_id": ""}
            query, reference = (np.asarray(self.load(dict(i))["image"], np.float32) for i in (item, source))
            matrix = self.audit.verifier.align(query, reference).matrix
            coarse = self.audit.verifier.detail(query, reference, matrix)[0]
            return {"coarse": float(coarse), "fine": float(self.close_up([item], [source], matrix)[0])}

    def _fine(self, item: Item) -> NDArray[np.float32]:
        return np.asarray(self.close_up.load.preprocessing(dict(item))["image"], np.float32)


def table(rows: list[dict], cut: float) -> str:
    """Return a line for each mixture and strength: how many would be copies, were they called."""
    lines = ["| heads | degraded | copies in the voxels of the search | in fine ones |", "|---|---|---|---|"]
    for kind in MIXTURES:
        for strength in STRENGTHS:
            some = [row for row in rows if row["kind"] == kind and row["strength"] == strength]
            counts = [f"{sum(row[way] >= cut for row in some)} of {len(some)}" for way in ("coarse", "fine")]
            lines.append(f"| {kind} | {strength} | " + " | ".join(counts) + " |")
    return "\n".join(lines)


def main(words: list[str] | None = None) -> None:
    """Measure who is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True, help="a datalist of volumes with subject_id")
    parser.add_argument("--split_file", default=str(ROOT / "configs" / "splits" / "ixi.json"))
    parser.add_argument("--part", default="test", help="of the split")
    parser.add_argument("--people", type=int, default=15)
    parser.add_argument("--output_dir", type=Path, default=Path("eval/detail"))
    arguments = parser.parse_args(words)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    file = arguments.output_dir / "results.jsonl"
    people = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    items = split_subjects(find_images(arguments.dataset_dir), arguments.split_file, 0.1, 0)[arguments.part]
    chosen: list[Item] = [
        {"image": item["image"], "id": item["id"], "subject_id": item["subject_id"]}
        for item in items  # no masks
    ]
    details = Details(chosen)
    for number in trange(len(people), min(arguments.people, len(chosen))):
        people.append(details.of_person(number))
        with file.open("a") as log:
            log.write(json.dumps(people[-1]) + "\n")
    print(table([row for rows in people for row in rows], details.cut))


if __name__ == "__main__":
    main()
