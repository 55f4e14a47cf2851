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


"""Audits of real slices: what is copied is called, what is not is not, and a split is drawn again from its seed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, blobs
from real_slices import Outcome, RealSlices, Scenario
from remembering import RememberingVerifier
from scripts import RandCopyd, Verifier


def test_remembering_verifier_is_the_verifier_and_aligns_a_pair_once():
    images = blobs(6, seed=0)[:, 0].numpy().astype(np.float16)
    remembering = RememberingVerifier()
    expected = Verifier().align(images[:4], images[2:])
    for _ in range(2):
        for got, wanted in zip(remembering.align(images[:4], images[2:]), expected):
            np.testing.assert_array_equal(got, wanted)
        assert len(remembering.known.rows) == 4
    remembering.align(images[[0, 4]], images[[2, 5]])  # one pair is new
    assert len(remembering.known.rows) == 5


@pytest.fixture(scope="module")
def slices(ixi: Path, tmp_path_factory: pytest.TempPathFactory) -> RealSlices:
    """A slice of each of 13 subjects."""
    split = tmp_path_factory.mktemp("split") / "split.json"
    parts = json.loads((ROOT / "configs" / "splits" / "ixi.json").read_text())
    split.write_text(json.dumps({"few": parts["test"][:13], "others": parts["train"]}))
    quick = {"control_images": 1, "null_transform": "none"}
    return RealSlices(str(ixi / "participants.tsv"), str(split), parts=["few"], levels=1, **quick)


COPIED = Scenario(train_subjects=9, generated=8, share=0.5)


def test_slices_are_those_of_the_parts_subjects(slices):
    assert len(slices.subjects) == 13 and slices.images.shape == (13, 96, 112)
    assert all(12 <= subject.level[0] <= 112 for subject in slices.subjects.values()), "mm below the top of the head"


@pytest.mark.parametrize("raw", [False, True])
def test_exact_copies_are_called_and_new_images_are_not(slices, raw):
    assert slices.run(0, COPIED, raw) == Outcome(calls=4, type_one=0.0, false_share=0.0, recall=1.0)


@pytest.mark.slow
def test_an_audit_is_drawn_again_from_its_seed(slices):
    part = replace(COPIED, part=60.0, strength=RandCopyd("image", noise=(0.0, 0.04)))
    seen = []

    def kept(images: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
        seen.append(images.copy())
        return images

    outcomes = [slices.run(seed, replace(part, change=kept)) for seed in (1, 1, 2)]
    assert outcomes[0] == outcomes[1]
    np.testing.assert_array_equal(seen[0], seen[1])
    assert (seen[1] != seen[2]).any()


def test_without_copies_recall_is_unknown(slices):
    found = slices.run(0, replace(COPIED, share=0.0))
    assert np.isnan(found.recall) and found.type_one == found.calls / 8
