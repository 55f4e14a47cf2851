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

import numpy as np
import pytest
from scripts.auditing.kinds import kind_shares, kinds_of_subjects


def people(sizes: list[int], images: int = 2, likeness: float = 0.5, dims: int = 200, seed: int = 0):
    """Unit vectors of images, and whose they are: subjects of a kind have this cosine, those of others none."""
    rng = np.random.default_rng(seed)
    kind = np.repeat(np.arange(len(sizes)), sizes)
    mean = np.eye(len(sizes), dims)[kind] * np.sqrt(likeness)
    own = rng.normal(size=(len(kind), dims)) * np.sqrt((1 - likeness) / dims)
    order = rng.permutation(len(kind))  # kinds do not stand together in the set
    vectors = np.repeat((mean + own)[order], images, axis=0)
    vectors += 0.1 / np.sqrt(dims) * rng.normal(size=vectors.shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), kind[order]


def same_groups(found: np.ndarray, truth: np.ndarray) -> bool:
    return len(set(zip(found, truth))) == len(set(found)) == len(set(truth))


@pytest.mark.parametrize("sizes", [[20, 20], [30, 8], [12, 9, 15], [400, 200]])  # of the last not all are compared
def test_kinds_are_told_apart(sizes):
    vectors, truth = people(sizes)
    found = kinds_of_subjects(vectors, np.repeat(np.arange(len(truth)), 2), 6)
    assert same_groups(found, truth)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [12, 30, 300])
def test_one_kind_stays_one(count, seed):
    vectors, truth = people([count], seed=seed)
    assert not kinds_of_subjects(vectors, np.repeat(np.arange(count), 2), 6).any()


def test_a_kind_of_few_subjects_is_none():
    vectors, truth = people([40, 5])
    assert not kinds_of_subjects(vectors, np.repeat(np.arange(45), 2), 6).any()
    vectors, truth = people([100, 9])  # fewer than a tenth
    assert not kinds_of_subjects(vectors, np.repeat(np.arange(109), 2), 6).any()


def test_vectors_without_any_likeness_and_empty_sets_are_of_one_kind():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 300)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert not kinds_of_subjects(vectors - vectors.mean(0), np.arange(40), 6).any()
    assert kinds_of_subjects(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), 6).shape == (0,)
    assert not kinds_of_subjects(np.ones((30, 4), np.float32) / 2, np.arange(30), 6).any()


def test_shares_of_kinds_are_largest_first():
    assert kind_shares(np.zeros(9, int)) == kind_shares(np.zeros(0, int)) == []
    assert kind_shares(np.array([0, 1, 1, 2])) == [0.5, 0.25, 0.25]
