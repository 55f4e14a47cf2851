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
"""Of copies and of new people that are looked up one at a time, how many are called?

python benchmarks/single_images.py --dataset_dir IXI/participants.tsv [--draws 1] [--output_dir eval/single_images]

The planted volumes of configs/planted_volumes.yaml, each looked up alone. Draws that are done are not done again.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bundle_root import ROOT
from scripts.bundle.components import component
from scripts.bundle.files import read_table
from scripts.lookup import Lookup, LookupAnswer

CONFIGS = [ROOT / "configs" / name for name in ("planted_copies.yaml", "planted_volumes.yaml")]


@dataclass(frozen=True)
class Row:
    """What was answered about planted volumes of a strength: how many of each verdict among `copies` and `new` people,
    and of how many called copies the subject was wrong."""

    strength: str
    draw: int
    copies: dict[str, int]
    new: dict[str, int]
    wrong_subject: int


def counted(strength: str, draw: int, answers: Sequence[LookupAnswer], sources: Sequence[str]) -> Row:
    """Return the row of answers about volumes whose training subjects are known, '' for a new person."""
    copies = [(answer, source) for answer, source in zip(answers, sources) if source]
    new = [answer for answer, source in zip(answers, sources) if not source]
    called = [(answer, source) for answer, source in copies if answer.verdict in ("copy", "likeness")]
    return Row(
        strength=strength,
        draw=draw,
        copies=dict(Counter(answer.verdict for answer, _ in copies)),
        new=dict(Counter(answer.verdict for answer in new)),
        wrong_subject=sum(answer.subject != source for answer, source in called),
    )


def table(rows: Sequence[Row]) -> str:
    """Return a line for each strength, its draws together."""
    lines = ["| strength | copies | called a copy | a likeness | wrong subject | new people | called |"]
    lines.append("|---|---|---|---|---|---|---|")
    for strength in dict.fromkeys(row.strength for row in rows):
        mine = [row for row in rows if row.strength == strength]
        copies, new = (sum((Counter(getattr(row, key)) for row in mine), Counter()) for key in ("copies", "new"))
        lines.append(
            f"| {strength} | {copies.total()} | {copies['copy']} | {copies['likeness']} | "
            f"{sum(row.wrong_subject for row in mine)} | {new.total()} | {new['copy'] + new['likeness']} |"
        )
    return "\n".join(lines)


def main(words: list[str] | None = None) -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True, help="a datalist of volumes, one a person")
    parser.add_argument("--output_dir", default="eval/single_images", type=Path)
    parser.add_argument("--draws", type=int, default=1, help="of each strength")
    given = parser.parse_args(words)
    log = given.output_dir / "results.jsonl"
    rows = [Row(**json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []
    keys = {"dataset_dir": given.dataset_dir, "copies": 30}
    sets, strengths = (component(CONFIGS, key, **keys) for key in ("sets", "strengths"))
    for draw in range(given.draws):
        for strength, degrade in strengths.items():
            if any((row.strength, row.draw) == (strength, draw) for row in rows):
                continue
            folder = given.output_dir / f"{strength}_{draw}"
            sets.write(folder, degrade, seed=1000 + draw)
            truth = read_table(folder / "truth.csv")
            lookup = Lookup.of({"train_dir": str(folder / "train.csv")})
            answers = [lookup(folder / "generated" / row["generated_id"]) for row in truth]
            rows.append(counted(strength, draw, answers, [row["subject_id"] for row in truth]))
            with log.open("a") as file:
                file.write(json.dumps(asdict(rows[-1])) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
