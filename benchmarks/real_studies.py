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

"""Do the error rates hold on real slices? Each study is many audits of random splits of the same subjects."""

from __future__ import annotations

from time import perf_counter
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from real_slices import Outcome, RealSlices, Scenario
from scipy import ndimage
from scripts.auditing.degradation import Change, Degradation
from scripts.decision.rates import exact_interval
from scripts.similarity.verification import Verifier
from tqdm import tqdm

__all__ = [
    "FalseAlarms",
    "KnownTruth",
    "Recovery",
    "blurred",
    "false_alarms",
    "known_transforms",
    "known_truth",
    "noisy",
]

GRID = 37  # every so many pixels of the head are followed


def blurred(images: NDArray, rng: np.random.RandomState) -> NDArray[np.float32]:
    """Return images (N, H, W) blurred by one pixel (sigma)."""
    return Degradation(blur=1.0)(images, rng)


def noisy(images: NDArray, rng: np.random.RandomState) -> NDArray[np.float32]:
    """Return images (N, H, W) with noise of 0.04 of the range."""
    return Degradation(noise=0.04)(images, rng)


class FalseAlarms(TypedDict):
    """In how many audits anything was called where nothing is a copy, with its interval, and the type-I error."""

    audits: int
    with_a_call: int
    ci95: list[float]
    type_one: float


class KnownTruth(TypedDict):
    """Mean recall and false share of audits with copies, and how many of all their calls were wrong."""

    audits: int
    recall: float
    mean_false_share: float
    called: int
    wrong: int


def false_alarms(slices: RealSlices, splits: int, change: Change | None = None, raw: bool = False) -> FalseAlarms:
    """Return in how many audits anything is called, where nothing is copied."""
    found = _audits(slices, Scenario(change=change), splits, raw)
    count = sum(outcome.calls > 0 for outcome in found)
    return FalseAlarms(
        audits=splits,
        with_a_call=count,
        ci95=list(exact_interval(count, splits)),
        type_one=float(np.mean([outcome.type_one for outcome in found])),
    )


def known_truth(slices: RealSlices, scenario: Scenario, splits: int = 10) -> KnownTruth:
    """Return recall and wrong calls of audits with copies."""
    found = _audits(slices, scenario, splits)
    return KnownTruth(
        audits=splits,
        recall=float(np.mean([outcome.recall for outcome in found])),
        mean_false_share=float(np.mean([outcome.false_share for outcome in found])),
        called=sum(outcome.calls for outcome in found),
        wrong=round(sum(outcome.false_share * outcome.calls for outcome in found)),
    )


def _audits(slices: RealSlices, scenario: Scenario, splits: int, raw: bool = False) -> list[Outcome]:
    return [slices.run(seed, scenario, raw) for seed in tqdm(range(splits))]


class Recovery(TypedDict):
    """How many known moves the verifier does not recover, and its error."""

    failures: int
    pairs: int
    median_error_pixels: float
    largest_error_pixels: float
    milliseconds_a_pair: float


def known_transforms(slices: NDArray, count: int = 500, seed: int = 0) -> Recovery:
    """Return how many known moves of real slices (N, H, W) the verifier does not recover, and its error in pixels.

    Mirrored or not, turned by up to 15 degrees, shifted by up to a tenth of the image, scaled by up to a tenth, gamma
    0.7-1.4, all uniform. The error is the mean distance, over a grid on the head, between where a pixel came from and
    where the verifier says; above 1 pixel it has failed.
    """
    rng = np.random.RandomState(seed)
    references = slices[rng.randint(len(slices), size=count)].astype(np.float32)
    size = np.array(slices.shape[1:])
    truth = np.stack([_random_move(size, rng) for _ in range(count)])
    queries = np.stack([_moved(image, move) ** rng.uniform(0.7, 1.4) for image, move in zip(references, truth)])
    start = perf_counter()
    found = Verifier().align(queries, references)
    seconds = perf_counter() - start
    errors = np.array([_error(query, move, got) for query, move, got in zip(queries, truth, found.matrix)])
    return Recovery(
        failures=int((errors > 1).sum()),
        pairs=count,
        median_error_pixels=float(np.median(errors)),
        largest_error_pixels=float(np.max(errors)),
        milliseconds_a_pair=1000 * seconds / count,
    )


def _random_move(size: NDArray, rng: np.random.RandomState) -> NDArray[np.float64]:
    """Return a map (2, 3) of query to reference pixels, both counted from the image centre."""
    angle, scale = np.deg2rad(rng.uniform(-15, 15)), rng.uniform(0.9, 1.1)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack([turn * rng.choice([1, -1], 2), rng.uniform(-0.1, 0.1, 2) * size])


def _moved(image: NDArray, move: NDArray) -> NDArray[np.float32]:
    centre = (np.array(image.shape) - 1) / 2
    return ndimage.affine_transform(image, move[:, :2], centre + move[:, 2] - move[:, :2] @ centre, order=1)


def _error(query: NDArray, move: NDArray, found: NDArray) -> float:
    """Return the mean distance in pixels between where two maps say that the head's pixels came from."""
    points = np.argwhere(query > 0.1)[::GRID] - (np.array(query.shape) - 1) / 2
    difference = points @ (move - found)[:, :2].T + (move - found)[:, 2]
    return float(np.linalg.norm(difference, axis=1).mean())
