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
from pathlib import Path

import pytest

from scripts.images.datalists import IMAGE_SUFFIXES, find_images
from scripts.images.subjects import split_subjects, with_and_without_mask


@pytest.fixture
def folder(tmp_path):
    """Makes files of the given names, which nobody opens, and returns their folder."""

    def make(*names: str) -> Path:
        for path in (tmp_path / name for name in names):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return make


def subjects(items) -> dict[str, str]:
    return {item["id"]: item["subject_id"] for item in items}


def test_folder_is_searched_recursively_for_every_image_kind_in_id_order(folder):
    names = [f"d{i % 3}/deep/{i}{suffix}" for i, suffix in enumerate(IMAGE_SUFFIXES)] + ["UPPER.PNG", "one two.jpg"]
    root = folder(*names, "notes.txt", "d0/.hidden.png", "d0/._1.png", "list.csv", "archive.nii.zip")
    (root / "folder.png").mkdir()
    items = find_images(root)
    assert [item["id"] for item in items] == sorted(names)
    assert [Path(item["image"]) for item in items] == [root.resolve() / name for name in sorted(names)]


@pytest.mark.parametrize("suffix", [".json", ".csv", ".tsv", ".JSON"])
def test_datalists_of_every_kind_give_the_same_items(folder, suffix):
    root = folder("lists/here.txt", "a.png", "b.nii.gz", "m/b.nii.gz")
    rows = [
        {"image": "../b.nii.gz", "subject_id": "007", "mask": "../m/b.nii.gz", "group": "x"},
        {"image": "../a.png", "subject_id": "8", "mask": "", "group": ""},
    ]
    path = root / "lists" / f"data{suffix}"
    if suffix.lower() == ".json":
        path.write_text(json.dumps(rows))
    else:
        delimiter = "\t" if suffix == ".tsv" else ","
        path.write_text("\n".join(delimiter.join(row) for row in [rows[0].keys(), *(row.values() for row in rows)]))
    image, mask = (str(root.resolve() / name) for name in ("b.nii.gz", "m/b.nii.gz"))
    assert find_images(path) == [
        {"image": str(root.resolve() / "a.png"), "id": "../a.png", "subject_id": "8"},
        {"image": image, "mask": mask, "id": "../b.nii.gz", "subject_id": "007", "group": "x"},
    ]


def test_datalists_of_monai_and_bids_are_read(folder):
    root = folder("a.png", "b.png")
    image = str(root.resolve() / "a.png")
    decathlon = {"name": "x", "training": [{"image": "./a.png", "subject_id": 5}], "test": [{"image": "b.png"}]}
    (root / "decathlon.json").write_text(json.dumps(decathlon))
    assert find_images(root / "decathlon.json") == [{"image": image, "id": "a.png", "subject_id": "5"}]
    (root / "single.json").write_text(json.dumps({"any": [{"image": image, "image_meta": 1, "level": 20}]}))
    # an absolute path stays; a key image_* would break MONAI's transforms and goes
    assert find_images(root / "single.json") == [{"image": image, "id": image, "subject_id": "a", "level": 20}]
    (root / "participants.tsv").write_text("image\tparticipant_id\na.png\tsub-1\n")
    assert subjects(find_images(root / "participants.tsv")) == {"a.png": "sub-1"}


def test_subjects_come_from_the_column_then_bids_then_ixi_then_the_stem(folder, caplog):
    bids, ixi = "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz", "guys/IXI002-Guys-0828-T1.nii.gz"
    root = folder(bids, ixi, "x/scan.v2.nii.gz", "x/scan.v2.png", "IXI12.png")
    expected = {bids: "sub-01", ixi: "IXI002", "x/scan.v2.nii.gz": "scan.v2", "x/scan.v2.png": "scan.v2"}
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


