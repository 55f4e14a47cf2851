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

import json
import re

import numpy as np
import pytest
import torch
from image_files import write_series
from scripts.images import people
from scripts.images.datalists import find_images
from scripts.images.people import depth_of_people
from scripts.images.subjects import (
    check_spelling,
    numbered_subjects,
    split_subjects,
    starts_of_runs,
    with_and_without_mask,
)


def subjects(items) -> dict[str, str]:
    return {item["id"]: item["subject_id"] for item in items}


def test_subjects_come_from_the_column_then_bids_then_ixi_then_the_stem(folder, caplog):
    bids, ixi = "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz", "guys/IXI002-Guys-0828-T1.nii.gz"
    stems = {"x/scan.v2.nii.gz": "scan.v2", "x/scan.v2.png": "scan.v2", "x/a_long_name.NII.GZ": "a_long_name"}
    root = folder(bids, ixi, *stems, "IXI12.png")
    expected = {bids: "sub-01", ixi: "IXI002", **stems}
    assert subjects(find_images(root)) == expected | {"IXI12.png": "IXI12"}
    assert not caplog.records  # two files of one subject: the names mean something
    (root / "list.csv").write_text(f"image,subject_id\n{bids},given\n{ixi},\n")
    # a filled cell wins over the pattern; one column for some and names for others would split a person in two
    with pytest.raises(
        ValueError, match=f"list.csv: expected a subject for every image or for none, found none for {ixi}"
    ):
        find_images(root / "list.csv")
    assert subjects(find_images(root / "list.csv", exclude="guys/*")) == {bids: "given"}


def test_a_given_pattern_replaces_the_known_ones_and_searches_the_relative_path(folder):
    root = folder("P7/sub-1.png", "P7/IXI002.png", "P12/IXI003.png")
    found = subjects(find_images(root, r"(?P<subject>P\d+)/"))
    assert found == {"P7/sub-1.png": "P7", "P7/IXI002.png": "P7", "P12/IXI003.png": "P12"}
    with pytest.raises(ValueError, match=r"P12/IXI003.png: subject_pattern 'P\(\?P<subject>7\)' does not match"):
        find_images(root, "P(?P<subject>7)")
    assert len(find_images(root, "P(?P<subject>7)", exclude="P12/*")) == 2
    with pytest.raises(ValueError, match="must have a group named subject.*got 'P"):
        find_images(root, r"P(\d+)")


def test_a_stem_for_every_file_is_said_once_unless_told_not_to(folder, caplog):
    root = folder("a.png", "b.png")
    find_images(root, warn=False)
    find_images(root, include="a*")  # one file cannot be two of one person
    assert not caplog.records
    find_images(root)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(root) in caplog.text and "2 files" in caplog.text and "subject_pattern" in caplog.text


def test_one_name_in_two_folders_may_be_one_person_or_two(folder):
    root = folder("ann/t1.png", "bob/t1.png", "bob/t2.png")
    sentence = "expected names that say whose images they are, found ann/t1.png and bob/t1.png, which may be one person"
    with pytest.raises(ValueError, match=sentence):
        find_images(root)
    assert set(subjects(find_images(root, r"(?P<subject>[a-z]+)/")).values()) == {"ann", "bob"}
    assert len(find_images(root, warn=False)) == 3  # whose they are does not matter
    (root / "list.csv").write_text("image,subject_id\nann/t1.png,a\nbob/t1.png,b\n")
    assert set(subjects(find_images(root / "list.csv")).values()) == {"a", "b"}


ITEMS = [{"subject_id": f"s{i % 10}", "id": f"{i}"} for i in range(30)]


@pytest.mark.parametrize(("share", "count"), [(0.0, 1), (0.1, 1), (0.3, 3)])
def test_random_split_keeps_subjects_whole_and_depends_on_the_seed_alone(share, count):
    def held(items, seed):
        return {item["subject_id"] for item in split_subjects(items, None, share, seed)["validation"]}

    split = split_subjects(ITEMS, None, share, seed=4)
    assert len(held(ITEMS, 4)) == count and len(split["validation"]) == 3 * count
    assert held(ITEMS, 4).isdisjoint(item["subject_id"] for item in split["train"])
    assert sorted(split["train"] + split["validation"], key=lambda item: int(item["id"])) == ITEMS
    assert held(ITEMS[::-1], 4) == held(ITEMS, 4)
    assert len({min(held(ITEMS, seed)) for seed in range(9)}) > 1


