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


"""Which subjects are one person: found among many twins, hardly ever among strangers of any dimension."""

from __future__ import annotations

import numpy as np
import pytest
from populations import POPULATIONS, copies_of
from scipy.spatial.distance import cdist
from scripts.decision.near_copies import joined, near_copies, shared_people
from scripts.decision.statistic import local_statistic
from simulated import strangers_merged

LEVEL = 0.05


def searched(points: np.ndarray, others: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Statistic, second statistic and nearest of points among the other ones, or among those of another set."""
    distance = cdist(points, points if others is None else others)
    if others is None:
        np.fill_diagonal(distance, np.inf)
    nearest = distance.argmin(1)
    first = local_statistic(1 - distance)
    distance[np.arange(len(points)), nearest] = np.inf
    return first, local_statistic(1 - distance), nearest


def groups_of(points: np.ndarray, subject: np.ndarray | None = None) -> list[list[int]]:
    first, second, nearest = searched(points)
    subject = np.arange(len(points)) if subject is None else subject
    return near_copies(first, second, subject, nearest, LEVEL)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("people", [20, 60])
def test_people_under_two_ids_are_found_however_many(people, share):
    found = twins = wrong = 0
    for seed in range(20):
        rng = np.random.RandomState(seed)
        points = POPULATIONS["iid"](rng)(people)
        twice = np.arange(max(1, round(share * people)))
        groups = groups_of(np.concatenate([points, copies_of(points, twice, rng, closeness=0.3)]))
        true = [[int(i), people + int(i)] for i in twice]
        found, twins = found + sum(group in true for group in groups), twins + len(twice)
        wrong += sum(group not in true for group in groups)
    assert found >= 0.97 * twins and wrong <= 0.05 * twins + 1


@pytest.mark.parametrize("population", ["iid", "low-dimensional", "three-dimensional", "clustered"])
@pytest.mark.parametrize("people", [15, 100])
def test_strangers_are_one_person_in_hardly_more_audits_than_the_level(population, people):
    audits = 150
    merged = strangers_merged(population, people, audits)
    assert merged <= audits * LEVEL + 3 * np.sqrt(audits * LEVEL)


def test_a_third_id_joins_and_each_group_is_ascending():
    rng = np.random.RandomState(3)
    points = rng.normal(size=(30, 20))
    thrice = copies_of(points, np.array([5, 5, 9]), rng)
    assert groups_of(np.concatenate([points, thrice])) == [[5, 30, 31], [9, 32]]


def test_several_images_of_a_subject_count_together():
    # of the first pair's three images two are nearest to strangers: alike at one level is not one person
    statistic = np.array([9.0, 0.1, 0.1, 9.0, 0.1, 0.1, *[0.1] * 6])
    second, subject = np.full(12, 0.8), np.repeat(np.arange(4), 3)
    nearest = np.array([1, 2, 3, 0, 2, 3, 3, 3, 3, 2, 2, 2])
    assert near_copies(statistic, second, subject, nearest, LEVEL) == []
    statistic[:6], nearest[:6] = 9.0, [1, 1, 1, 0, 0, 0]
    assert near_copies(statistic, second, subject, nearest, LEVEL) == [[0, 1]]
    # one image of the first is nearest to a stranger, though not as near
    statistic[2], nearest[2] = 0.1, 3
    assert near_copies(statistic, second, subject, nearest, LEVEL) == [[0, 1]]


def test_an_image_without_a_statistic_says_nothing_of_its_subject():
    statistic, second = np.array([9.0, -np.inf, 9.0, 0.1]), np.full(4, 0.5)
    assert near_copies(statistic, second, np.array([0, 0, 1, 2]), np.array([1, 1, 0, 0]), LEVEL) == [[0, 1]]


def test_nothing_to_compare_finds_nobody():
    none = np.full(3, -np.inf)
    assert near_copies(none, none, np.arange(3), np.full(3, -1), LEVEL) == []
    assert near_copies(np.zeros(0), np.zeros(0), np.zeros(0, int), np.zeros(0, int), LEVEL) == []
    assert near_copies(np.ones(4), np.zeros(4), np.arange(4), np.array([1, 0, 3, 2]), LEVEL) == []  # no scale
    assert shared_people(none, none, np.arange(3), np.full(3, -1), LEVEL) == []


def test_a_null_of_some_subjects_may_name_others_as_nearest():
    first, second = np.full(4, 9.0), np.full(4, 0.5)
    assert near_copies(first, second, np.array([2, 5, 7, 9]), np.array([5, 2, 100, 7]), LEVEL) == [[2, 5]]


def test_pairs_that_were_not_searched_count_as_strangers():
    first, second = np.array([4.0, 4.0, 0.1, 0.1]), np.full(40, 0.5)
    subject, nearest = np.arange(4), np.array([1, 0, 3, 2])
    assert near_copies(first, second, subject, nearest, LEVEL) == [[0, 1]]
    assert near_copies(first, second, subject, nearest, LEVEL, untested=200) == []
    # near the level, a single pair that was not searched makes the difference
    first[:2] = 2.99
    pair = first[:2], second, subject[:2], nearest[:2], LEVEL
    assert near_copies(*pair) == [[0, 1]] and near_copies(*pair, untested=1) == []


def test_who_stands_in_two_sets_is_named():
    rng = np.random.RandomState(4)
    train, holdout = rng.normal(size=(40, 20)), rng.normal(size=(20, 20))
    holdout[[3, 8]] = copies_of(train, np.array([11, 30]), rng)
    first, second, nearest = searched(holdout, train)
    assert shared_people(first, second, np.arange(20), nearest, LEVEL) == [(3, 11), (8, 30)]
    clean = np.delete(np.arange(20), [3, 8])
    assert shared_people(first[clean], second[clean], clean, nearest[clean], LEVEL) == []


def test_groups_that_share_a_number_are_one():
    assert joined([[5, 2], [7], [2, 9], [1, 3]]) == [[1, 3], [2, 5, 9]]
    assert joined([]) == joined([[4]]) == []
