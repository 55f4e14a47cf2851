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

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from helpers import ROOT
from scripts.auditing.calibration import Control, ControlRecall
from scripts.auditing.findings import SetFit, findings
from scripts.images.correction import Correction
from scripts.report.provenance import Run
from scripts.report.summary import Timing, json_text, summarise
from scripts.report.tables import MatchRows
from scripts.report.terminal import terminal_text
from scripts.similarity.verification import Verifier

RUN = Run("2026-01-02T03:04:05+00:00", "python -m monai.bundle run", {"fdr": 0.05}, {"torch": "2"})


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    path = tmp_path / "model.pt"
    path.write_bytes(b"abc")
    return path


def test_what_is_counted(result, checkpoint):
    summary = summarise(result, MatchRows(result), Timing(1.5, 7), RUN, checkpoint)
    assert summary.checkpoint.sha256.startswith("ba7816bf8f01cfea414140de5dae2223")
    assert (summary.memorized.count, summary.memorized.rate) == (2, pytest.approx(1 / 3))
    assert summary.leaked_subjects.ids == ["patient003", "patient008"] and summary.leaked_subjects.count == 2
    assert summary.leaked_subjects.curve.samples == list(range(7)) and summary.leaked_subjects.curve.subjects[-1] == 2
    sizes = {name: (part.images, part.subjects, len(part.skipped)) for name, part in summary.inputs.items()}
    assert sizes == {"train": (20, 20, 1), "generated": (6, 6, 0), "holdout": (24, 24, 1)}
    assert sum(summary.labels.values()) == 6
    assert (summary.tiers.copies, summary.tiers.likenesses, summary.verdict) == (2, 0, "copies")
    assert summary.bounds.strongest == [1, 2, 5] and summary.bounds.true == [1, 2, 2]
    below = (result.p_value <= 0.05).mean()
    assert summary.memorized.excess_rate == pytest.approx((below - 0.05) / 0.95)
    assert '"samples": [\n        0,\n        1,' in json_text(summary)  # whole numbers


def test_of_a_likeness_nobody_leaked(result, checkpoint):
    one = replace(result, detail=np.where(np.arange(6) == 1, 0.9, result.detail))
    summary = summarise(one, MatchRows(one), Timing(1, 0), RUN, checkpoint)
    assert (summary.tiers.copies, summary.tiers.likenesses, summary.verdict) == (1, 1, "copies")
    assert [row.verdict for row in MatchRows(one)][:3] == ["copy", "likeness", "none"]
    assert summary.memorized.count == 2 and summary.leaked_subjects.count == 1
    none = replace(result, detail=np.full(6, 0.9))
    text = text_of(none, checkpoint)
    assert none.verdict == "likenesses" and "Copies: 0. Likenesses: 2." in text
    assert "leaked: 0 of 20; 2 have likenesses only\n" in text


def test_json_fits_its_schema_and_has_no_infinity(result, checkpoint):
    schema = json.loads((ROOT / "configs" / "report.schema.json").read_text())
    unknown = replace(
        result,
        thresholds=replace(result.thresholds, similar=float("inf"), separable=False),
        calibration=replace(result.calibration, match_auc=None, matched=False),
    )
    for found in (result, unknown):
        text = json_text(summarise(found, MatchRows(found), Timing(1.5, 7), RUN, checkpoint))
        content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        jsonschema.validate(content, schema)
        assert "groups" not in content
    assert content["thresholds"]["similar"] is None