def test_split_file_names_the_parts(tmp_path):
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": ["s1", "s3"], "test": ["s0"], "none": []}))
    split = split_subjects(ITEMS, path, validation_share=0.5, seed=0)
    ids = {part: [item["id"] for item in items] for part, items in split.items()}
    assert ids == {"train": ["1", "3", "11", "13", "21", "23"], "test": ["0", "10", "20"], "none": []}


@pytest.mark.parametrize(
    ("validation", "sentence"),
    [
        (["s2", "s1"], "expected every subject once, found s1 twice"),
        (["zz", "yy"], "no image of 2 subjects, such as yy"),
    ],
)
def test_split_errors(tmp_path, validation, sentence):
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": ["s1"], "validation": validation}))
    with pytest.raises(ValueError, match=f"split.json: .*{sentence}"):
        split_subjects(ITEMS, path, 0.1, seed=0)
    with pytest.raises(ValueError, match="a split by subject needs at least 2 subjects, got 1"):
        split_subjects(ITEMS[:1], None, 0.1, seed=0)


def test_a_masked_item_comes_whole_and_masked():
    plain, masked = {"id": "a", "image": "a.nii"}, {"id": "b", "image": "b.nii", "mask": "m.nii"}
    assert with_and_without_mask([plain, masked]) == [
        {**plain, "series": "a", "variant": "whole"},
        {"id": "b", "image": "b.nii", "series": "b", "variant": "whole"},
        {**masked, "series": "b#masked", "variant": "masked"},
    ]
    assert with_and_without_mask([]) == []


@pytest.mark.parametrize("other", ["P1 ", " P1", "P1\u00a0", "P\uff11", "P\u200b1", "P\u00ad1", "P1\u2060"])
def test_two_spellings_of_a_subject_are_refused(tmp_path, other):
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    rows = [{"image": "a.png", "subject_id": "P1"}, {"image": "b.png", "subject_id": other}]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="expected one spelling of a subject, found 'P1' and ") as error:
        find_images(tmp_path / "list.json")
    assert str(error.value).isascii(), "the difference can be seen"


def test_composed_and_decomposed_letters_are_one_spelling():
    check_spelling(["Jos\u00e9", "Jose", "Jos\u00e9"], "list.csv")
    with pytest.raises(ValueError, match="expected one spelling"):
        check_spelling(["Jos\u00e9", "Jose\u0301"], "list.csv")


@pytest.mark.parametrize(
    ("subject", "sentence"),
    [
        ([1], "expected a subject id, a text or a whole number, found [1] for a.png; correct it"),
        (True, "expected a subject id, a text or a whole number, found True for a.png; correct it"),
        (5.0, "expected a subject id, a text or a whole number, found 5.0 for a.png; correct it"),
        (float("nan"), "expected a subject id, a text or a whole number, found nan for a.png; correct it"),
        ("n/a", "expected a subject for every image or for none, found 'n/a' for a.png; fill it in"),
        ("NaN", "expected a subject for every image or for none, found 'NaN' for a.png; fill it in"),
        ("  ", "expected a subject for every image or for none, found '  ' for a.png; fill it in"),
        ("\u200b", "expected a subject for every image or for none, found "),
        ("x" * 256, "expected a subject id of at most 255 characters that can be printed, found 'xxx"),
        ("a\x07", "expected a subject id of at most 255 characters that can be printed, found 'a\\x07' for a.png;"),
        ("\ud800", "expected a subject id of at most 255 characters that can be printed, found '\\ud800' for a.png;"),
    ],
)
def test_what_is_nobodys_id_is_refused(folder, subject, sentence):
    root = folder("a.png", "b.png")
    rows = [{"image": "a.png", "subject_id": subject}, {"image": "b.png", "subject_id": "P1"}]
    (root / "list.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError) as error:
        find_images(root / "list.json")
    assert str(error.value).startswith(f"{root / 'list.json'}: {sentence}")


def test_a_pattern_that_takes_for_ever_is_refused(folder, monkeypatch):
    monkeypatch.setattr(people, "SLOWEST", 0.1)
    with pytest.raises(ValueError, match=r"a regular expression that searches a name within 0.1 s, found '.*aaa!.png"):
        find_images(folder("a" * 60 + "!.png"), r"(?P<subject>(a+)+)$")


@pytest.mark.parametrize("pattern", ["(?P<subject>a{99999999999})", "(?P<subject>" + "(" * 999 + ")" * 1000, 5, ["a"]])
def test_what_is_no_pattern_is_refused(folder, pattern):
    with pytest.raises(ValueError, match="^subject_pattern(: expected a regular| must have a group named subject)"):
        find_images(folder("a.png"), pattern)


def test_a_group_that_matches_nothing_is_no_subject(folder):
    with pytest.raises(ValueError, match="a.png: subject_pattern .* does not match"):
        find_images(folder("a.png"), "(?P<subject>z)?a")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "expected JSON"),
        ('["s1"]', "expected an object of lists"),
        ('{"train": "s1"}', "expected an object of lists"),
        ('{"train": [1]}', "expected an object of lists of subjects, each a text"),
        ('{"train": [["s1"]]}', "expected an object of lists of subjects, each a text"),
        ('{"train": ["s1"], "train": ["s2"]}', "expected JSON, found a key twice in one object"),
    ],
)
def test_split_files_of_another_content(tmp_path, content, sentence):
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(ValueError, match=f"split.json: {sentence}"):
        split_subjects(ITEMS, tmp_path / "split.json", 0.1, seed=0)


