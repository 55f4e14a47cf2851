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

"""Which subjects leak: against their copies in training, and against how often an image of theirs was seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from ..decision.rates import exact_interval
from .study_results import CellResult, CopiesRow, CopyLeaks, Group, SeenRow, Slope

__all__ = ["copies_slope", "leaks_by_copies", "leaks_by_sight"]


OFTEN = 10  # copies of a subject, against one
SEEN = (0, 100, 200, 300, 400, 500, 600, 800)  # times that an image was seen in training
PRIOR_DEVIATION = 10.0  # of the coefficients, weak: odds of e^10 are not unlikely


def leaks_by_copies(cells: Sequence[CellResult]) -> CopyLeaks | None:
    """Return the leaks of every number of copies and the slope over it, of all models with repeated subjects.

    None where no model has any.
    """
    trained = [(r, subject) for r in cells if r.cell.duplication != "none" for subject in r.subjects]
    if not trained:
        return None
    copies = np.array([subject.copies for _, subject in trained])
    leaked = np.array([subject.leaked for _, subject in trained])
    duplication = np.array([r.cell.duplication for r, _ in trained])
    model = np.array([r.model for r, _ in trained])
    rows = [
        CopiesRow(kind, count, *_leaks(leaked[(duplication == kind) & (copies == count)]))
        for kind, count in sorted({(r.cell.duplication, subject.copies) for r, subject in trained})
    ]
    often = np.isin(model, model[copies >= OFTEN])  # models that have such subjects
    once, many = (leaked[chosen & often] for chosen in (copies == 1, copies >= OFTEN))
    return CopyLeaks(
        rows,
        copies_slope(copies, leaked, np.array([subject.subject_id for _, subject in trained]), model),
        Group(len(once), int(once.sum())),
        Group(len(many), int(many.sum())),
    )


def leaks_by_sight(cells: Sequence[CellResult], edges: Sequence[int] = SEEN) -> list[SeenRow]:
    """Return the leaked subjects of all models by how often an image of theirs was seen: passes times copies.

    Args:
        cells: of all models.
        edges: least number of each row, ascending; the last has no end. `seen` of a row is what it found.
    """
    subjects = [(s.copies * r.cell.passes, s.leaked) for r in cells for s in r.subjects]
    seen, leaked = np.array(subjects).T
    rows = []
    for least, end in zip(edges, [*edges[1:], np.inf]):
        chosen = (seen >= least) & (seen < end)
        if chosen.any():
            rows.append(SeenRow((int(seen[chosen].min()), int(seen[chosen].max())), *_leaks(leaked[chosen])))
    return rows


def _leaks(leaked: NDArray) -> tuple[int, int, tuple[float, float]]:
    """Return the number of subjects, of leaked ones, and the exact interval of their share."""
    count = int(leaked.sum())
    return len(leaked), count, exact_interval(count, len(leaked))


def copies_slope(
    copies: NDArray, leaked: NDArray, subjects: NDArray, models: NDArray, draws: int = 1000, seed: int = 0
) -> Slope:
    """Return the slope of the log odds of a leak over log2 of the copies, with its 95 % bootstrap interval.

    A logistic regression with an intercept for each model, as models differ in how much they leak at all. Coefficients
    have a normal prior of deviation 10, so that a slope exists where copies separate the leaked from the others.

    Args:
        copies, leaked: of each subject in each model's training (R,).
        subjects: ids (R,); people are resampled, with all trainings that they were in.
        models: names (R,).
        draws, seed: of the bootstrap.
    """
    names, model = np.unique(models, return_inverse=True)
    x = np.c_[np.eye(len(names))[model], np.log2(copies)]
    people, person = np.unique(subjects, return_inverse=True)
    rng = np.random.RandomState(seed)
    slopes = []
    for _ in range(draws):
        times = np.bincount(rng.choice(len(people), len(people)), minlength=len(people))
        slopes.append(_coefficients(x, leaked, times[person])[-1])
    *intercepts, slope = _coefficients(x, leaked, np.ones(len(x))).tolist()
    low, high = np.percentile(slopes, [2.5, 97.5])
    return Slope(slope, (float(low), float(high)), dict(zip(names.tolist(), intercepts)))


def _coefficients(x: NDArray, leaked: NDArray, weight: NDArray) -> NDArray[np.float64]:
    """Return the logistic regression's coefficients (D,) of rows `x` (R, D) that count `weight` (R,) times."""
    # every row with both outcomes, one of weight 0: the library refuses data in which nobody leaked
    outcome = np.repeat([1, 0], len(x))
    both = np.r_[weight * leaked, weight * ~leaked]
    model = LogisticRegression(C=PRIOR_DEVIATION**2, fit_intercept=False, solver="newton-cg", tol=1e-6)
    return model.fit(np.r_[x, x], outcome, both).coef_[0]
