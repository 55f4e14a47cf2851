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
"""The search by torch finds the images that the processor's search finds, whatever its blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scripts.auditing import batched_neighbors
from scripts.auditing.neighbors import nearest_subjects

CPU = torch.device("cpu")


def unit_vectors(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = rng.normal(size=(count, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def by_torch(queries, references, subjects, k, barred, block):
    order = np.argsort(subjects, kind="stable")
    return batched_neighbors.best_of_queries(queries, references, subjects, order, k, barred, CPU, block)


@pytest.mark.parametrize("block", [(7, 11), (50, 64), (1000, 1000)])
@pytest.mark.parametrize("people", [4, 40, 300])
def test_it_is_the_search_of_the_processor(people, block):
    rng = np.random.default_rng(people)
    queries, references = unit_vectors(rng, 50), unit_vectors(rng, 300)
    subjects, barred = rng.integers(0, people, 300), rng.integers(-1, people, 50)
    expected = nearest_subjects(queries, references, subjects, 6, exclude=barred)
    subject, image = by_torch(queries, references, subjects, 6, barred, block)
    np.testing.assert_array_equal(subject, expected.subject)
    np.testing.assert_array_equal(image, expected.image)


def test_of_equal_images_the_lowest_subject_and_row_stays_though_they_lie_in_other_blocks():
    rng = np.random.default_rng(0)
    references = unit_vectors(rng, 12)
    references[[3, 8, 11]] = references[5]
    subjects = np.array([9, 8, 7, 4, 5, 2, 6, 1, 2, 3, 0, 4])
    subject, image = by_torch(references[5:6], references, subjects, 2, np.array([-1]), (1, 3))
    assert subject.tolist() == [[2, 4]] and image.tolist() == [[5, 3]]


def test_where_there_are_fewer_subjects_the_rest_is_none():
    rng = np.random.default_rng(0)
    references = unit_vectors(rng, 5)
    subject, image = by_torch(references[:1], references, np.array([0, 0, 1, 1, 2]), 4, np.array([1]), (1, 2))
    assert subject[0, 2:].tolist() == [-1, -1] and image[0, 2:].tolist() == [-1, -1]
    assert sorted(subject[0, :2].tolist()) == [0, 2]


def test_no_query_has_no_neighbours():
    references = unit_vectors(np.random.default_rng(0), 5)
    subject, image = by_torch(references[:0], references, np.arange(5), 3, np.empty(0, np.int64), (4, 4))
    assert subject.shape == image.shape == (0, 3)


@pytest.mark.skipif("not torch.cuda.is_available()", reason="needs a GPU; make gpu-check asks the same of one")
def test_on_a_gpu_it_finds_the_same():
    rng = np.random.default_rng(1)
    arguments = unit_vectors(rng, 500), unit_vectors(rng, 4000), rng.integers(0, 900, 4000), 6
    found, expected = nearest_subjects(*arguments, device="cuda"), nearest_subjects(*arguments)
    np.testing.assert_array_equal(found.subject, expected.subject)
    np.testing.assert_allclose(found.similarity, expected.similarity, atol=1e-6)
