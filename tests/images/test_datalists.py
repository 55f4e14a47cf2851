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
from scripts.images.datalists import find_images
from scripts.images.readers import image_suffixes


def subjects(items) -> dict[str, str]:
    return {item["id"]: item["subject_id"] for item in items}


def test_folder_is_searched_recursively_for_every_image_kind_in_id_order(folder):
    names = [f"d{i % 3}/deep/{i}{suffix}" for i, suffix in enumerate(image_suffixes())] + ["UPPER.PNG", "one two.jpg"]
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
    (root / "both.tsv").write_text("image\tparticipant_id\tsubject_id\na.png\tsub-1\tP1\n")
    assert subjects(find_images(root / "both.tsv")) == {"a.png": "P1"}, "subject_id wins"


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
        ("l.csv", "image\nno.png\n", FileNotFoundError, "no.png: expected a file, as .*l.csv lists it under 'image'"),
        ("l.csv", "image,mask\na.png,no.nii\n", FileNotFoundError, "no.nii: expected a file.*under 'mask'"),
        (
            "l.csv",
            "file\na.png\n",
            ValueError,
            r"l.csv: expected a column 'image' with a path, found none in row 1 \(columns file",
        ),
        ("l.csv", "image,mask\na.png,\n,x\n", ValueError, "'image' with a path, found none in row 2"),
        ("l.csv", "image\na.png\n./a.png\n", ValueError, "l.csv: expected every image once, found a.png more than"),
        ("l.csv", "image\n", ValueError, "l.csv: expected a list with a row for each image, found no rows; add them"),
        ("l.csv", "image,a,a\na.png,1,2\n", ValueError, "l.csv: expected every column once, found image, a, a"),
        (
            "l.json",
            '{"a": [], "b": []}',
            ValueError,
            "l.json: expected a list 'training', found a, b; name one of them",
        ),
        ("l.json", '["a.png", 3]', ValueError, "l.json: expected a list of objects with a key 'image'"),
    ],
)
def test_errors_name_the_file(folder, name, content, error, sentence):
    root = folder("a.png")
    if content is not None:
        (root / name).write_text(content)
    with pytest.raises(error, match=sentence):
        find_images(root / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [("list.json", b"[{"), ("list.csv", b"image\n\xff\xfe.png\n"), ("list.csv", b'image\n"a"b.png\n')],
)
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
    find_images(folder("1.png", "1.doc", "2.doc", "notes"), warn=False)
    assert "passed over 3 files that are no images: 2 .doc, 1 no suffix" in caplog.text


def test_spaces_around_cells_do_not_count(folder):
    root = folder("a.png", "b.png")
    (root / "l.csv").write_text("image, subject_id\na.png, s1\n\nb.png , s2\n")
    assert subjects(find_images(root / "l.csv")) == {"a.png": "s1", "b.png": "s2"}


def test_of_other_files_the_five_most_frequent_kinds_are_said(folder, caplog):
    names = [f"{number}.{suffix}" for suffix, count in zip("abcdef", range(6, 0, -1)) for number in range(count)]
    find_images(folder("1.png", *names), warn=False)
    assert "passed over 21 files that are no images: 6 .a, 5 .b, 4 .c, 3 .d, 2 .e" in caplog.text
    assert ".f" not in caplog.text


def test_a_link_to_nothing_is_an_error_where_an_image_is_meant(folder):
    root = folder("a.png")
    (root / "notes.txt").symlink_to(root / "gone")
    assert [item["id"] for item in find_images(root)] == ["a.png"]
    (root / "b.nii.gz").symlink_to(root / "gone")
    with pytest.raises(ValueError, match="b.nii.gz: expected an image, found a link to nothing; fetch the file"):
        find_images(root)


def test_a_line_break_within_a_cell_stays_as_it_is(folder):
    root = folder("a.png")
    (root / "l.csv").write_bytes(b'image,group\r\na.png,"one\r\ntwo"\r\n')
    assert find_images(root / "l.csv")[0]["group"] == "one\r\ntwo"


@pytest.mark.parametrize("level", ["x", "inf", "-1e999", "12 mm", [1], True, {}])
def test_a_level_is_a_number(folder, level):
    path = folder("a.png") / "l.json"
    path.write_text(json.dumps([{"image": "a.png", "level": level}]))
    with pytest.raises(ValueError, match="l.json: expected a level in mm, found .* for a.png; correct it or leave it"):
        find_images(path)
    for right in ("12.5", 12, -3.5, "nan"):  # NaN: unknown
        path.write_text(json.dumps([{"image": "a.png", "level": right}]))
        assert find_images(path)[0]["level"] == right


@pytest.mark.parametrize("globs", [5, [1], [None], {"a": 1}, b"*"])
def test_globs_are_texts(folder, globs):
    for key in ("include", "exclude"):
        with pytest.raises(ValueError, match=f"^{key}: expected a glob or a list of globs, found "):
            find_images(folder("a.png"), **{key: globs})


def test_a_name_that_no_file_can_have_is_a_missing_file(folder):
    path = folder("a.png") / "l.json"
    for name in ("x" * 300 + ".png", "a\0.png"):
        path.write_text(json.dumps([{"image": name}]))
        with pytest.raises(FileNotFoundError, match="expected a file, as .*l.json lists it under 'image', found none"):
            find_images(path)


def test_a_list_cannot_tell_the_audit_what_to_correct(folder):
    path = folder("a.png") / "l.csv"
    path.write_text("image,correction\na.png,inverted\n")
    assert "correction" not in find_images(path)[0]
