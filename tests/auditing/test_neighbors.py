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
from scripts.auditing.neighbors import nearest_images, nearest_subjects

UNITS = np.array([0, 1, 1, 1, 2, 2, 3])


def unit_vectors(rng, count, dimension=5) -> np.ndarray:
    x = rng.normal(size=(count, dimension))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def search():
    """Seven queries, 60 references of 9 subjects in mixed order and unequal number."""
    rng = np.random.default_rng(0)
    subjects = rng.permutation(np.r_[np.arange(9), rng.integers(0, 4, 51)])
    return {"queries": unit_vectors(rng, 7), "references": unit_vectors(rng, 60), "subjects": subjects}


def brute_force(queries, references, subjects, k, units, exclude):
    chosen, images, similarities = [], [], []
    for unit, barred in zip(np.unique(units), exclude):
        members = np.flatnonzero(units == unit)
        table = {}
        for s in set(subjects.tolist()) - {barred}:
            rows = np.flatnonzero(subjects == s)
            table[s] = [max((float(queries[q] @ references[r]), r) for r in rows) for q in members]
        order = sorted(table, key=lambda s: -np.mean([value for value, _ in table[s]]))[:k]
        chosen.append(order)
        for n in range(len(members)):
            images.append([table[s][n][1] for s in order])
            similarities.append([table[s][n][0] for s in order])
    return chosen, images, similarities


@pytest.mark.parametrize("units", [np.arange(7), UNITS])
@pytest.mark.parametrize("excluded", [False, True])
def test_search_equals_a_loop(search, units, excluded):
    exclude = np.array([3, -1, 0, 5, 1, -1, 2])[: len(np.unique(units))] if excluded else np.full(7, -1)
    expected = brute_force(**search, k=4, units=units, exclude=exclude)
    got = nearest_subjects(**search, k=4, units=units, exclude=exclude if excluded else None)
    np.testing.assert_array_equal(got.subject, expected[0])
    np.testing.assert_array_equal(got.image, expected[1])
    np.testing.assert_allclose(got.similarity, expected[2], atol=1e-6)


@pytest.mark.parametrize("block", [1, 7, 59, 60])
def test_result_does_not_depend_on_block(search, block):
    whole = nearest_subjects(**search, k=6, units=UNITS)
    parts = nearest_subjects(**search, k=6, units=UNITS, block=block)
    np.testing.assert_array_equal(parts.subject, whole.subject)
    np.testing.assert_array_equal(parts.image, whole.image)
    np.testing.assert_allclose(parts.similarity, whole.similarity, rtol=1e-12)


@pytest.mark.parametrize("block", [64, 100, 2048])
def test_of_one_image_a_subject_the_search_is_faiss(block):
    faiss = pytest.importorskip("faiss", reason="needs faiss-cpu, the oracle of the search")
    rng = np.random.default_rng(2)
    queries, references = unit_vectors(rng, 150, 24), unit_vectors(rng, 700, 24)
    index = faiss.IndexFlatIP(24)
    index.add(references)
    similarity, image = index.search(queries, 8)
    got = nearest_subjects(queries, references, np.arange(700), 8, block=block)
    np.testing.assert_array_equal(got.image, image)
    np.testing.assert_allclose(got.similarity, similarity, atol=1e-6)


def test_units_of_one_query_each_are_queries(search):
    """Both ways through the search agree: of each query alone, and as the first of a unit of two equal ones."""
    twice = {**search, "queries": np.repeat(search["queries"], 2, axis=0)}
    exclude = np.array([3, -1, 0, 5, 1, -1, 2])
    one, two = (
        nearest_subjects(**data, k=5, units=units, exclude=exclude)
        for data, units in ((search, None), (twice, np.repeat(np.arange(7), 2)))
    )
    np.testing.assert_array_equal(one.subject, two.subject)
    np.testing.assert_array_equal(one.image, two.image[::2])


def test_tables_of_units_in_parts_are_those_of_the_whole(search, monkeypatch):
    whole = nearest_subjects(**search, k=6, units=UNITS)
    monkeypatch.setattr("scripts.auditing.neighbors.TABLE", 20)  # two queries and nine subjects
    parts = nearest_subjects(**search, k=6, units=UNITS)
    np.testing.assert_array_equal(whole.subject, parts.subject)
    np.testing.assert_array_equal(whole.image, parts.image)


