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

import hashlib
import json

import numpy as np
import pytest
import torch
from conftest import ROOT
from scipy import stats
from test_configs import run_config

from scripts.augmentations import RandCopyd
from scripts.benchmark import (
    DIFFERENT,
    DUPLICATE,
    SIMILAR,
    Slices,
    best_of_subjects,
    classify,
    draw_pairs,
    duplicate_auc,
    fit_thresholds,
    macro_f1,
    pair_weights,
    rate_at_false_alarms,
)
from scripts.rivals import SSIM, AlignedSSIM, CalibratedL2, Correlation, imagenet, scripted
from scripts.verification import Verifier

RNG = np.random.default_rng(5)
LABEL = RNG.integers(0, 3, 60)
SCORE = np.round(LABEL + RNG.normal(size=60), 1)  # with ties


def f1(label, predicted, c) -> float:
    hit = sum(a == b == c for a, b in zip(label, predicted))
    return 2 * hit / (sum(label == c) + sum(predicted == c))


def test_macro_f1_is_the_mean_over_classes_and_weights_are_repetitions():
    predicted = classify(SCORE, (0.5, 1.5))
    assert macro_f1(LABEL, predicted) == pytest.approx(np.mean([f1(LABEL, predicted, c) for c in range(3)]))
    times = RNG.integers(0, 4, (2, 60))
    got = macro_f1(LABEL, predicted, times)
    for weight, value in zip(times, got):
        assert value == pytest.approx(macro_f1(LABEL.repeat(weight), predicted.repeat(weight)))
    assert macro_f1(LABEL, LABEL) == 1


def test_thresholds_are_the_best_of_all():
    cuts = fit_thresholds(SCORE, LABEL, steps=1000)
    got = macro_f1(LABEL, classify(SCORE, cuts))
    values = np.unique(SCORE)
    assert got == pytest.approx(max(macro_f1(LABEL, classify(SCORE, (a, b))) for a in values for b in values if a <= b))


def test_auc_is_mann_whitneys():
    expected = stats.mannwhitneyu(SCORE[LABEL == DUPLICATE], SCORE[LABEL != DUPLICATE]).statistic
    expected /= (LABEL == DUPLICATE).sum() * (LABEL != DUPLICATE).sum()
    assert duplicate_auc(SCORE, LABEL, np.ones(60)) == pytest.approx(expected)
    times = RNG.integers(0, 3, (2, 60)).astype(float)
    for weight, value in zip(times, duplicate_auc(SCORE, LABEL, times)):
        n = weight.astype(int)
        assert value == pytest.approx(duplicate_auc(SCORE.repeat(n), LABEL.repeat(n), np.ones(n.sum())))


def test_rate_at_false_alarms():
    score, positive = np.r_[np.arange(100.0), 98.5, 99.5, 50], np.r_[np.zeros(100, bool), [True] * 3]
    assert rate_at_false_alarms(score, positive, 0.01) == pytest.approx(1 / 3)  # only 99.5 is above the 99th of 100
    assert rate_at_false_alarms(score, positive, 0.05) == pytest.approx(2 / 3)


def test_bootstrap_resamples_subjects_on_both_sides():
    subject = np.array([[0, 0], [0, 1], [1, 2], [2, 2]])
    weight = pair_weights(subject, 4000, np.random.RandomState(0))
    own, other = weight[:, [0, 3]], weight[:, [1, 2]]
    assert set(np.unique(own)) <= {0, 1, 2, 3}
    np.testing.assert_allclose(own.mean(0), 1, atol=0.05)
    np.testing.assert_allclose(other.mean(0), 1 - 1 / 3, atol=0.05)  # E[n_a n_b] = 1 - 1/S of a multinomial
    assert (weight[weight[:, 0] == 0][:, 1] == 0).all()  # a subject that is not drawn takes all its pairs along


def test_best_of_subjects_is_the_maximum_of_each():
    score, subject = RNG.random((4, 9)), np.array([2, 0, 1, 1, 2, 0, 0, 2, 1])
    expected = np.stack([score[:, subject == s].max(1) for s in range(3)], axis=1)
    np.testing.assert_array_equal(best_of_subjects(score, subject), expected)


def slices(subjects: int = 4, levels: int = 5) -> Slices:
    """Smooth random discs, a subject's slices alike."""
    y, x = np.mgrid[-1:1:48j, -1:1:56j]
    images, rng = [], np.random.default_rng(0)
    for _ in range(subjects):
        a, b = rng.normal(size=(2, 6))
        for level in range(levels):
            waves = sum(
                a[k] * np.sin((k + 1) * (3 * x + b[k]) + 0.3 * level) * np.cos((6 - k) * y + b[k]) for k in range(6)
            )
            images.append(np.where(x**2 + y**2 < 0.8, 0.5 + 0.4 * np.tanh(waves), 0))
    number = np.arange(subjects).repeat(levels)
    return Slices(np.array(images, np.float32), number, np.tile(np.arange(levels) * 2.0, subjects))