def test_both_parts_of_a_random_split_hold_subjects():
    split = split_subjects(ITEMS[:2], None, 0.8, seed=0)
    assert [len(part) for part in split.values()] == [1, 1]
    with pytest.raises(ValueError, match="validation_share must be in"):
        split_subjects(ITEMS, None, 1.0, seed=0)


def test_runs_start_where_a_number_changes():
    numbers = np.random.default_rng(0).integers(0, 3, 50)
    expected = [i for i in range(50) if i == 0 or numbers[i] != numbers[i - 1]]
    assert starts_of_runs(numbers).tolist() == expected
    assert starts_of_runs(numbers[:0]).tolist() == []


def test_subjects_are_numbered_by_name_and_an_image_without_is_its_own():
    names, number = numbered_subjects(["b", "a", "b"], torch.zeros(3, 2), "reference")
    assert names.tolist() == ["a", "b"] and number.tolist() == [1, 0, 1]
    names, number = numbered_subjects([9, 10], torch.zeros(2, 2), "reference")  # numbers are names
    assert names.tolist() == ["10", "9"] and number.tolist() == [1, 0]
    names, number = numbered_subjects(None, torch.zeros(2, 2), "reference")
    assert names.tolist() == ["0", "1"] and number.tolist() == [0, 1]
    with pytest.raises(ValueError, match="reference must hold at least one image, got none"):
        numbered_subjects(None, torch.zeros(0, 2), "reference")
    with pytest.raises(ValueError, match="one subject id for each of the 2 images of reference, got 1"):
        numbered_subjects(["a"], torch.zeros(2, 2), "reference")


@pytest.mark.parametrize("places", [("site0", "site1"), ("train", "val")])
def test_a_folders_name_that_stands_in_several_places_is_a_question(tmp_path, places):
    for place in places:
        for person in ("patient_1", "patient_2"):
            (tmp_path / place / person).mkdir(parents=True)
            (tmp_path / place / person / f"{place}.png").touch()
    one, two = places
    with pytest.raises(
        ValueError, match=f"found {one}/patient_1 and {two}/patient_1, which may be one person"
    ) as error:
        find_images(tmp_path)
    assert len(find_images(tmp_path, warn=False)) == 4  # generated images, which are nobody's
    patterns = re.findall(r"'(\^[^']*)'", str(error.value))
    assert [len({item["subject_id"] for item in find_images(tmp_path, pattern)}) for pattern in patterns] == [2, 4]


def test_folders_of_digits_and_of_planes_are_no_people(tmp_path):
    for folder in ("0", "1", "2"):
        (tmp_path / folder).mkdir()
        for name in "ab":
            (tmp_path / folder / f"{name}{folder}.png").touch()
    assert len({item["subject_id"] for item in find_images(tmp_path)}) == 6
    assert depth_of_people(["z21/p0.png", "z22/p1.png"], "x") is None
    assert depth_of_people(["01/p0.png", "02/p1.png"], "x") == 0  # as numbered people are


def test_a_patient_id_for_some_is_an_error(tmp_path):
    write_series(tmp_path / "one")
    write_series(tmp_path / "two", PatientID="", SeriesInstanceUID="1.2.9")
    with pytest.raises(ValueError, match="expected a PatientID in every header, or in none, found none for 1 of 2"):
        find_images(tmp_path)
    assert len(find_images(tmp_path, "(?P<subject>one|two)")) == 2 == len(find_images(tmp_path, warn=False))
