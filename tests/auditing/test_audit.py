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
"""Audits of small synthetic sets: what must be called, what must not, and what is degenerate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from audits import Pooled, audit, embedded, images_of
from scripts.auditing.result import Verdict
from scripts.bundle.shares import Share
from scripts.decision.criteria import Criteria
from scripts.decision.labels import Label
from scripts.decision.statistic import LocalStatistic
from scripts.embedder.embedding_set import EmbeddingSet
from scripts.similarity.verification import Verifier


@pytest.fixture(scope="module")
def train() -> EmbeddingSet:
    return embedded(images_of(40, seed=0))


def test_generated_identical_to_train_is_called_whole(train):
    result = audit()(train, train)
    assert result.memorized.all() and result.leaked == result.subject_names
    assert {*result.label} == {Label.DUPLICATE}
    assert result.control.recall == 1 and result.set_level.auc > 0.99
    assert (result.found.nearest == np.arange(40)).all()


@pytest.mark.slow
def test_generated_identical_to_holdout_is_hardly_ever_called():
    """Every generated image is one of the null's own: at most 5 % of such audits have any call."""
    runs = 0
    for seed in range(12):
        holdout = embedded(images_of(25, seed=100 + seed), "h")
        result = audit(seed=seed)(embedded(images_of(30, seed=200 + seed)), holdout, holdout)
        assert result.calibration.null == "holdout" and result.calibration.correction == 1
        runs += bool(result.memorized.any())
    assert runs <= 3  # of 12 at 0.05: more has a probability of 0.2 %


def test_copies_among_new_images_are_called_by_both_nulls(train):
    generated = np.concatenate([train.images[[3, 8, 21]], images_of(20, seed=5)])
    holdout = embedded(images_of(40, seed=6), "h")
    result = audit()(train, embedded(generated, "g"), holdout)
    assert result.memorized.tolist() == [True] * 3 + [False] * 20
    assert result.leaked == ["s003", "s008", "s021"]
    other = result.calibration.leave_one_out
    assert other is not None and other.calls == 3 and other.agrees
    alone = audit()(train, embedded(generated, "g"))
    assert alone.calibration.leave_one_out is None and alone.memorized.tolist() == result.memorized.tolist()


def of_kinds(images: np.ndarray) -> np.ndarray:
    """The images under a ramp of brightness, every second one's across the others'."""
    ramps = np.mgrid[tuple(slice(0, 1, n * 1j) for n in images.shape[1:])].astype(np.float32)
    return (0.6 * images + 0.8 * ramps[np.arange(len(images)) % 2]).clip(0, 1)


def test_images_of_a_training_set_of_two_kinds_are_judged_by_their_own(train):
    two = embedded(of_kinds(images_of(40, seed=0)))
    generated = np.concatenate([two.images[[3, 8, 21]], of_kinds(images_of(20, seed=5))])
    result = audit()(two, embedded(generated, "g"))
    assert result.calibration.kinds == [0.5, 0.5] and result.calibration.n == 20
    assert result.memorized.tolist() == [True] * 3 + [False] * 20
    of_one = audit()(two, embedded(generated[[1, 4, 6, 8]], "g"), embedded(of_kinds(images_of(30, seed=6)), "h"))
    assert of_one.calibration.null == "holdout" and of_one.calibration.n == 15
    assert audit()(train, train).calibration.kinds == []
    lacking = audit()(two, embedded(generated, "g"), embedded(of_kinds(images_of(30, seed=6))[::2], "h"))
    assert lacking.calibration.null == "holdout" and lacking.calibration.n == 0
    assert lacking.memorized.tolist() == [False, True, False] + [False] * 20  # the second is of the kind that it has
    assert any("of one of them the null has 0 subjects" in doubt for doubt in lacking.doubts)


def test_a_holdout_of_few_subjects_is_refused(train):
    with pytest.raises(ValueError, match="holdout: expected images of at least 6 subjects, found 5; add some or leave"):
        audit()(train, train, embedded(images_of(5, seed=6), "h"))


@pytest.mark.parametrize("copy", [True, False])
def test_one_generated_image(train, copy):
    image = train.images[7:8] if copy else images_of(1, seed=9)
    result = audit()(train, embedded(image, "g"))
    assert result.memorized.tolist() == [copy] and len(result.label) == 1
    assert result.leaked == (["s007"] if copy else [])


@pytest.mark.parametrize("subjects", [1, 4])
def test_fewer_than_five_subjects_have_no_null(train, subjects):
    few = embedded(train.images[:subjects])
    result = audit()(few, train)
    assert result.calibration.null == "none" and (result.p_value == 1).all() and not result.memorized.any()
    # the copies are still seen, apart from the calls
    assert result.candidate.tolist() == [True] * subjects + [False] * (40 - subjects)