def test_pairs_are_what_their_labels_say():
    data, verifier = slices(), Verifier()
    copy = RandCopyd("image", elastic=(0.2, 0.5), blur=(0.0, 0.2), noise=(0.0, 0.0))
    copy.set_random_state(0)
    pairs = draw_pairs(data, 20, copy, 0.6, verifier, np.random.RandomState(0))
    assert np.bincount(pairs.label).tolist() == [20, 20, 20]

    def find(image) -> int:
        return int(np.flatnonzero((data.images == image).all((1, 2)))[0])

    for first, second, label, (a, b) in zip(pairs.first, pairs.second, pairs.label, pairs.subject):
        row = find(first)
        assert data.subject[row] == a
        if label == DUPLICATE:
            assert a == b and not (data.images == second).all((1, 2)).any()
            assert verifier.align(second[None], first[None]).aligned_ssim[0] > 0.6
        else:
            other = find(second)
            assert data.subject[other] == b
            distance = abs(data.level[row] - data.level[other])
            assert (a == b and 2 <= distance <= 4) if label == SIMILAR else (a != b and distance <= 2)
    assert DIFFERENT == 0
    with pytest.raises(ValueError, match="expected copies with an aligned SSIM above 1.000"):
        draw_pairs(data, 2, copy, 1.0, verifier, np.random.RandomState(0))
    with pytest.raises(ValueError, match="expected images with a partner for label 1"):
        draw_pairs(slices(2, 1), 2, copy, 0.5, verifier, np.random.RandomState(0))


@pytest.mark.parametrize("method", [SSIM(), SSIM("foreground"), Correlation(), CalibratedL2(nearest=3)], ids=str)
def test_pairs_and_matrix_agree(method):
    images = slices().images
    method.fit(images)
    matrix = method.matrix(images[:4], images[5:10])
    for i in range(4):
        np.testing.assert_allclose(method.pairs(images[5:10], images[[i] * 5]), matrix[i], rtol=1e-4, atol=1e-5)


def test_correlation_is_pearsons():
    a, b = RNG.random((2, 3, 8, 9)).astype(np.float32)
    expected = [np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(a, b)]
    np.testing.assert_allclose(Correlation().pairs(a, b), expected, atol=1e-6)


def test_l2_is_calibrated_on_the_nearest_references():
    references, query = RNG.random((6, 4, 4)).astype(np.float32), RNG.random((1, 4, 4)).astype(np.float32)
    distance = np.sort([np.linalg.norm(query[0] - r) for r in references])
    got = CalibratedL2(nearest=2, alpha=0.5).fit(references).matrix(query, references)
    assert got.max() == pytest.approx(-distance[0] / (0.5 * distance[:2].mean()), rel=1e-4)
    with pytest.raises(ValueError, match="expected fit"):
        CalibratedL2().pairs(query, query)


def test_alignment_sees_through_a_flip():
    image = slices().images[:1]
    assert (
        AlignedSSIM(Verifier()).pairs(image, image[:, ::-1].copy())[0] > 0.95 > SSIM().pairs(image, image[:, ::-1])[0]
    )


def test_torchscript_needs_its_hash(tmp_path):
    path = tmp_path / "features.pt"
    torch.jit.script(torch.nn.Sequential(torch.nn.Conv2d(3, 5, 4), torch.nn.ReLU())).save(str(path))
    with pytest.raises(ValueError, match="features.pt: expected the SHA-256 None, found"):
        scripted(path, None, 32)
    method = scripted(path, hashlib.sha256(path.read_bytes()).hexdigest(), 32)
    vectors = method.vectors(slices().images[:3])
    assert vectors.shape == (3, 5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert scripted(None, None, 32) is None and imagenet(None) is None


def test_the_config_runs_and_resumes(tmp_path):
    names = [f"sub-{n:02d}" for n in range(1, 49)]
    (tmp_path / "split.json").write_text(json.dumps({"validation": names[:12], "test": names[12:30]}))
    arguments = ["--dataset_dir", str(ROOT / "demo" / "train"), "--split_file", str(tmp_path / "split.json")]
    arguments += ["--output_dir", str(tmp_path / "out"), "--pairs", "20", "--queries", "10", "--draws", "20"]
    result = run_config("benchmark.yaml", tmp_path, *arguments)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "out" / "whole.json").read_text())
    assert list(found["conditions"]) == ["aligned", "misaligned", "strong"]
    table = found["conditions"]["misaligned"]
    assert table["pairs"]["SSCD"] == {"missing": "weights not given"}
    assert table["pairs"]["ours"]["macro_f1"] > table["pairs"]["SSIM"]["macro_f1"]
    assert table["search"]["ours"]["recall"]["1"] > table["search"]["SSIM"]["recall"]["1"]
    assert "| ours |" in (tmp_path / "out" / "benchmark.md").read_text()
    again = run_config("benchmark.yaml", tmp_path, *arguments)
    assert again.returncode == 0 and again.stdout == result.stdout  # to the last digit of the times: nothing was rerun