@pytest.mark.parametrize(
    ("include", "exclude", "kept"),
    [
        ("*.png", None, ["a.png", "d/b.png"]),
        (["a*", "*.nii"], None, ["a.png", "d/c.nii"]),
        ("*.png", ["a.png", "nothing"], ["d/b.png"]),
        ([], [], ["a.png", "d/b.png", "d/c.nii"]),
    ],
)
def test_globs_select_by_relative_path(folder, include, exclude, kept):
    root = folder("a.png", "d/b.png", "d/c.nii")
    assert [item["id"] for item in find_images(root, include=include, exclude=exclude, warn=False)] == kept
    with pytest.raises(ValueError, match="found 3, of which include and exclude keep none; check"):
        find_images(root, include=include, exclude=["*.png", "*.nii"])


@pytest.mark.parametrize(
    ("name", "content", "error", "sentence"),
    [
        ("absent", None, FileNotFoundError, "absent: expected an existing folder.*found nothing"),
        ("a.png", None, FileNotFoundError, "a.png: expected an existing folder.*found another file"),
        ("l.csv", "image\nno.png\n", FileNotFoundError, "no.png: expected a file.*lists it under 'image'"),
        ("l.csv", "image,mask\na.png,no.nii\n", FileNotFoundError, "no.nii: expected a file.*under 'mask'"),
        (
            "l.csv",
            "file\na.png\n",
            ValueError,
            r"l.csv: expected a column 'image' with a path, found none in row 1 \(columns file",
        ),
        ("l.csv", "image,mask\na.png,\n,x\n", ValueError, "'image' with a path, found none in row 2"),
        ("l.csv", "image\na.png\n./a.png\n", ValueError, "l.csv: expected every image once, found a.png more than"),
        ("l.csv", "image\n", ValueError, "l.csv: expected images .* found 0, of which"),
        ("l.json", '{"a": [], "b": []}', ValueError, "l.json: expected a list of objects with a key 'image'"),
        ("l.json", '["a.png"]', ValueError, "l.json: expected a list of objects with a key 'image'"),
    ],
)
def test_errors_name_the_file(folder, name, content, error, sentence):
    root = folder("a.png")
    if content is not None:
        (root / name).write_text(content)
    with pytest.raises(error, match=sentence):
        find_images(root / name)


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


@pytest.mark.parametrize(("name", "content"), [("list.json", b"[{"), ("list.csv", b"image\n\xff\xfe.png\n")])
def test_a_datalist_that_cannot_be_parsed_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: expected a datalist in UTF-8"):
        find_images(tmp_path / name)


def test_links_to_folders_are_followed_and_circles_are_errors(folder, tmp_path_factory):
    root, elsewhere = folder("a/1.png"), tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "2.png").touch()
    (root / "b").symlink_to(elsewhere)
    assert [item["id"] for item in find_images(root)] == ["a/1.png", "b/2.png"]
    (elsewhere / "back").symlink_to(root)
    with pytest.raises(ValueError, match="back: expected a folder, found a link to one that it stands in"):
        find_images(root)


def test_a_link_keeps_its_own_name(folder):
    """Stores by content name files by their hash, without a suffix that a reader would know."""
    root = folder("blobs/0123abcd")
    (root / "images").mkdir()
    (root / "images" / "x.nii.gz").symlink_to(root / "blobs" / "0123abcd")
    assert find_images(root / "images")[0]["image"].endswith("images/x.nii.gz")


def test_files_that_are_no_images_are_said(folder, caplog):
    find_images(folder("1.png", "1.dcm", "2.dcm", "notes"), warn=False)
    assert "passed over 3 files that are no images: 2 .dcm, 1 no suffix" in caplog.text


def test_spaces_around_cells_do_not_count(folder):
    root = folder("a.png", "b.png")
    (root / "l.csv").write_text("image, subject_id\na.png, s1\n\nb.png , s2\n")
    assert subjects(find_images(root / "l.csv")) == {"a.png": "s1", "b.png": "s2"}


def test_a_group_that_matches_nothing_is_no_subject(folder):
    with pytest.raises(ValueError, match="a.png: subject_pattern .* does not match"):
        find_images(folder("a.png"), "(?P<subject>z)?a")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "expected JSON"),
        ('["s1"]', "expected an object of lists"),
        ('{"train": "s1"}', "expected an object of lists"),
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