def test_the_terminal_says_what_was_found(result, checkpoint):
    matches = MatchRows(result)
    text = terminal_text(
        result, summarise(result, matches, Timing(1, 0), RUN, checkpoint), matches, Path("out/report.html")
    )
    lines = text.splitlines()
    assert lines[0] == "Copies: 2. Likenesses: 0. Of 6 generated images, at a false-discovery rate of 0.05."
    assert lines[1] == "Training subjects leaked: 2 of 20 (patient003, patient008)"
    assert lines[2].startswith("  sample00") and "aligned SSIM 1.00" in lines[2]
    assert "p-values; real images are as similar to train as the generated ones (AUC 0." in text
    few = text_of(replace(result, calibration=replace(result.calibration, match_auc=0.71)), checkpoint)
    assert "as similar to train as the generated ones (AUC 0.71, as far as so few tell)." in few
    assert "Skipped: 2 files" in text and "more: matches.csv" not in text
    assert lines[-1] == "Report: out/report.html" and len(lines) <= 14
    bent = [ControlRecall(1.5, 20, 0.9, (0.7, 1.0)), ControlRecall(3.0, 20, 0.05, (0.0, 0.25))]
    text = text_of(replace(result, control=replace(result.control, bent=bent)), checkpoint)
    assert "Of copies that are bent besides: 90% by 1.5, 5% by 3 pixels." in text
    assert "to 100%)." in text
    apart = replace(result.calibration, matched=False, match_auc=0.2)
    text = text_of(replace(result, calibration=apart), checkpoint)
    assert "The generated images are less similar to train than real ones (AUC 0.20, 0.4 to 0.6 expected)" in text
    many = replace(result, decision=replace(result.decision, memorized=np.ones(6, bool)))
    assert "\n  and 3 more: matches.csv\n" in text_of(many, checkpoint)
    four = replace(result, decision=replace(result.decision, memorized=np.arange(6) < 4))
    assert text_of(four, checkpoint).count(" <- ") == 4 and "more: matches.csv" not in text_of(four, checkpoint)
    assert "hardly knows such images" not in text
    far = replace(result, control=replace(result.control, nearest=0.6, nearest_ci95=(0.5, 0.7)))
    words = "hardly knows such images: it has the source as the nearest of 60% of these copies"
    assert not far.weights_suit and words in text_of(far, checkpoint)
    assert "was not among the" not in text
    few = replace(result, control=replace(result.control, among=0.9))
    words = "Of 10% of these copies the source was not among the 6 subjects that are aligned. More are by --k 20."
    assert not few.candidates_suffice and words in text_of(few, checkpoint)
    assert replace(few, subject_names=few.subject_names * 3).more_candidates == "--k 24"
    assert replace(few, verifier=Verifier(window=16)).more_candidates == "--parts_k 20"
    volumes = replace(few.train, images=np.zeros((20, 2, 2, 2), np.float16))
    assert replace(few, train=volumes).more_candidates == "--volume_k 20"
    likenesses = replace(result, detail=np.where(result.memorized, 0.2, np.nan))
    assert "leaked: 0 of 20; 2 have likenesses only\n" in text_of(likenesses, checkpoint)
    text = text_of(replace(result, control=replace(result.control, alone=0.25)), checkpoint)
    assert "to 100%), 25% were each the only one." in text
    text = text_of(replace(result, calibration=replace(result.calibration, kinds=[0.6, 0.4])), checkpoint)
    assert "subjects at least of an image's kind (training images of 2 kinds: 60%, 40%), tail p-values" in text


def text_of(result, checkpoint) -> str:
    matches = MatchRows(result)
    return terminal_text(
        result, summarise(result, matches, Timing(1, 0), RUN, checkpoint), matches, Path("report.html")
    )


def test_a_clean_answer_is_earned(result, checkpoint):
    quiet = replace(
        result,
        decision=replace(result.decision, memorized=np.zeros(6, bool)),
        control=Control(60, 0.9, (0.8, 0.95), 1.0),
        train=replace(result.train, skipped=[]),
        holdout=None,
    )
    text = text_of(quiet, checkpoint)
    assert text.startswith("No copying found among 6 generated images, at a false-discovery rate of 0.05.\nPositive")
    first, second, *rest = text_of(replace(quiet, control=Control(60, 0.5, (0.4, 0.6), 1.0)), checkpoint).splitlines()
    assert first == "INCONCLUSIVE: copies among 6 generated images could not have been recognised."
    assert second.startswith("  Of 60 copies that the audit made itself it would have called 50% (95 % interval 40% to")
    assert rest[-1] == "Report: report.html"
    without = replace(quiet, calibration=replace(quiet.calibration, null="none"))
    text = text_of(without, checkpoint)
    assert text.startswith("INCONCLUSIVE") and "There is no null: too few real images to compare with." in text
    assert "Null: none, as there are fewer than 6 subjects to compare; every p-value is 1." in text


def test_the_terminal_says_what_was_undone_and_what_to_do(result, checkpoint):
    correction = Correction(transposed=True, inverted=True)
    fit = SetFit(correction, 0.4, 0.42, True, findings(correction, True))
    lines = text_of(replace(result, fit=fit), checkpoint).splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("Undone")] == ["Undone", "Undone"]
    assert len(lines) <= 14
    unlike = SetFit(Correction(), 0.2, 0.42, False, findings(Correction(), False))
    lines = text_of(replace(result, fit=unlike), checkpoint).splitlines()
    assert "  More may have been missed: The generated images do not resemble the training images as a set" in lines[4]
    assert any(line.startswith("To do: compare some of both by eye") for line in lines)


def test_the_checkpoint_is_named_only_where_names_are(result, checkpoint):
    for key_id, path in ((None, str(checkpoint)), ("0123", "name hidden")):
        summary = summarise(result, MatchRows(result), Timing(1, 0), RUN, checkpoint, pseudonyms=key_id)
        assert (summary.checkpoint.path, summary.pseudonyms) == (path, key_id)
