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

import pytest
from scripts.studies.ratings import read_ratings

PAIRS = "pair_id,image_a,image_b\n1,a,b\n2,a,c\n3,b,c\n"
ANNA = "rater,pair_id,answer,seconds\nanna,1,different,1.5\nanna,2,similar,2.5\n"
BERT = "rater,pair_id,answer,seconds\nbert,2,duplicate,\nbert,1,different,\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ratings").mkdir()
    (tmp_path / "pairs.csv").write_text(PAIRS)
    return tmp_path


def ratings(folder, *tables: str, methods: str | None = None):
    for number, text in enumerate(tables):
        (folder / "ratings" / f"{number}.csv").write_text(text, encoding="utf-8")
    if methods is not None:
        (folder / "methods.csv").write_text(methods)
    return read_ratings(folder / "ratings", folder / "pairs.csv", None if methods is None else folder / "methods.csv")


def test_answers_stand_by_pair_whatever_the_order_of_rows_and_files(folder):
    found = ratings(folder, BERT, "\ufeff" + ANNA, methods="pair_id,ours,other\n1,similar,\n3,similar,duplicate\n")
    assert found.pair_ids == ["1", "2"]
    assert {name: own.tolist() for name, own in found.answers.items()} == {"anna": [0, 1], "bert": [0, 2]}
    assert list(found.answers) == ["anna", "bert"] and found.seconds == {"anna": 2.0, "bert": None}
    assert {name: own.tolist() for name, own in found.methods.items()} == {"ours": [1, -1], "other": [-1, -1]}
    assert [file.name for file in found.files] == ["pairs.csv", "0.csv", "1.csv", "methods.csv"]


def test_a_rater_may_save_in_parts(folder):
    found = ratings(folder, ANNA, "rater,pair_id,answer\nanna,3,duplicate\n", BERT)
    assert found.answers["anna"].tolist() == [0, 1, 2] and found.answers["bert"].tolist() == [0, 2, -1]


@pytest.mark.parametrize(
    ("tables", "methods", "sentence"),
    [
        (
            [ANNA, BERT.replace("bert,1", "bert,9")],
            None,
            r"1.csv: expected a pair of pairs_file, found pair_id '9' in row 2",
        ),
        (
            [ANNA + "anna,1,similar,1\n", BERT],
            None,
            r"0.csv: expected each pair once, found '1' by 'anna' again in row 3",
        ),
        ([ANNA, ANNA, BERT], None, r"1.csv: expected each pair once, found '1' by 'anna' again in row 1"),
        (
            [ANNA, BERT.replace("duplicate", "copy")],
            None,
            r"different, similar, duplicate, found 'copy' in row 1; correct",
        ),
        ([ANNA], None, r"expected .csv files of at least two raters, found 1 \('anna'\) in 1 files; add"),
        ([], None, r"expected .csv files of at least two raters, found 0 in 0 files"),
        (
            [ANNA, "rater,answer\nbert,similar\n"],
            None,
            r"expected a value in the column 'pair_id' of row 1, found none",
        ),
        ([ANNA.replace("2.5", "long"), BERT], None, r"0.csv: expected seconds, found 'long' in row 2"),
        ([ANNA, BERT], "pair_id,ours\n8,similar\n", r"methods.csv: expected a pair of pairs_file, found pair_id '8'"),
        ([ANNA, BERT], "pair_id,ours\n1,0.9\n", r"methods.csv: expected different, similar, duplicate, found '0.9'"),
        (
            [ANNA, BERT],
            "pair_id,ours\n1,similar\n1,similar\n",
            r"methods.csv: expected each pair once, found '1' again",
        ),
    ],
)
def test_what_is_wrong_is_said(folder, tables, methods, sentence):
    with pytest.raises(ValueError, match=sentence):
        ratings(folder, *tables, methods=methods)


def test_a_missing_table_of_pairs_is_named_by_its_key(tmp_path):
    with pytest.raises(
        ValueError, match=r"pairs_file: expected the pairs.csv that rate.yaml wrote, found no .*pairs.csv"
    ):
        read_ratings(tmp_path, tmp_path / "pairs.csv")
