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

import os
import tempfile
from pathlib import Path

import pytest
from scripts.bundle.files import keep_private, narrowed, no_wider_than, read_table, replacing, write_table


def test_file_takes_its_name_when_it_is_whole(tmp_path):
    target = tmp_path / "new" / "image.nii.gz"
    with replacing(target) as path:
        path.write_text("half")
        assert not target.exists() and path.name.startswith(".") and path.name.endswith(".nii.gz")
    assert target.read_text() == "half" and list(target.parent.iterdir()) == [target]


def fill_the_disk(path):
    path.write_text("new, but not all of i")
    raise OSError(28, "No space left on device")


def test_an_error_leaves_what_was_there(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(OSError, match="No space left"), replacing(target) as path:
        fill_the_disk(path)
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "table.csv"):
        pass


def test_a_table_is_read_as_it_was_written(tmp_path):
    write_table(tmp_path / "new" / "table.csv", [{"a": 1, "b": 'x, "y"'}, {"a": 2, "c": 0.5}])
    assert read_table(tmp_path / "new" / "table.csv") == [
        {"a": "1", "b": 'x, "y"', "c": ""},
        {"a": "2", "b": "", "c": "0.5"},
    ]


@pytest.fixture
def open_folder():
    """One that everybody may enter, as pytest's are not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def umask():
    """The usual mask, and this process's own one afterwards."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path) -> str:
    return oct(path.stat().st_mode & 0o777)


@pytest.mark.parametrize(
    ("inputs", "file", "folder"),
    [
        ([0o644], "0o644", "0o755"),
        ([0o600], "0o600", "0o700"),
        ([0o640, 0o644], "0o640", "0o750"),
        ([0o640, 0o604], "0o600", "0o700"),  # each lacks what the other has
        ([0o444], "0o644", "0o755"),
        ([], "0o644", "0o755"),
    ],
)
def test_what_is_written_has_no_permission_that_an_input_lacks(open_folder, umask, inputs, file, folder):
    tmp_path = open_folder
    for number, permissions in enumerate(inputs):
        (tmp_path / str(number)).touch()
        (tmp_path / str(number)).chmod(permissions)
    with no_wider_than(tmp_path / str(number) for number in range(len(inputs))):
        (tmp_path / "new").touch()
        (tmp_path / "folder").mkdir()
    assert (mode(tmp_path / "new"), mode(tmp_path / "folder")) == (file, folder)
    (tmp_path / "after").touch()
    assert mode(tmp_path / "after") == "0o644"


def test_a_folder_that_keeps_others_out_counts_as_its_files_do(open_folder, umask):
    (open_folder / "home" / "images").mkdir(parents=True)
    image = open_folder / "home" / "images" / "a.png"
    image.touch(0o644)
    (open_folder / "linked.png").symlink_to(image)
    for permissions, file in ((0o755, "0o644"), (0o750, "0o640"), (0o700, "0o600"), (0o711, "0o644")):
        (open_folder / "home").chmod(permissions)
        for path in (image, open_folder / "linked.png"):
            with no_wider_than([path]):
                (open_folder / "new").touch()
            assert mode(open_folder / "new") == file, oct(permissions)
            (open_folder / "new").unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to another group")
def test_another_group_than_the_inputs_may_not_read(open_folder, umask):
    for permissions, file in ((0o640, "0o600"), (0o644, "0o644"), (0o604, "0o604")):
        image = open_folder / "a.png"
        image.touch()
        image.chmod(permissions)
        os.chown(image, -1, os.getegid() + 1)
        with no_wider_than([image]):
            (open_folder / "new").touch()
        assert mode(open_folder / "new") == file, oct(permissions)
        (open_folder / "new").unlink()


def test_an_older_file_is_narrowed_to_what_a_new_one_would_be(open_folder, umask):
    tmp_path = open_folder
    for name, permissions in (("input", 0o640), ("wide", 0o664), ("narrow", 0o600)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(permissions)
    keep_private([tmp_path / "input"])
    narrowed(tmp_path / "wide")
    narrowed(tmp_path / "narrow")
    assert (mode(tmp_path / "wide"), mode(tmp_path / "narrow")) == ("0o640", "0o600")


def test_an_input_that_is_gone_is_an_error(tmp_path, umask):
    with pytest.raises(FileNotFoundError), no_wider_than([tmp_path / "gone"]):
        pass


def test_of_a_part_of_a_file_the_file_counts(tmp_path):
    (tmp_path / "a#b.tar").touch(0o600)
    previous = keep_private([tmp_path / "a#b.tar#scans/1#2.png", tmp_path / "a#b.tar"])
    try:
        (tmp_path / "out").touch()
    finally:
        os.umask(previous)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileNotFoundError):
        keep_private([tmp_path / "missing.tar#1"])
