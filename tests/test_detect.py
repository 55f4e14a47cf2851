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

"""Where the images of an audit are; the whole job is run in test_front_door.py and test_configs.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts import AuditData


def pictures(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_real_images_have_subjects_and_generated_ones_are_not_matched_against_the_pattern(tmp_path):
    train = pictures(tmp_path / "train", "P1_a.png", "P2_a.png")
    generated = pictures(tmp_path / "generated", "0.png")
    found = AuditData(train, generated, subject_pattern="(?P<subject>P[0-9])").items()
    assert list(found) == ["train", "generated"]
    assert [item["subject_id"] for item in found["train"]] == ["P1", "P2"]
    assert [item["id"] for item in found["generated"]] == ["0.png"]


def test_globs_hold_for_all_sets(tmp_path):
    folders = [pictures(tmp_path / name, f"{name}.png", "mask.png") for name in ("a", "b", "c")]
    found = AuditData(*folders, exclude="mask*").items()
    assert {name: [item["id"] for item in items] for name, items in found.items()} == {
        "train": ["a.png"],
        "generated": ["b.png"],
        "holdout": ["c.png"],
    }


def test_a_file_in_two_sets_or_a_subject_on_both_sides_is_an_error(tmp_path):
    both = pictures(tmp_path / "both", "P1.png", "P2.png")
    with pytest.raises(
        ValueError, match=r"expected a training or a generated image, found it \(2 such\) in train_dir and"
    ):
        AuditData(both, both).items()
    listed = tmp_path / "one.csv"
    listed.write_text("image\nboth/P1.png\n")
    with pytest.raises(ValueError, match="name the list's sections by train_section and generated_section"):
        AuditData(listed, listed).items()
    holdout = pictures(tmp_path / "holdout", "P2.png", "P3.png")
    generated = pictures(tmp_path / "generated", "0.png")
    with pytest.raises(
        ValueError, match="expected subjects that the generator never saw, found 1 of .*such as P2; take"
    ):
        AuditData(both, generated, holdout).items()
