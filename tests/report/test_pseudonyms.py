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
from dataclasses import replace
from pathlib import Path

import pytest
from scripts.bundle.files import read_table
from scripts.report.pseudonyms import Pseudonyms
from scripts.report.report import Report
from scripts.report.summary import Timing

NAMES = ("patient0", "secret", "/data")


@pytest.fixture
def conditioned(result):
    """The result where samples are named and grouped after the training image that they were conditioned on."""
    items = [item | {"image": f"/data/generated/{item['id']}"} for item in result.generated.items]
    items[0] |= {"id": "from_patient003_0.png", "group": "/data/train/patient003.png"}
    items[1] |= {"group": "xpatient008x"}
    items = [{"group": "model A"} | item for item in items]
    return replace(result, generated=replace(result.generated, items=items))


def texts(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.iterdir() if path.is_file())


@pytest.mark.parametrize("hidden", [True, False])
def test_no_output_names_a_real_scan(conditioned, tmp_path, hidden):
    (tmp_path / "patient000").mkdir()
    (tmp_path / "patient000" / "model.pt").write_bytes(b"weights")
    folder = tmp_path / "out"
    report = Report(
        folder,
        tmp_path / "patient000" / "model.pt",
        pseudonymize=hidden,
        group_column="group",
        key_dir=folder / "embeddings",
        settings={"train_dir": "/data/patient000", "exclude": "secret*", "fdr": 0.05},
    )
    text = report.write(conditioned, Timing(1.0, 0)).text + texts(folder)
    for name in NAMES:
        assert (name in text) is not hidden, f"{name}: {'must not be' if hidden else 'is expected'} in the outputs"
    assert "stranger" not in text, "no output names a holdout image"
    assert "sample002" in text and "model A" in text
    assert ("model.pt" in text) is not hidden
    assert (json.loads((folder / "report.json").read_text())["pseudonyms"] is not None) is hidden
    assert (folder / "embeddings" / "pseudonyms.key").exists() is hidden


def test_the_key_tells_who_is_who(conditioned, tmp_path):
    hidden = Pseudonyms(tmp_path).result(conditioned, "group")
    known = {row["pseudonym"]: row["name"] for row in read_table(tmp_path / "pseudonyms.csv")}
    assert [known[name] for name in hidden.subject_names] == conditioned.subject_names
    assert sorted(known[name] for name in hidden.leaked) == ["patient003", "patient008"]
    assert known[hidden.generated.items[0]["id"]] == "from_patient003_0.png"
    assert known[hidden.generated.items[1].get("group")] == "xpatient008x"
    assert (tmp_path / "pseudonyms.key").stat().st_mode & 0o077 == 0


def test_names_are_random_and_the_same_with_the_same_key(result, tmp_path):
    one, again = (Pseudonyms(tmp_path / "one").result(result).subject_names for _ in range(2))
    other, lost = (Pseudonyms(folder).result(result).subject_names for folder in (tmp_path / "other", None))
    assert one == again and not set(one) & set(other) and not set(one) & set(lost)
    assert one != sorted(one), "their order does not give the ids' order away"
    keys = [Pseudonyms(folder).key_id for folder in (tmp_path / "one", tmp_path / "one", tmp_path / "other")]
    assert keys[0] == keys[1] != keys[2]


def test_nothing_else_changes(result):
    hidden = Pseudonyms().result(result)
    assert len(set(hidden.subject_names)) == 20 and all(name.startswith("subject-") for name in hidden.subject_names)
    assert hidden.train.skipped == [("train-0000", "unreadable")]
    assert hidden.holdout.skipped == [("holdout-0000", "unreadable")]
    assert len(set(hidden.train.subject_ids)) == len(set(result.train.subject_ids))
    assert [item["id"] for item in hidden.generated.items] == [item["id"] for item in result.generated.items]
    assert hidden.decision is result.decision and hidden.train.images is result.train.images
    assert result.train.items[0]["id"] == "patient000", "the result itself keeps its names"


def test_a_number_that_counts_files_is_no_name(result):
    train = replace(result.train, items=[i | {"id": f"{n:04d}.png"} for n, i in enumerate(result.train.items)])
    samples = [i | {"id": f"{n:04d}.png"} for n, i in enumerate(result.generated.items)]
    hidden = Pseudonyms().result(replace(result, train=train, generated=replace(result.generated, items=samples)))
    assert [item["id"] for item in hidden.generated.items] == [item["id"] for item in samples]


