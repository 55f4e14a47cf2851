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

"""Simulated people as points in a space of features, an image each, and copies of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

__all__ = ["POPULATIONS", "Draw", "copies_of"]

Draw = Callable[[int], NDArray[np.float64]]  # how many different people -> their images (N, features)


def gaussian(features: int) -> Callable[[np.random.RandomState], Draw]:
    """Return the population of so many independent features."""

    def population(rng: np.random.RandomState) -> Draw:
        return lambda count: rng.normal(size=(count, features))

    return population


def clustered(rng: np.random.RandomState) -> Draw:
    """Return a draw of ten kinds of people, five times as far apart as people of a kind."""
    centres = 5 * rng.normal(size=(10, 8))
    return lambda count: centres[rng.randint(10, size=count)] + rng.normal(size=(count, 8))


def look_alikes(rng: np.random.RandomState) -> Draw:
    """Return a draw of people of whom a tenth have one of 200 faces that others have too, but for a little."""
    faces = rng.normal(size=(200, 20))

    def draw(count: int) -> NDArray[np.float64]:
        people = rng.normal(size=(count, 20))
        common = rng.rand(count) < 0.1
        people[common] = faces[rng.randint(200, size=common.sum())] + 0.1 * rng.normal(size=(common.sum(), 20))
        return people

    return draw


POPULATIONS = {
    "iid": gaussian(20),
    "eight-dimensional": gaussian(8),
    "low-dimensional": gaussian(5),
    # one stranger in 1,400 is as near as a copy is, so copies cannot stand out
    "three-dimensional": gaussian(3),
    "clustered": clustered,
    "look-alikes": look_alikes,
}


def copies_of(
    train: NDArray, which: NDArray, rng: np.random.RandomState, closeness: float = 0.1
) -> NDArray[np.float64]:
    """Return copies of rows `which` of `train`, (N, features).

    They lie at `closeness` times the median distance between neighbours, in random directions.
    """
    distance = cdist(train, train)
    np.fill_diagonal(distance, np.inf)
    step = rng.normal(size=(len(which), train.shape[1]))
    step /= np.linalg.norm(step, axis=1, keepdims=True)
    return train[which] + closeness * np.median(distance.min(1)) * step
