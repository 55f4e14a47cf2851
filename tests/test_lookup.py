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

"""One volume at a time: which training subject it copies, as an audit of it says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from heads import FIELD, copy, head, write_heads
from helpers import write_pictures
from image_files import write_series
from scipy.ndimage import gaussian_filter
from scripts import Audit, Lookup, Tier
from scripts.bundle.errors import causes
from scripts.images.items import Item

PEOPLE = 7
PLANAR = {"volumes": "slices", "level": "0.2"}  # of so few people no p-value is small


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Volumes of seven people; a copy of one, another person, and one who is nothing but noise."""
    folder = tmp_path_factory.mktemp("lookup")
    write_heads(folder / "train", {f"sub-{seed:02d}": head(seed) for seed in range(PEOPLE)})
    noise = gaussian_filter(np.random.default_rng(0).uniform(0, 1, FIELD), 1.5).astype(np.float32)
    volumes = {"copied": copy(head(3), 3), "new": copy(head(100), 5), "noise": noise - noise.min()}
    write_heads(folder / "studies", volumes)
    return folder


@pytest.fixture(scope="module")
def lookup(folder) -> Lookup:
    return Lookup.of({"train_dir": str(folder / "train"), "cache_dir": str(folder / "cache")})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> tuple[list[Item], Lookup]:
    """Pictures of seven people, the training set, and of one more."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "train").mkdir()
    items = [*write_pictures(folder / "train", *range(7)), *write_pictures(folder, 7)]
    return items, Lookup.of({"train_dir": str(folder / "train")} | PLANAR)


def test_a_copy_is_told_with_its_source_its_evidence_and_the_caution(lookup, folder):
    answer = lookup(folder / "studies" / "copied.nii.gz")
    assert (answer.verdict, answer.subject, answer.image) == ("copy", "sub-03", "sub-03.nii.gz")
    assert answer.aligned_ssim > 0.9 and answer.p_value <= 0.01 == answer.level
    assert answer.text.startswith(f"Looks like a copy of sub-03 (aligned SSIM {answer.aligned_ssim:.3f}, p = ")
    assert "One image has no set-level error rate" in answer.caution and "1 in 100 are called too" in answer.caution
    assert json.loads(json.dumps(answer.as_dict(), allow_nan=False))["verdict"] == "copy"


def test_another_person_is_no_copy_and_the_answer_says_what_would_have_been_found(lookup, folder):
    answer = lookup(folder / "studies" / "new.nii.gz")
    assert answer.verdict == "none" and answer.p_value > 0.01 and answer.as_dict()["detail"] is None
    assert answer.text.endswith(
        f"Of {PEOPLE} degraded copies of training images {answer.recall:.0%} would have been called."
    )


def test_what_is_no_head_is_inconclusive(lookup, folder):
    answer = lookup(folder / "studies" / "noise.nii.gz")
    assert answer.verdict == "inconclusive" and answer.text.startswith("Cannot tell; nearest is ")
    assert "The image does not resemble the training images" in answer.text and "would have been" not in answer.text


def test_the_numbers_are_those_of_an_audit_of_these_images(pictures):
    """The p-value of an image does not depend on the others; the audit has a control of its own."""
    items, lookup = pictures
    answers, own = [lookup(item["image"]) for item in items[5:]], lookup.audit
    data = own.embedder.embed_files(items[5:])
    audit = Audit(own.embedder, own.verifier, own.control, own.k, own.criteria, null_transform="none", control_images=1)
    result = audit(lookup.train, data)
    assert [answer.tier for answer in answers] == result.tier == [Tier.COPY, Tier.COPY, Tier.NONE]
    assert [answer.p_value for answer in answers] == result.p_value.tolist()
    assert [answer.subject for answer in answers] == [result.subject_names[result.match(n).subject] for n in range(3)]
    np.testing.assert_allclose([answer.aligned_ssim for answer in answers], result.found.best_ssim, atol=1e-6)
    np.testing.assert_allclose([answer.detail for answer in answers], result.detail, atol=1e-6)  # NaN is NaN


def test_nothing_is_kept_of_what_is_looked_up_and_the_training_set_is_embedded_once(lookup, folder):
    before = sorted(path.stat().st_size for path in (folder / "cache").rglob("*.*") if path.is_file())
    lookup(folder / "studies" / "new.nii.gz")
    assert before and before == sorted(p.stat().st_size for p in (folder / "cache").rglob("*.*") if p.is_file())
    embedder = lookup.audit.embedder
    computed = embedder.computed
    assert len(embedder.embed_files(lookup.train.items)) == PEOPLE and embedder.computed == computed


def test_one_person_under_two_ids_hides_no_copy(pictures, tmp_path):
    items, _ = pictures
    for item in items[:7]:
        shutil.copy(item["image"], tmp_path)
    shutil.copy(items[3]["image"], tmp_path / "9.png")
    answer = Lookup.of({"train_dir": str(tmp_path)} | PLANAR)(items[3]["image"])
    assert (answer.verdict, answer.subject) == ("copy", "3+9")


def test_five_subjects_are_too_few_for_any_answer(pictures, tmp_path):
    items, _ = pictures
    for item in items[:5]:
        shutil.copy(item["image"], tmp_path)
    answer = Lookup.of({"train_dir": str(tmp_path)} | PLANAR)(items[3]["image"])
    assert (answer.verdict, answer.tier) == ("inconclusive", Tier.NONE)
    assert answer.doubts == ["There are 5 training subjects, and at least 6 are needed."]


@pytest.mark.slow
def test_volumes_can_be_cut_into_slices_and_are_one_image_for_all_that(folder):
    lookup = Lookup.of({"train_dir": str(folder / "train")} | PLANAR)
    answer = lookup(folder / "studies" / "copied.nii.gz")
    assert lookup.volumes and (answer.verdict, answer.subject) in (("copy", "sub-03"), ("likeness", "sub-03"))


def test_a_name_is_no_instruction(lookup, folder, tmp_path):
    path = tmp_path / "$exit()#0 a;b.nii.gz"
    shutil.copy(folder / "studies" / "copied.nii.gz", path)
    assert lookup(path).subject == "sub-03"


def test_a_volume_among_planar_images_is_refused(folder, pictures):
    with pytest.raises(ValueError, match=r"new.nii.gz: expected one of planar images, .* found one of volumes"):
        pictures[1](folder / "studies" / "new.nii.gz")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("", "no path: expected a file, found none"),
        ("none.nii.gz", "none.nii.gz: expected a file, found none"),
        ("text.nii.gz", r"text.nii.gz: cannot be looked up \(.*\); choose another image"),
        ("text.pkl", r"text.pkl: cannot be looked up \(expected a file that ends in"),
        ("plane.npy", "plane.npy: cannot be looked up "),
        ("empty", "empty: expected the files of one DICOM series, found 0 series"),
        ("two", "two: expected the files of one DICOM series, found 2 series"),
    ],
)
def test_what_cannot_be_looked_up_is_one_sentence(lookup, tmp_path, name, sentence):
    (tmp_path / "text.nii.gz").write_text("no image")
    (tmp_path / "text.pkl").write_text("no image")
    (tmp_path / "empty" / "below").mkdir(parents=True)
    np.save(tmp_path / "plane.npy", head(0)[:, :, 20])
    write_series(tmp_path / "two")
    write_series(tmp_path / "two", start=100, SeriesInstanceUID="1.2.4")
    with pytest.raises((ValueError, OSError), match=sentence):
        lookup(tmp_path / name if name else "")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "train_dir: expected the folder of the training images, found none"),
        ({"trian_dir": "x"}, "trian_dir: expected one of train_dir, subject_pattern"),
        ({"train_dir": "no_such_folder"}, "no_such_folder: expected an existing folder"),
        ({"level": "5"}, "level: expected a number between 0 and 1, found '5'"),
        ({"level": "low"}, "level: expected a number between 0 and 1, found 'low'"),
        ({"volumes": "all"}, "volumes: expected one of whole, slices, got 'all'"),
        ({"checkpoint": "$exit()"}, r"\$exit\(\): "),
    ],
)
def test_a_wrong_key_is_one_sentence_and_no_text_is_evaluated(folder, keys, words):
    given = keys if set(keys) & {"train_dir", "trian_dir"} or not keys else {"train_dir": str(folder / "train"), **keys}
    with pytest.raises((ValueError, OSError, RuntimeError)) as error:
        Lookup.of(given)
    assert any(re.search(words, str(cause)) for cause in causes(error.value))
