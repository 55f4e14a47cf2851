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
from scripts.images.demographics import with_people

# as in IXI.xls, saved as CSV: numbers without zeros in front, one person twice, a sex that is not known, no age
IXI = """IXI_ID,"SEX_ID (1=m, 2=f)",HEIGHT,AGE
2,2,164,35.80
12,1,175,38.78
12,1,175,
13,0,182,46.71
14,2,163,
15,1,170,24.22
15,2,170,24.22
"""
# as in CoRR's phenotypic data: a row a session, # where nothing is known
CORR = """SUBID,SESSION,AGE_AT_SCAN_1,SEX
25493,Baseline,21.5,1
25493,Retest_1,22.0,1
25494,Baseline,#,2
25494,Retest_1,23.0,2
25495,Baseline,30,#
"""


def people(subjects, table, path):
    path.write_text(table)
    items = [{"image": f"{name}.nii", "id": f"{name}.nii", "subject_id": name} for name in subjects]
    return [(item.get("age"), item.get("sex")) for item in with_people(items, path)]


def test_ixi(tmp_path):
    subjects = ["IXI002", "IXI012", "IXI013", "IXI014", "IXI015", "IXI999"]
    found = people(subjects, IXI, tmp_path / "IXI.csv")
    assert found == [(35.8, "F"), (38.78, "M"), (46.71, None), (None, "F"), (24.22, None), (None, None)]
    spreadsheet = IXI.replace("2,2,164", "2.0,2.0,164")
    assert people(subjects, spreadsheet, tmp_path / "IXI.csv") == found


@pytest.mark.parametrize("subjects", [["0025493", "0025494", "0025495"], ["sub-0025493", "sub-0025494", "sub-0025495"]])
def test_corr(tmp_path, subjects):
    assert people(subjects, CORR, tmp_path / "pheno.csv") == [(21.5, "F"), (23.0, "M"), (30.0, None)]


def test_bids_and_plain_tables(tmp_path):
    table = "participant_id\tage\tsex\nsub-01\t31\tFemale\nsub-02\tn/a\tm\n"
    assert people(["sub-01", "sub-02"], table, tmp_path / "participants.tsv") == [(31.0, "F"), (None, "M")]
    bare = table.replace("sub-", "")
    assert people(["sub-01", "sub-02"], bare, tmp_path / "participants.tsv") == [(31.0, "F"), (None, "M")]
    assert people(["ann"], "subject_id,age,sex\nann,3,F\nbob,4,M\n", tmp_path / "a.csv") == [(3.0, "F")]


def test_what_an_item_has_stays_and_no_table_changes_nothing(tmp_path):
    (tmp_path / "IXI.csv").write_text(IXI)
    items = [{"id": "a", "subject_id": "IXI002", "age": 40, "sex": "n/a"}]
    assert with_people(items, tmp_path / "IXI.csv") == [{"id": "a", "subject_id": "IXI002", "age": 40, "sex": "F"}]
    assert with_people(items, None) == items
    assert items == [{"id": "a", "subject_id": "IXI002", "age": 40, "sex": "n/a"}]


def test_who_is_not_in_the_table_is_counted(tmp_path, caplog):
    people(["IXI002", "IXI998", "IXI999"], IXI, tmp_path / "IXI.csv")
    assert "knows nothing of 2 of 3 subjects" in caplog.text


@pytest.mark.parametrize(
    ("subjects", "table", "sentence"),
    [
        (["IXI002"], "id,age\n2,30\n", "expected the columns IXI_ID, AGE, SEX_ID .* found age, id; rename them"),
        (["IXI002"], "", "expected the columns .* found none; rename them"),
        (["ann"], IXI, "expected rows of the images' subjects, as ann, found none of them under 'IXI_ID', as 2"),
        (["IXI002", "sub-002"], IXI, "expected one number a subject, found 2 for IXI002 and sub-002"),
    ],
)
def test_a_table_that_does_not_fit_is_an_error(tmp_path, subjects, table, sentence):
    with pytest.raises(ValueError, match=sentence):
        people(subjects, table, tmp_path / "people.csv")


def test_a_table_that_is_not_there_or_a_spreadsheet_is_an_error(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="expected a .csv or .tsv table of people, found nothing; check the path"
    ):
        with_people([], tmp_path / "people.csv")
    (tmp_path / "IXI.xls").touch()
    with pytest.raises(FileNotFoundError, match="found another file; save it as .csv"):
        with_people([], tmp_path / "IXI.xls")
