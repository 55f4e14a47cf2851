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

"""The study of tiers: mixtures are what they are said to be, and its table adds up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiers
from helpers import ROOT


@pytest.fixture(scope="module")
def slices(ixi: Path, tmp_path_factory: pytest.TempPathFactory) -> tiers.Tiers:
    """A slice of each of 14 subjects."""
    split = tmp_path_factory.mktemp("split") / "split.json"
    parts = json.loads((ROOT / "configs" / "splits" / "ixi.json").read_text())
    split.write_text(json.dumps({"few": parts["test"][:14]}))
    quick = {"control_images": 1, "null_transform": "none", "bends": []}
    return tiers.Tiers(str(ixi / "participants.tsv"), str(split), parts=["few"], levels=1, **quick)


def test_a_mixture_lies_between_its_people(slices):
    rng = np.random.RandomState(0)
    people = sorted(slices.subjects)[:2]
    first = slices.subjects[people[0]].images[0].astype(float)
    apart = []
    for weight in (1.0, 0.7, 0.5):
        mixed, level = slices._mixture(people, (weight, 1 - weight), rng)
        apart.append(np.abs(mixed - first).mean())
        assert level == slices.subjects[people[0]].level[0]
    assert apart[0] < 1e-3 < apart[1] < apart[2]


def test_every_image_has_a_tier(slices, monkeypatch):
    monkeypatch.setattr(tiers, "PEOPLE", 10)
    monkeypatch.setattr(tiers, "EACH", 1)
    found = slices.count(0)
    assert list(found) == list(tiers.MIXTURES) and all(sum(counts.values()) == 1 for counts in found.values())
    assert found["copy"] == {"copy": 1}


def test_the_table_adds_up():
    audit = {kind: {"none": 12} for kind in tiers.MIXTURES} | {"copy": {"copy": 11, "likeness": 1}}
    lines = tiers.table([audit, audit]).splitlines()
    assert lines[2] == "| copy | 22 of 24 | 2 of 24 | 0 of 24 |" and len(lines) == 2 + len(tiers.MIXTURES)