def test_a_merged_subject_has_one_name(result):
    names = ["patient000+patient001", *result.subject_names[2:]]
    number = (result.train_subject - 1).clip(0)
    merged = replace(result, subject_names=names, train_subject=number, merged=[["patient000", "patient001"]])
    hidden = Pseudonyms().result(merged)
    first = hidden.subject_names[0]
    assert hidden.merged == [[first]]
    own = [item["id"].split("/")[0] for item in hidden.train.items[:3]]
    assert own == [first, first, hidden.subject_names[1]]


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("KOWALCZYK-SCAN_Z08.png", True),  # another case
        ("mu\u0308llerstro\u0308m-scan_z08.png", True),  # letters and their dots apart, as macOS writes them
        ("kowalczyk_scan_z08.png", True),  # another separator
        ("gen_Kowalczyk_0.png", True),  # a word of the name that nobody else's has
        ("kowalczykscan.png", True),
        ("scan_z08_7.png", False),  # words that many names have
        ("sample_000012.png", False),
    ],
)
def test_a_name_is_found_however_it_is_spelt(result, name, hidden):
    names = ["Kowalczyk-scan_z08", "Müllerström-scan_z08", "Quixley-scan_z08"]
    items = [
        item | {"id": f"{names[n % 3]}.png", "subject_id": names[n % 3], "image": f"/d/{names[n % 3]}.png"}
        for n, item in enumerate(result.train.items)
    ]
    samples = [item | {"id": name if n == 0 else item["id"]} for n, item in enumerate(result.generated.items)]
    found = Pseudonyms().result(
        replace(
            result,
            train=replace(result.train, items=items),
            generated=replace(result.generated, items=samples),
            holdout=None,
        )
    )
    assert (found.generated.items[0]["id"] != name) is hidden


def test_a_damaged_key_is_refused(tmp_path):
    (tmp_path / "pseudonyms.key").write_text("abc")
    with pytest.raises(ValueError, match=r"pseudonyms.key: expected a key of 64 hexadecimal digits"):
        Pseudonyms(tmp_path)


@pytest.mark.parametrize("content", [b"\xff" * 64, b"0" * 63, b"A" * 64])
def test_a_key_of_other_letters_is_refused(tmp_path, content):
    (tmp_path / "pseudonyms.key").write_bytes(content)
    with pytest.raises(ValueError, match="expected a key of 64 hexadecimal digits"):
        Pseudonyms(tmp_path)


def test_whoever_stands_in_both_sets_has_the_names_of_both(result):
    shared = replace(result, shared_people=[("stranger004", "patient002")])
    hidden = Pseudonyms().result(shared)
    held = hidden.holdout.items[4]["id"].split("/")[0]
    assert hidden.shared_people == [(held, hidden.subject_names[2])]


def test_the_table_says_what_kind_of_name_each_was(conditioned, tmp_path):
    Pseudonyms(tmp_path).result(conditioned, "group")
    rows = read_table(tmp_path / "pseudonyms.csv")
    assert {row["kind"] for row in rows} == {"subject", "holdout", "image", "id", "generated", "group"}
    assert all(row["pseudonym"].startswith(f"{row['kind']}-") for row in rows)


def test_a_skipped_sample_keeps_its_name_unless_it_holds_a_real_one(result):
    skipped = [("sample9.png", "sample9.png is flat"), ("of_patient003.png", "of_patient003.png is flat")]
    hidden = Pseudonyms().result(replace(result, generated=replace(result.generated, skipped=skipped)))
    (kept, reason), (changed, other) = hidden.generated.skipped
    assert kept == "sample9.png" and changed.startswith("generated-") and reason == other == "unreadable"


def test_names_of_other_columns_are_found_too(result):
    items = [{**result.train.items[0], "participant_id": "Kova-lenko"}, *result.train.items[1:]]
    samples = [{**result.generated.items[0], "id": "of_kovalenko_3.png"}, *result.generated.items[1:]]
    found = Pseudonyms().result(
        replace(result, train=replace(result.train, items=items), generated=replace(result.generated, items=samples))
    )
    assert found.generated.items[0]["id"].startswith("generated-")


@pytest.mark.parametrize(("name", "hidden"), [("gen_kim_0.png", True), ("kimono.png", False)])
def test_a_short_name_is_found_as_a_word_and_not_within_one(result, name, hidden):
    items = [{**result.train.items[0], "id": "kim.png", "image": "/d/kim.png"}, *result.train.items[1:]]
    samples = [{**result.generated.items[0], "id": name}, *result.generated.items[1:]]
    found = Pseudonyms().result(
        replace(result, train=replace(result.train, items=items), generated=replace(result.generated, items=samples))
    )
    assert (found.generated.items[0]["id"] != name) is hidden


@pytest.mark.parametrize(("patient", "sample"), [("Łukasz Żak", "lukasz_zak 3"), ("Søren Ågård", "soren-agard")])
def test_a_name_without_its_accents_is_the_same_name(conditioned, tmp_path, patient, sample):
    train = conditioned.train
    items = [{**train.items[0], "subject_id": patient, "id": f"{patient}.png"}, *train.items[1:]]
    generated = conditioned.generated
    named = [*generated.items[:-1], {**generated.items[-1], "id": f"{sample}.png"}]
    result = replace(conditioned, train=replace(train, items=items), generated=replace(generated, items=named))
    hidden = Pseudonyms(tmp_path).result(result, "group")
    assert sample not in hidden.generated.items[-1]["id"]