def test_a_volume_is_one_unit_and_is_judged_by_the_mean_of_its_slices():
    stacks = images_of(12 * 3, seed=11)
    train = embedded(stacks, slices=3)
    generated = embedded(np.concatenate([stacks[6:9], images_of(6, seed=12)]), "g", slices=3)
    result = audit(k=6)(train, generated)
    assert len(result.units) == 3 and result.found.aligned_ssim.shape == (3, 6)
    rows = result.units.rows(1)
    np.testing.assert_allclose(result.found.aligned_ssim[1], result.found.slice_ssim[rows].mean(0), rtol=1e-6)
    assert result.found.nearest[0] == 2 and result.p_value[0] == result.p_value.min()


def test_the_same_seed_gives_the_same_audit_and_more_candidates_do_not_change_the_best(train):
    generated = embedded(np.concatenate([train.images[:3], images_of(5, seed=13)]), "g")
    first, again, wide = (
        audit(seed=4)(train, generated),
        audit(seed=4)(train, generated),
        audit(seed=4, k=9)(train, generated),
    )
    np.testing.assert_allclose(first.p_value, again.p_value, rtol=1e-9)
    assert first.control == again.control and first.set_level == again.set_level
    assert (wide.found.aligned_ssim.max(1) >= first.found.aligned_ssim.max(1) - 1e-6).all()


def test_one_person_under_two_ids_is_one_subject(train):
    twice = embedded(np.concatenate([train.images, train.images[:2]]))
    result = audit()(twice, embedded(np.concatenate([train.images[:2], images_of(10, seed=14)]), "g"))
    assert result.merged == [["s000", "s040"], ["s001", "s041"]] and result.unmerged_count == 0
    assert result.memorized.tolist() == [True] * 2 + [False] * 10


def test_shares_leave_the_audit_its_controls_alone(train, tmp_path, monkeypatch):
    """Of several processes each aligns a share of all, of merged ids as well; the audit then reads it."""
    twice = embedded(np.concatenate([train.images, train.images[:2]]))
    generated = embedded(np.concatenate([train.images[:2], images_of(100, seed=14)]), "g")
    holdout = embedded(images_of(70, seed=6), "h")
    few = {"null_subjects": 12, "control_images": 4}
    alone = audit(**few)(twice, generated, holdout)
    searched: list[int] = []
    for merged in (False, True):
        for number in (2, 1):
            one = audit(**few, store_dir=tmp_path)
            one.align_share(twice, generated, holdout, Share(number, 2), merged=merged)
            searched.append(len(list(tmp_path.iterdir())))
    assert searched == sorted(set(searched))  # each of the four has added something
    aligned, align = [], Verifier.align

    def counted(verifier, queries, references, pairs=None, start=None):
        aligned.append(len(queries) if pairs is None else len(pairs[0]))
        return align(verifier, queries, references, pairs, start)

    monkeypatch.setattr(Verifier, "align", counted)
    result = audit(**few, store_dir=tmp_path)(twice, generated, holdout)
    assert result.merged == alone.merged == [["s000", "s040"], ["s001", "s041"]]
    np.testing.assert_array_equal(result.found.aligned_ssim, alone.found.aligned_ssim)
    np.testing.assert_allclose(result.p_value, alone.p_value, rtol=1e-12)
    assert 0 < sum(aligned) <= 4 * 6 + 2  # the positive control's four copies, and the twins of what is called
    monkeypatch.setattr(Pooled, "embed_images", None)  # what an audit makes is embedded once
    audit(**few, store_dir=tmp_path)(twice, generated, holdout)


def second_scans(images: np.ndarray) -> np.ndarray:
    """The same people on another day: noise and contrast of its own."""
    noise = 0.01 * np.random.default_rng(0).normal(size=images.shape)
    return (images.astype(np.float32) ** 1.1 + noise).clip(0, 1).astype(np.float16)


@pytest.mark.parametrize("count", [2, 4, 12])
def test_many_people_under_two_ids_hide_no_copy(train, count):
    twice = embedded(np.concatenate([train.images, second_scans(train.images[:count])]))
    generated = embedded(np.concatenate([train.images[:count], train.images[30:34], images_of(10, seed=14)]), "g")
    result = audit(control_images=20)(twice, generated)
    assert result.merged == [[f"s{i:03d}", f"s{40 + i:03d}"] for i in range(count)]
    assert result.memorized.tolist() == [True] * (count + 4) + [False] * 10 and result.control.recall > 0.9
    assert audit()(train, generated).merged == []


