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

"""People who stand in the training set under two ids: are they found, and are copies of them?

python benchmarks/two_ids.py --dataset_dir participants.tsv [--audits 12] [--clean 100] [--output_dir eval/two_ids]

Real slices (configs/splits/ixi.json). A second scan is the first one turned by at most 2 degrees, moved, bent by 0.3 to
1 pixel, with noise and contrast of its own. Half of the generated images are copies of training people, those with two
ids as likely as others. Each audit is a line of results.jsonl; a run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from bundle_root import ROOT
from monai.transforms import Compose
from numpy.typing import NDArray
from real_slices import RealSlices, Scenario
from scripts.bundle.components import component
from scripts.embedder.embedding_set import EmbeddingSet
from scripts.images.augmentations import RandCopyd, RandMisalignd
from scripts.images.items import RandomTransform

SECOND = "+second"  # ends a person's other id
SHARES = (0.05, 0.1, 0.3)  # of the people
SIZES = (20, 50, 100)  # training people


@dataclass(frozen=True)
class Row:
    """An audit with `pairs` people under two ids, of whom `found` were merged, and `wrong` other merged groups.

    `recall` of copies, `false_share` of the calls, and `one_id`, the recall without the second ids.
    """

    people: int
    share: float
    seed: int
    pairs: int
    found: int
    wrong: int
    recall: float
    false_share: float
    one_id: float


def second_scan() -> RandomTransform:
    """Return what makes another scan of a person: another day, position and gain."""
    bent = RandCopyd("image", elastic=(0.3, 1.0), blur=(0.0, 0.4), noise=(0.01, 0.03), grid=6)
    moved = RandMisalignd(
        "image", affine_prob=1.0, rotation=2.0, shift=1.0, zoom=(0.99, 1.01), gamma_prob=1.0, gamma=(0.8, 1.25)
    )
    return Compose([bent, moved])


class TwoIds(RealSlices):
    """Audits of real slices in which some people stand under two ids."""

    def draw(self, people: int, share: float, seed: int) -> tuple[EmbeddingSet, EmbeddingSet, EmbeddingSet, int]:
        """Return the training set with second ids and without, the generated set, and how many ids are second ones."""
        rng = np.random.RandomState(seed)
        names = rng.permutation(sorted(self.subjects)).tolist()
        train, unseen = names[:people], names[people:]
        strength = component(ROOT / "configs" / "planted_copies.yaml", "strengths")["strong"]
        scenario = Scenario(people, generated=40, share=0.5, strength=strength)
        generated = self._generated_set(scenario, train, unseen, rng)
        twice = train[: round(share * people)]
        scan = second_scan()
        scan.set_random_state(state=rng)
        images = [self.subjects[name].images for name in train]
        images += [
            scan({"image": torch.from_numpy(self.subjects[name].images.astype(np.float32))})["image"].numpy()
            for name in twice
        ]
        levels = [self.subjects[name].level for name in [*train, *twice]]
        ids = np.repeat([*train, *(name + SECOND for name in twice)], [len(level) for level in levels])
        both = self._embedded(np.concatenate(images), np.concatenate(levels), ids.tolist())
        return both, self._training_set(train), generated, len(twice)

    def row(self, people: int, share: float, seed: int) -> Row:
        """Return what an audit finds."""
        both, once, generated, pairs = self.draw(people, share, seed)
        copies = np.arange(len(generated)) < len(generated) // 2
        result = self.audit(both, generated)
        one = result if not pairs else self.audit(once, generated)
        right = [group for group in result.merged if len(group) == 2 and group[1] == group[0] + SECOND]
        called: NDArray[np.bool_] = result.memorized
        return Row(
            people=people,
            share=share,
            seed=seed,
            pairs=pairs,
            found=len(right),
            wrong=len(result.merged) - len(right),
            recall=float(called[copies].mean()),
            false_share=float(called[~copies].sum() / max(1, called.sum())),
            one_id=float(one.memorized[copies].mean()),
        )


def table(rows: list[Row]) -> str:
    """Return the rows, a line for each number of people and share."""
    lines = [
        "| people | two ids | audits | pairs found | audits with others merged | recall; with one id | false share |",
        "|---|---|---|---|---|---|---|",
    ]
    for people, share in sorted({(row.people, row.share) for row in rows}):
        of = [row for row in rows if (row.people, row.share) == (people, share)]
        pairs, found = sum(row.pairs for row in of), sum(row.found for row in of)
        recall, one, false = (
            float(np.mean([getattr(row, key) for row in of])) for key in ("recall", "one_id", "false_share")
        )
        lines.append(
            f"| {people} | {share:.0%} | {len(of)} | {f'{found} of {pairs}' if pairs else '-'} | "
            f"{sum(row.wrong > 0 for row in of)} | {recall:.2f}; {one:.2f} | {false:.3f} |"
        )
    return "\n".join(lines)


def main(words: list[str] | None = None) -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True, help="a datalist of volumes with subject_id")
    parser.add_argument("--split_file", default=str(ROOT / "configs" / "splits" / "ixi.json"))
    parser.add_argument("--audits", type=int, default=12, help="of each number of people and share")
    parser.add_argument("--clean", type=int, default=100, help="audits without a second id, over all numbers of people")
    parser.add_argument("--output_dir", type=Path, default=Path("eval/two_ids"))
    arguments = parser.parse_args(words)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    file = arguments.output_dir / "results.jsonl"
    rows = [Row(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []
    known = {(row.people, row.share, row.seed) for row in rows}
    wanted = [(people, share, seed) for seed in range(arguments.audits) for people in SIZES for share in SHARES]
    wanted += [(SIZES[seed % len(SIZES)], 0.0, seed) for seed in range(arguments.clean)]
    slices = TwoIds(arguments.dataset_dir, arguments.split_file, bends=[])
    for people, share, seed in wanted:
        if (people, share, seed) not in known:
            rows.append(slices.row(people, share, seed))
            with file.open("a") as log:
                log.write(json.dumps(asdict(rows[-1])) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
