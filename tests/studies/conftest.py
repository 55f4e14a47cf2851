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
from helpers import ROOT, slices
from scripts.images.augmentations import RandCopyd, RandMisalignd
from scripts.similarity.verification import Verifier
from scripts.studies.pairs import DegradedCopies
from scripts.studies.rivals import Cosine, SearchMethod
from scripts.studies.study_results import CellResult, CopiesRow, CopyLeaks, Group, SeenRow, Slope, StudyResult


class Oracle(Cosine):
    """Sees through flips: an image is like itself and its flipped copies, by the best correlation of four."""

    def vectors(self, images):
        flat = images.reshape(len(images), -1) - images.mean((1, 2))[:, None]
        return (flat / np.linalg.norm(flat, axis=1, keepdims=True)).astype(np.float32)

    def pairs(self, first, second):
        return np.max([super(Oracle, self).pairs(first, turned) for turned in self.flips(second)], axis=0)

    def matrix(self, queries, references):
        return np.max([super(Oracle, self).matrix(turned, references) for turned in self.flips(queries)], axis=0)

    @staticmethod
    def flips(images):
        return images, images[:, ::-1], images[:, :, ::-1], images[:, ::-1, ::-1]


class Noise(SearchMethod):
    """Knows nothing."""

    def pairs(self, first, second):
        return np.random.default_rng(0).random(len(first))

    def matrix(self, queries, references):
        return np.random.default_rng(0).random((len(queries), len(references)), np.float32)


@pytest.fixture(scope="session")
def oracle():
    return Oracle()


@pytest.fixture(scope="session")
def noise():
    return Noise()


@pytest.fixture(scope="session")
def validation():
    return slices(6, 3)


@pytest.fixture(scope="session")
def test_slices():
    return slices(14, 3)


@pytest.fixture
def copies():
    """Makes copies that are hardly bent."""
    return DegradedCopies(RandCopyd("image", elastic=(0.1, 0.3), blur=(0.0, 0.2)), Verifier())


@pytest.fixture
def flip():
    """A condition that turns every image by half and changes its contrast."""
    return RandMisalignd("image", flip_prob=1.0, gamma_prob=1.0, gamma=(0.8, 1.25))


@pytest.fixture(scope="session")
def documented_json():
    """The JSON of the case study that the documentation shows."""
    return json.loads((ROOT / "docs" / "case_study.json").read_text())


@pytest.fixture(scope="session")
def documented(documented_json):
    """That case study."""
    content = documented_json
    leaks = CopyLeaks(
        [CopiesRow(**row) for row in content["copies"]],
        Slope(**content["slope"]),
        Group(**content["leaked_once"]),
        Group(**content["leaked_often"]),
    )
    cells = [CellResult.of_json(cell) for cell in content["cells"]]
    return StudyResult(content["samples"], cells, leaks, [SeenRow(**row) for row in content["seen"]])
