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

import numpy as np
import pytest
from scripts.studies.agreement import agreement, cohen_kappa, fleiss_kappa, majority, write_agreement
from scripts.studies.ratings import Ratings
from sklearn.metrics import cohen_kappa_score

RNG = np.random.default_rng(0)
# raters who say what is there in most cases, (4, 200)
TRUTH = RNG.integers(0, 3, 200)
ANSWERS = np.where(RNG.random((4, 200)) < 0.7, TRUTH, RNG.integers(0, 3, (4, 200)))
COUNTS = (ANSWERS[:, :, None] == np.arange(3)).sum(0)


def ratings(*answers, methods=None) -> Ratings:
    raters = {f"r{n}": np.array(own) for n, own in enumerate(answers)}
    ids = [str(n) for n in range(len(answers[0]))]
    return Ratings(ids, raters, {k: np.array(v) for k, v in (methods or {}).items()}, dict.fromkeys(raters), [])


def test_fleiss_kappa_is_that_of_statsmodels():
    inter_rater = pytest.importorskip(
        "statsmodels.stats.inter_rater", reason="needs statsmodels, the oracle of the kappa"
    )
    for counts in (COUNTS, COUNTS[:7], np.array([[2, 0, 0], [0, 1, 1]])):
        assert fleiss_kappa(counts) == pytest.approx(inter_rater.fleiss_kappa(counts), abs=1e-12)


def test_fleiss_kappa_by_hand():
    # two raters, four pairs: alike in three; shares 5/8, 1/8, 2/8; (3/4 - 30/64) / (1 - 30/64)
    counts = np.array([[2, 0, 0], [2, 0, 0], [0, 0, 2], [1, 1, 0]])
    assert fleiss_kappa(counts) == pytest.approx(18 / 34)


def test_cohen_kappa_is_that_of_scikit_learn_weights_too():
    weight = RNG.integers(0, 4, (5, 200))
    for first, second in ((0, 1), (2, 3), (0, 0)):
        a, b = ANSWERS[first], ANSWERS[second]
        assert cohen_kappa(a, b) == pytest.approx(cohen_kappa_score(a, b), abs=1e-12)
        expected = [cohen_kappa_score(a, b, sample_weight=one) for one in weight]
        assert cohen_kappa(a, b, weight) == pytest.approx(expected, abs=1e-12)


def test_a_pairs_weight_is_how_often_it_counts():
    weight = RNG.integers(0, 4, (3, 200))
    repeated = [fleiss_kappa(np.repeat(COUNTS, one, axis=0)) for one in weight]
    assert fleiss_kappa(COUNTS, weight) == pytest.approx(np.array(repeated))


def test_full_agreement_is_one_chance_is_about_zero_and_one_answer_is_undefined():
    assert fleiss_kappa(np.eye(3) * 4) == 1 and cohen_kappa(TRUTH, TRUTH) == 1
    assert cohen_kappa(np.array([0, 1, 2]), np.array([1, 2, 0])) < 0
    random = RNG.integers(0, 3, (2, 20_000))
    assert abs(cohen_kappa(*random)) < 0.03
    assert np.isnan(fleiss_kappa(np.array([[3, 0, 0], [3, 0, 0]])))
    assert np.isnan(cohen_kappa(np.zeros(4, int), np.zeros(4, int)))


def test_the_majority_is_the_answer_that_leads_alone():
    answers = np.array([[0, 0, 2, -1, 1], [0, 1, 2, -1, -1], [1, 2, 2, -1, -1]])
    assert majority(answers).tolist() == [0, -1, 2, -1, 1]


def test_agreement_of_raters_and_methods():
    found = agreement(ratings(*ANSWERS, methods={"oracle": TRUTH, "constant": np.ones(200, int)}), draws=400)
    assert found.fleiss.pairs == 200 and found.fleiss.kappa == pytest.approx(float(fleiss_kappa(COUNTS)), abs=1e-4)
    assert list(found.cohen) == ["r0 and r1", "r0 and r2", "r0 and r3", "r1 and r2", "r1 and r3", "r2 and r3"]
    assert found.cohen["r1 and r3"].kappa == pytest.approx(cohen_kappa_score(ANSWERS[1], ANSWERS[3]), abs=1e-4)
    for kappa in (found.fleiss, *found.cohen.values()):
        assert kappa.ci95[0] < kappa.kappa < kappa.ci95[1] and 0.05 < kappa.ci95[1] - kappa.ci95[0] < 0.3
    assert sum(found.labels.values()) + found.ties == 200
    assert found.methods["oracle"].kappa > 0.8 and found.methods["oracle"].pairs == 200 - found.ties
    assert found.methods["constant"].kappa == 0  # no better than chance
    assert found == agreement(ratings(*ANSWERS, methods={"oracle": TRUTH, "constant": np.ones(200, int)}), draws=400)


def test_the_interval_is_that_of_resampled_pairs():
    kappa = agreement(ratings(*ANSWERS[:2]), draws=2000).cohen["r0 and r1"]
    rows = np.random.default_rng(1).integers(0, 200, (2000, 200))
    expected = np.percentile([cohen_kappa(*ANSWERS[:2, row]) for row in rows], [2.5, 97.5])
    assert kappa.ci95 == pytest.approx(expected, abs=0.015)


def test_only_pairs_that_all_rated_count_for_all():
    first, second, third = [0, 1, 2, 0, -1], [0, 1, 2, 1, 2], [0, 1, -1, 0, 2]
    found = agreement(ratings(first, second, third), draws=50)
    assert found.fleiss.pairs == 3 and found.raters == {"r0": 4, "r1": 5, "r2": 4}
    assert [found.cohen[name].pairs for name in ("r0 and r1", "r0 and r2", "r1 and r2")] == [4, 3, 4]


def test_the_table_names_all_and_says_what_is_not_defined(tmp_path, capsys):
    alike = ratings([0, 0, 0], [0, 0, 0], methods={"a|b": [0, 0, 1]})
    found = write_agreement(alike, tmp_path, draws=20)
    assert found.fleiss.kappa is None and found.fleiss.ci95 is None
    text = (tmp_path / "agreement.md").read_text()
    assert "| all raters (Fleiss) | 3 | not defined: one answer throughout |" in text
    assert "| a&#124;b, with the majority | 3 | 0.00 (0.00 to 0.00) |" in text
    assert "Majority of 2 raters: 3 different, 0 similar, 0 duplicate; 0 without one." in text
    assert json.loads((tmp_path / "agreement.json").read_text())["fleiss"]["kappa"] is None
    assert text in capsys.readouterr().out


def test_no_pairs_in_common_and_no_draws_are_errors():
    with pytest.raises(ValueError, match="expected pairs that all raters answered, found none in common"):
        agreement(ratings([0, -1], [-1, 1]))
    with pytest.raises(ValueError, match="expected pairs that m and the majority answered, found none in common"):
        agreement(ratings([0, -1], [0, 1], methods={"m": [-1, -1]}))
    with pytest.raises(ValueError, match="draws: expected at least 1, found 0"):
        agreement(ratings([0, 1], [0, 1]), draws=0)