@pytest.mark.parametrize("slices", [1, 2])
def test_twins_outside_the_null_are_found_by_their_embeddings(slices):
    images = images_of(60, seed=0)
    train = embedded(np.concatenate([images, second_scans(images[: 6 * slices])]), slices=slices)
    people, generated = 60 // slices, embedded(images_of(8, seed=14), "g", slices=slices)
    result = audit(null_subjects=12, control_images=4)(train, generated)
    assert len(set(result.null.subject.tolist())) == 12
    assert result.merged == [[f"s{i:03d}", f"s{people + i:03d}"] for i in range(6)]
    clean = embedded(images, slices=slices)
    assert audit(null_subjects=12, control_images=4)(clean, generated).merged == []


def test_who_stands_in_the_holdout_too_is_named(train):
    others = images_of(20, seed=15)
    holdout = embedded(np.concatenate([others[:10], second_scans(train.images[[4, 7]]), others[10:]]), "h")
    generated = embedded(images_of(6, seed=16), "g")
    result = audit()(train, generated, holdout)
    assert result.shared_people == [("h010", "s004"), ("h011", "s007")] and result.shared == 0
    assert result.verdict is Verdict.INCONCLUSIVE and "2 subjects of the holdout" in " ".join(result.doubts)
    clean = audit()(train, generated, embedded(others, "h"))
    assert clean.shared_people == [] and clean.verdict is not Verdict.INCONCLUSIVE


def test_the_detail_of_calls_alone_is_compared(train):
    generated = embedded(np.concatenate([train.images[:3], images_of(5, seed=13)]), "g")
    result = audit()(train, generated)
    assert result.memorized.tolist() == [True] * 3 + [False] * 5
    assert (result.detail[:3] > 0.99).all() and np.isnan(result.detail[3:]).all()
    assert result.tier == ["copy"] * 3 + ["none"] * 5 and result.copy.sum() == 3


def test_another_statistic_and_other_criteria_decide(train):
    generated = embedded(np.concatenate([train.images[:3], images_of(20, seed=17)]), "g")
    three = LocalStatistic(subjects=3)
    result = audit(k=3, statistic=three, criteria=Criteria(fdr=0.2, p_value="rank", matched_auc=(0.0, 1.0)))(
        train, generated
    )
    both = three(result.found.aligned_ssim), three(result.found.unbent_ssim)
    np.testing.assert_allclose(result.statistic, np.maximum(*both))
    assert result.fdr == 0.2 and result.calibration.p_value == "rank" and result.calibration.matched
    with pytest.raises(ValueError, match="k must be at least 5, got 3"):
        audit(k=3)


def test_another_embedder_leaves_the_audit_as_it_is(train):
    first = audit()
    other = Pooled()
    assert first.using(other).embedder is other and first.embedder is not other
    assert first.using(other).criteria is first.criteria


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 4}, "k must be at least 5, got 4"),
        ({"fdr": 0}, r"fdr must be in \(0, 1\), got 0"),
        ({"null_transform": "blur"}, "null_transform must be auto or none, got 'blur'"),
        ({"null_slices": 0}, "null_slices must be at least 1, got 0"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        audit(**arguments)


def test_the_recall_falls_as_copies_are_bent_and_nothing_else_depends_on_it():
    train, generated = embedded(images_of(25, seed=0)), embedded(images_of(5, seed=1), "g")
    plain, bent = audit()(train, generated), audit(bends=(0.5, 6.0), bent_images=12)(train, generated)
    assert plain.control.bent == [] and replace(bent.control, bent=[]) == plain.control
    assert bent.set_level == plain.set_level and bent.p_value.tolist() == plain.p_value.tolist()
    mild, strong = bent.control.bent
    assert (mild.pixels, mild.images, strong.pixels) == (0.5, 12, 6.0)
    assert mild.recall > 0.7 > 0.3 > strong.recall and strong.ci95[0] <= strong.recall <= strong.ci95[1]
    with pytest.raises(ValueError, match="bends must be positive, got \\[0\\]"):
        audit(bends=[0])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"bends": [1.0, 300.0]}, "bends must be at most 20 pixels, got \\[1.0, 300.0\\]"),
        ({"control_images": 10**6}, "control_images must be at most 100000, got 1000000"),
        ({"seed": -1}, "seed must be 0 or more and below 2\\*\\*32, got -1"),
        ({"statistic": 0}, "statistic must be one such as LocalStatistic, got 0"),
        ({"statistic": "x"}, "statistic must be one such as LocalStatistic, got 'x'"),
    ],
)
def test_what_would_never_end_or_fail_later_is_refused_at_once(argument, message):
    with pytest.raises(ValueError, match=message):
        audit(**argument)