def test_order_of_the_references_does_not_matter(search):
    order = np.random.default_rng(1).permutation(60)
    whole = nearest_subjects(**search, k=5)
    moved = nearest_subjects(search["queries"], search["references"][order], search["subjects"][order], k=5)
    np.testing.assert_array_equal(moved.subject, whole.subject)
    np.testing.assert_array_equal(order[moved.image], whole.image)


def test_fewer_candidates_are_the_first_of_more(search):
    np.testing.assert_array_equal(
        nearest_subjects(**search, k=2).subject, nearest_subjects(**search, k=9).subject[:, :2]
    )


def test_a_subject_with_many_near_images_is_found_once():
    angles = np.deg2rad(np.r_[np.linspace(1, 2, 100), 30, 60])
    references = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    got = nearest_subjects(np.float32([[1, 0]]), references, np.r_[np.full(100, 1), 2, 0], k=3)
    assert got.subject.tolist() == [[1, 2, 0]] and got.image.tolist() == [[0, 100, 101]]
    np.testing.assert_allclose(got.similarity, np.cos(np.deg2rad([[1, 30, 60]])), atol=1e-6)


def test_a_unit_ranks_subjects_by_the_mean_over_its_queries():
    # subject 0 is perfect for one query alone, subject 1 is good for both: 0.5 against 0.8
    references = np.float32([[1, 0, 0, 0], [0.8, 0.8, 0, 0.0]])
    queries = np.eye(4, dtype=np.float32)[:2]
    assert nearest_subjects(queries, references, np.arange(2), 1).subject.tolist() == [[0], [1]]
    got = nearest_subjects(queries, references, np.arange(2), 2, units=np.zeros(2, int))
    assert got.subject.tolist() == [[1, 0]]
    np.testing.assert_allclose(got.similarity, [[0.8, 1], [0.8, 0]])


def test_missing_candidates_are_marked():
    eye = np.eye(3, dtype=np.float32)
    one = nearest_subjects(eye, eye, np.zeros(3, int), k=6)
    assert one.subject.tolist() == [[0, -1, -1, -1, -1, -1]] * 3
    assert one.image[:, 0].tolist() == [0, 1, 2] and (one.image[:, 1:] == -1).all()
    assert np.isneginf(one.similarity[:, 1:]).all() and (one.similarity[:, 0] == 1).all()
    left_out = nearest_subjects(eye, eye, np.zeros(3, int), k=2, exclude=np.array([-1, 0, -1]))
    assert left_out.subject[:, 0].tolist() == [0, -1, 0] and left_out.image[1].tolist() == [-1, -1]
    unused = nearest_subjects(eye[:1], eye, np.array([0, 4, 4]), k=3)  # numbers 1 to 3 have no image
    assert unused.subject.tolist() == [[0, 4, -1]]


def test_empty_sets():
    eye = np.eye(3, dtype=np.float32)
    nothing = nearest_subjects(eye, eye[:0], np.zeros(0, int), k=2)
    assert (nothing.subject == -1).all() and (nothing.image == -1).all() and np.isneginf(nothing.similarity).all()
    assert [part.shape for part in nearest_subjects(eye[:0], eye, np.arange(3), k=2)] == [(0, 2)] * 3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"queries": np.zeros((7, 4))}, r"\(7, 4\) and \(60, 5\)"),
        ({"queries": np.zeros(5)}, r"expected embeddings \(Q, D\)"),
        ({"subjects": np.zeros(59, int)}, r"one number a reference, 60, got \(59,\)"),
    ],
)
def test_errors_name_the_argument(search, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        nearest_subjects(**{**search, "k": 3, **change})


def test_nearest_images_of_chosen_subjects_equal_a_loop(search):
    chosen = np.array([[0, 5, -1], [8, 3, 1], [2, 2, 7], [-1, -1, -1], [4, 0, 6], [1, 2, 3], [5, 6, 7]])
    got = nearest_images(search["queries"], search["references"], search["subjects"], chosen, 3)
    assert got.shape == (7, 3, 3)
    for (q, c), subject in np.ndenumerate(chosen):
        rows = np.flatnonzero(search["subjects"] == subject)
        order = rows[np.argsort(-(search["references"][rows] @ search["queries"][q]))][:3]
        assert got[q, c].tolist() == [*order, *[-1] * (3 - len(order))]


def test_nearest_images_of_nobody_are_none():
    empty = np.zeros((0, 5), np.float32)
    assert (nearest_images(empty[:0], empty, np.zeros(0, int), np.zeros((0, 2), int), 2) == -1).all()
