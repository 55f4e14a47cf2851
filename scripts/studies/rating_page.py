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

"""A page on which a person rates pairs of images, blind to what any metric says of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..bundle.files import replacing, write_table
from ..bundle.progress import Progress
from ..images.items import Item, Prepared, Preprocessing
from ..images.loading import prepared_images
from ..report.pictures import data_uri
from ..report.self_contained import json_block, render_self_contained
from .pairs_to_rate import PairToRate

__all__ = ["write_rating_page"]

TEMPLATE = Path(__file__).with_name("rating.html.j2")
SCRIPT = Path(__file__).with_name("rating.js")


def write_rating_page(
    pairs: Sequence[PairToRate],
    preprocessing: Preprocessing,
    output_dir: str | os.PathLike,
    seed: int = 0,
    slices: int = 3,
) -> Path:
    """Return the written page `output_dir`/rating.html; it holds all pictures and asks the network for nothing.

    Each rater types a name, sees the pairs in an order of their own and saves one .csv file with the columns rater,
    pair_id, answer and seconds. The page holds pictures and pair ids, and neither names of files nor scores. Those
    stand in pairs.csv beside it. Of an audit's pairs methods.csv has the labels, for ``configs/agreement.yaml``.

    Args:
        pairs: of :func:`~scripts.studies.pairs_to_rate.pairs_to_rate`.
        preprocessing: the bundle's chain, which makes (1, H, W) in [0, 1] of a file, or a list of slices.
        output_dir: created if it does not exist.
        seed: of the order.
        slices: most slices that are shown of a volume.

    Raises:
        ValueError: if `slices` is below 1.
    """
    if slices < 1:
        raise ValueError(f"slices: expected at least 1, found {slices}; change it")
    output = Path(output_dir)
    shown = [_pictures(pair, preprocessing, slices) for pair in Progress(pairs, desc="drawing pairs", unit="pair")]
    block = json_block({"seed": seed, "pairs": [[pair.pair_id, *both] for pair, both in zip(pairs, shown)]})
    with replacing(output / "rating.html") as path:
        path.write_text(render_self_contained(TEMPLATE, SCRIPT, pairs=block, count=len(pairs)), encoding="utf-8")
    write_table(
        output / "pairs.csv", [{"pair_id": p.pair_id, "image_a": p.image_a, "image_b": p.image_b} for p in pairs]
    )
    (output / "methods.csv").unlink(missing_ok=True)  # of other pairs
    if pairs[0].label is not None:
        write_table(output / "methods.csv", [{"pair_id": pair.pair_id, "audit": pair.label} for pair in pairs])
    return output / "rating.html"


def _pictures(pair: PairToRate, preprocessing: Preprocessing, slices: int) -> tuple[list[str], list[str]]:
    """Return the pictures of both sides as data URIs, of volumes some slices, each beside the nearest in level."""
    first, second = (
        prepared_images([Item(image=image, id=image, subject_id=image)], preprocessing)
        for image in (pair.image_a, pair.image_b)
    )
    count = min(slices, len(first))
    # the middles of equal parts: not the ends, where volumes show little
    rows = ((np.arange(count) + 0.5) * len(first) / count - 0.5).round().astype(int).tolist()
    return [_uri(first[row]) for row in rows], [_uri(_opposite(first, row, second)) for row in rows]


def _opposite(first: Sequence[Prepared], row: int, second: Sequence[Prepared]) -> Prepared:
    """Return the image of `second` at the level of one of `first`; where levels are unknown the same way along."""
    distance = np.abs([image["level"] - first[row]["level"] for image in second])
    if np.isfinite(distance).all():
        return second[int(distance.argmin())]
    return second[round(row / max(1, len(first) - 1) * (len(second) - 1))]


def _uri(image: Prepared) -> str:
    return data_uri(np.asarray(image["image"], np.float32)[0], upright=image["slice"] >= 0)
