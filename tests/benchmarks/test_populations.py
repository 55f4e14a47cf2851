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


"""Simulated people and their copies lie where they are said to."""

from __future__ import annotations

import numpy as np
import pytest
from populations import POPULATIONS, copies_of
from scipy.spatial.distance import pdist, squareform


@pytest.mark.parametrize("name", POPULATIONS)
def test_a_population_is_drawn_again_from_its_seed_and_people_differ(name):
    first, again = (POPULATIONS[name](np.random.RandomState(3))(40) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.ndim == 2 and len(first) == 40 and pdist(first).min() > 0


def test_copies_lie_at_a_share_of_the_median_distance_between_neighbours():
    train = np.array([[0.0], [1.0], [3.0], [7.0]])  # distances to the nearest: 1, 1, 2, 4; median 1.5
    copies = copies_of(train, np.array([3, 0, 3]), np.random.RandomState(0), closeness=0.2)
    np.testing.assert_allclose(np.abs(copies - train[[3, 0, 3]]), 0.3)


def test_copies_of_nobody():
    train = POPULATIONS["iid"](np.random.RandomState(0))(10)
    assert copies_of(train, np.array([], int), np.random.RandomState(0)).shape == (0, 20)


def test_a_tenth_of_people_have_look_alikes():
    people = POPULATIONS["look-alikes"](np.random.RandomState(0))(4000)
    distance = squareform(pdist(people))
    np.fill_diagonal(distance, np.inf)
    # two of one face are 0.1 sqrt(40) = 0.63 apart; 400 people have 200 faces, so that most share theirs
    assert 0.06 < (distance.min(1) < 1).mean() < 0.12
    assert distance.min(1).max() > 2


def test_people_of_a_kind_are_nearer_than_people_of_two():
    distance = pdist(POPULATIONS["clustered"](np.random.RandomState(0))(300))
    # sqrt(16) = 4 within a kind, five times the spread between: a gap where neither lies often
    assert (distance < 7).mean() == pytest.approx(0.1, abs=0.05)
