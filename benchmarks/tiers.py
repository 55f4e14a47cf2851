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

"""Which tier do copies, blends and averages of training people get? Audits of real slices.

python benchmarks/tiers.py --dataset_dir participants.tsv [--audits 5] [--output_dir eval/tiers]

A blend of weight w is w times a slice of one training person and 1 - w times the slice of another one of about its
level, aligned to it; an average is of three. A third of them are as they are, the others degraded as mild and strong
copies are. Each audit is a line of results.jsonl; a run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from bundle_root import ROOT
from numpy.typing import NDArray
from real_slices import RealSlices
from scripts.bundle.components import component
from scripts.similarity.rendering import render

MIXTURES = {
    "copy": (1.0,),
    "blend of 0.8": (0.8, 0.2),
    "blend of 0.7": (0.7, 0.3),
    "blend of 0.6": (0.6, 0.4),
    "half and half": (0.5, 0.5),
    "average of three": (1 / 3, 1 / 3, 1 / 3),
    "new person": (),
}
EACH = 12  # images of each kind in an audit
PEOPLE = 100  # to train on
STRENGTHS = (None, "mild", "strong")


class Tiers(RealSlices):
    """Audits of mixtures of training people."""

    def count(self, seed: int) -> dict[str, dict[str, int]]:
        """Return how many images of each kind an audit gives each tier."""
        rng = np.random.RandomState(seed)
        names = rng.permutation(sorted(self.subjects)).tolist()
        train, unseen = sorted(names[:PEOPLE]), names[PEOPLE:]
        strengths = component(ROOT / "configs" / "planted_copies.yaml", "strengths")
        images, levels, kinds = [], [], []
        for kind, weights in MIXTURES.items():
            for number in range(EACH):
                people = rng.choice(train if weights else unseen, max(1, len(weights)), replace=False)
                image, level = self._mixture(people.tolist(), weights or (1.0,), rng)
                if name := STRENGTHS[number % len(STRENGTHS)]:
                    degrade = strengths[name]
                    degrade.set_random_state(state=rng)
                    image = degrade({"image": torch.from_numpy(image[None])})["image"][0].numpy()
                images.append(image)
                levels.append(level)
                kinds.append(kind)
        generated = self._embedded(np.stack(images), np.array(levels), [f"g{i}" for i in range(len(images))])
        tiers = self.audit(self._training_set(train), generated).tier
        return {kind: dict(Counter(tier.value for tier, k in zip(tiers, kinds) if k == kind)) for kind in MIXTURES}

    def _mixture(
        self, people: list[str], weights: tuple[float, ...], rng: np.random.RandomState
    ) -> tuple[NDArray[np.float32], float]:
        first = self.subjects[people[0]]
        row = rng.randint(len(first.images))
        base, level = first.images[row].astype(np.float32)[None], first.level[row]
        mixed = weights[0] * base
        for name, weight in zip(people[1:], weights[1:]):
            other = self.subjects[name]
            image = other.images[np.abs(other.level - level).argmin()].astype(np.float32)[None]
            mixed = (
                mixed + weight * render(base, image, self.audit.verifier.align(base, image).matrix, shading=False)[0]
            )
        return mixed[0].astype(np.float32), float(level)


def table(audits: list[dict[str, dict[str, int]]]) -> str:
    """Return a line for each kind of image."""
    lines = ["| images | copy | likeness | none |", "|---|---|---|---|"]
    for kind in MIXTURES:
        counts = [sum(audit[kind].get(tier, 0) for audit in audits) for tier in ("copy", "likeness", "none")]
        lines.append(f"| {kind} | " + " | ".join(f"{count} of {sum(counts)}" for count in counts) + " |")
    return "\n".join(lines)


def main(words: list[str] | None = None) -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True, help="a datalist of volumes with subject_id")
    parser.add_argument("--split_file", default=str(ROOT / "configs" / "splits" / "ixi.json"))
    parser.add_argument("--audits", type=int, default=5)
    parser.add_argument("--output_dir", type=Path, default=Path("eval/tiers"))
    arguments = parser.parse_args(words)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    file = arguments.output_dir / "results.jsonl"
    audits = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    slices = Tiers(arguments.dataset_dir, arguments.split_file, bends=[])
    for seed in range(len(audits), arguments.audits):
        audits.append(slices.count(seed))
        with file.open("a") as log:
            log.write(json.dumps(audits[-1]) + "\n")
    print(table(audits))


if __name__ == "__main__":
    main()
