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

"""The pairs of images that people are to rate: those of a table, or some of an audit's matches."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..bundle.files import read_table
from ..decision.labels import Label
from ..images.readers.registry import file_of
from ..images.rows import read_rows_without_images

__all__ = ["PairToRate", "pairs_to_rate"]

PAIR_ID = re.compile(r"\w[\w.-]*")  # what every table and spreadsheet takes as it is


@dataclass(frozen=True)
class PairToRate:
    """Two images, as paths, with an id that tells nothing of them; `label` is the audit's, None of a table's pair."""

    pair_id: str
    image_a: str
    image_b: str
    label: str | None = None

    @property
    def files(self) -> tuple[str, str]:
        """The files that hold the two images."""
        return file_of(self.image_a), file_of(self.image_b)


def pairs_to_rate(pairs_file: str | None, audit_dir: str | None, count: int, seed: int) -> list[PairToRate]:
    """Return all pairs of a table, or `count` of an audit's matches.

    Of an audit half are images that it called, as far as there are so many, drawn at random; image_a is the generated
    one. A pair without an id is called by its row, from 1.

    Args:
        pairs_file: .csv or .tsv with the columns image_a, image_b [, pair_id]; paths begin at its folder.
        audit_dir: output folder of ``configs/detect.yaml``; one of the two must be given.
        count: of an audit's pairs.
        seed: of the draw.

    Raises:
        ValueError: if both or none are given, a column, an image or an id is missing, or an id stands twice.
        OSError: if the table cannot be read.
    """
    if (pairs_file is None) == (audit_dir is None):
        found = "neither" if pairs_file is None else "both"
        raise ValueError(f"pairs_file: expected a table of pairs or an audit_dir, found {found}; give one")
    if pairs_file is not None:
        return _of_table(Path(pairs_file))
    return _of_audit(Path(str(audit_dir)) / "matches.csv", count, seed)


def _of_table(path: Path) -> list[PairToRate]:
    pairs = []
    for number, row in enumerate(read_rows_without_images(path), start=1):
        if missing := [column for column in ("image_a", "image_b") if column not in row]:
            raise ValueError(
                f"{path}: expected a path in the column {missing[0]!r} of row {number}, found none; name or fill it"
            )
        own = str(row.get("pair_id", number))
        if not PAIR_ID.fullmatch(own):
            raise ValueError(
                f"{path}: expected a pair_id of letters, digits, '_', '.' and '-', found {own!r} in row {number}; "
                "rename it"
            )
        images = (_existing(path, number, str(path.parent / str(row[column]))) for column in ("image_a", "image_b"))
        pairs.append(PairToRate(own, *images))
    if not pairs:
        raise ValueError(f"{path}: expected at least one pair, found none; add rows")
    name, most = Counter(pair.pair_id for pair in pairs).most_common(1)[0]
    if most > 1:
        raise ValueError(f"{path}: expected every pair_id once, found {name!r} {most} times; rename one")
    return pairs


def _of_audit(path: Path, count: int, seed: int) -> list[PairToRate]:
    rows = [(number, row) for number, row in enumerate(read_table(path), start=1) if row["train_path"]]
    if count < 1:
        raise ValueError(f"count: expected at least 1, found {count}; correct it")
    if not rows:
        raise ValueError(
            f"{path}: expected matches with the paths of their images, found none; an audit with pseudonyms has no "
            "paths: take one without"
        )
    rng = np.random.RandomState(seed)
    called = np.array([row["memorized"] == "1" for _, row in rows])
    groups = [rng.permutation(np.flatnonzero(called)), rng.permutation(np.flatnonzero(~called))]
    # half of either kind; where one has fewer the other makes up for it
    others = min(len(groups[1]), max(count // 2, count - len(groups[0])))
    chosen = np.sort(np.concatenate([groups[0][: count - others], groups[1][:others]]))
    return [
        PairToRate(
            str(number),
            _existing(path, number, row["generated_path"]),
            _existing(path, number, row["train_path"]),
            Label[row["label"].upper()].name.lower(),
        )
        for number, row in (rows[i] for i in chosen.tolist())
    ]


def _existing(table: Path, number: int, image: str) -> str:
    if not Path(file_of(image)).exists():
        raise ValueError(
            f"{table}: expected an image in row {number}, found no file {image!r}; correct the path (an audit with "
            "pseudonymize hides them)"
        )
    return image
