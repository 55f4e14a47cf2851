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

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import write_pictures
from scripts.bundle.files import write_table
from scripts.studies.pairs_to_rate import PairToRate, pairs_to_rate


@pytest.fixture
def pictures(tmp_path) -> list[str]:
    return [item["image"] for item in write_pictures(tmp_path, *range(4))]


def table(folder: Path, text: str) -> str:
    (folder / "table.csv").write_text(text)
    return str(folder / "table.csv")


def audit(folder: Path, images: list[str], rows: int = 10, called: int = 3, **changed: object) -> str:
    """An audit's folder, of whose generated images the first are called, and the last has no match."""
    write_table(
        folder / "audit" / "matches.csv",
        [
            {
                "generated_path": images[0],
                "train_path": images[1] if row < rows - 1 else "",
                "memorized": int(row < called),
                "label": "duplicate" if row < called else "different",
            }
            | changed
            for row in range(rows)
        ],
    )
    return str(folder / "audit")


def test_pairs_of_a_table_are_taken_in_its_order_with_paths_from_its_folder(tmp_path, pictures):
    pairs = pairs_to_rate(table(tmp_path, f"image_a,image_b\n0.png,1.png\n{pictures[2]},3.png\n"), None, 1, 0)
    assert pairs == [PairToRate("1", pictures[0], pictures[1]), PairToRate("2", pictures[2], pictures[3])]
    assert pairs[0].files == (pictures[0], pictures[1])
    own = pairs_to_rate(table(tmp_path, "pair_id,image_b,image_a\nx-1,0.png,1.png\n"), None, 1, 0)
    assert own == [PairToRate("x-1", pictures[1], pictures[0])]


@pytest.mark.parametrize(("count", "called", "others"), [(4, 2, 2), (8, 3, 5), (100, 3, 6), (1, 1, 0)])
def test_of_an_audit_half_are_calls_as_far_as_there_are_so_many(tmp_path, pictures, count, called, others):
    folder = audit(tmp_path, pictures)
    pairs = pairs_to_rate(None, folder, count, 0)
    labels = [pair.label for pair in pairs]
    assert (labels.count("duplicate"), labels.count("different")) == (called, others)
    assert len({pair.pair_id for pair in pairs}) == len(pairs) and "10" not in {pair.pair_id for pair in pairs}
    assert pairs == pairs_to_rate(None, folder, count, 0)
    assert pairs[0].image_a == pictures[0] and pairs[0].image_b == pictures[1]


def test_another_seed_draws_others_under_the_ids_of_their_rows(tmp_path, pictures):
    folder = audit(tmp_path, pictures, rows=60, called=30)
    first, second = ({pair.pair_id: pair.label for pair in pairs_to_rate(None, folder, 20, seed)} for seed in (0, 1))
    assert first.keys() != second.keys()
    assert all(label == ("duplicate" if int(own) <= 30 else "different") for own, label in (first | second).items())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("image_a,image_b\n0.png,\n", "table.csv: expected a path in the column 'image_b' of row 1, found none"),
        ("first,image_b\n0.png,1.png\n", "table.csv: expected a path in the column 'image_a' of row 1, found none"),
        ("image_a,image_b\n0.png,9.png\n", "table.csv: expected an image in row 1, found no file"),
        ("image_a,image_b\n", "table.csv: expected at least one pair, found none"),
        (
            "image_a,image_b,pair_id\n0.png,1.png,a\n1.png,2.png,a\n",
            "table.csv: expected every pair_id once, found 'a' 2 times",
        ),
        (
            "image_a,image_b,pair_id\n0.png,1.png,=1+1\n",
            "expected a pair_id of letters, digits, .* found '=1.1' in row 1",
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path, pictures, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        pairs_to_rate(table(tmp_path, text), None, 1, 0)


def test_what_is_wrong_with_an_audit_is_said(tmp_path, pictures):
    with pytest.raises(ValueError, match="a table of pairs or an audit_dir, found neither; give one"):
        pairs_to_rate(None, None, 1, 0)
    with pytest.raises(ValueError, match="a table of pairs or an audit_dir, found both; give one"):
        pairs_to_rate("a", "b", 1, 0)
    with pytest.raises(
        ValueError,
        match="expected matches with the paths of their images, found none; an audit with pseudonyms has no paths",
    ):
        pairs_to_rate(None, audit(tmp_path, pictures, train_path=""), 5, 0)
    with pytest.raises(ValueError, match="count: expected at least 1, found 0; correct it"):
        pairs_to_rate(None, audit(tmp_path, pictures), 0, 0)
    hidden = audit(tmp_path, pictures, train_path="train-0123.png")
    with pytest.raises(ValueError, match="found no file 'train-0123.png'; .* pseudonymize hides them"):
        pairs_to_rate(None, hidden, 5, 0)
    with pytest.raises(FileNotFoundError):
        pairs_to_rate(None, str(tmp_path / "missing"), 5, 0)
