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

from dataclasses import replace

import numpy as np
import pytest
from audits import Pooled, audit, embedded
from scripts.auditing.audit import Audit
from scripts.auditing.parts import Parts, paste_part, strongest_squares
from scripts.auditing.search import Search
from scripts.decision.statistic import LocalStatistic
from scripts.images.augmentations import RandCopyd
from scripts.report.tables import MatchRows
from scripts.similarity.squares import grid_of_squares
from scripts.similarity.verification import Verifier
from textures import SHAPE, textured

GRID = grid_of_squares((40, 40), (16, 24))


def test_the_square_in_which_one_candidate_stands_out_most_decides():
    rng = np.random.default_rng(0)
    squares = rng.uniform(0.2, 0.8, (3, 7, len(GRID))).astype(np.float32)
    squares[1, 4, 20] = 0.999
    squares[2, :, :30] = -np.inf  # one background
    got, value = strongest_squares(squares, GRID, LocalStatistic())
    for query in range(3):
        each = [
            LocalStatistic()(squares[query, :, w])[0] * (GRID[w, 2] - 6) / (GRID[:, 2].min() - 6)
            for w in range(len(GRID))
        ]
        assert got[query] == np.argmax(each) and value[query] == pytest.approx(max(each))
    assert got[1] == 20


def test_without_a_statistic_the_most_alike_square_is_taken():
    squares = np.full((1, 3, len(GRID)), 0.1, np.float32)
    squares[0, 1, 9] = 0.6
    got, value = strongest_squares(squares, GRID, LocalStatistic())
    assert got == 9 and np.isneginf(value).all()


def test_of_several_slices_the_most_striking_one_decides():
    parts = Parts.of(
        np.array([0, 0, 1, 1, 1]), np.array([1.0, 3.0, 2.0, -np.inf, 2.5]), np.array([0, 5, 2, 1, -1]), GRID
    )
    assert parts.row.tolist() == [1, 4] and parts.square.tolist() == [GRID[5].tolist(), GRID[-1].tolist()]
    assert parts.weight.tolist() == [1.0, (24 - 6) / (16 - 6)]
    nothing = np.zeros(0, np.int64)
    assert len(Parts.of(nothing, nothing.astype(float), nothing, GRID).row) == 0


def test_a_pasted_part_is_the_source_inside_and_the_host_outside():
    host, source = textured(1), textured(2)
    mixed = paste_part(host, source, 30, np.random.RandomState(0))
    same_as = [np.isclose(mixed, image, atol=1e-6) for image in (host, source)]
    taken = same_as[1] & ~same_as[0]
    assert 0.45 * np.pi * 15**2 < taken.sum() < np.pi * 15**2 and same_as[0].mean() > 0.85
    assert (host[taken] > 0.1).mean() > 0.8, "it lies in the object"
    again, other = (paste_part(host, source, 30, np.random.RandomState(seed)) for seed in (0, 1))
    np.testing.assert_array_equal(mixed, again)
    assert (mixed != other).any()
    blank = paste_part(np.zeros(SHAPE, np.float32), source, 30, np.random.RandomState(0))
    assert blank[48, 56] == pytest.approx(source[48, 56]), "without an object it lies in the middle"


def person(seed: int) -> np.ndarray:
    """An anatomy that all share, and detail that is one's own."""
    return 0.6 * textured(999) + 0.4 * textured(seed, smoothness=2.0)


@pytest.fixture(scope="module")
def searched():
    """An audit of six parts and six new images against 16 people of two images each, of which every first is copied."""
    people = np.stack([person(seed) for seed in range(32)])
    rng = np.random.RandomState(0)
    copies = [paste_part(person(100 + i), people[2 * i], 36, rng) for i in range(6)]
    new = [person(200 + i) for i in range(6)]
    items = [{"id": f"p{i // 2:02d}{'ab'[i % 2]}", "image": "", "subject_id": f"p{i // 2:02d}"} for i in range(32)]
    train = replace(embedded(people), items=items)
    engine = audit(k=16, part_sizes=[24.0, 36.0], images_a_subject=2, bends=[1.0], bent_images=4)
    engine.verifier = Verifier(window=16)
    return engine(train, embedded(np.stack(copies + new), "g"))


def test_copies_of_parts_are_called_with_their_source_and_where_it_is(searched):
    assert searched.memorized.tolist() == [True] * 6 + [False] * 6
    rows = MatchRows(searched)
    assert [row.train_id for row in rows[:6]] == [f"p{i:02d}a" for i in range(6)]
    for row, image in zip(rows[:6], searched.units.images.astype(np.float32)):
        i, j, side = map(int, row.part.split())
        source = searched.train.images[2 * rows.index(row)].astype(np.float32)
        assert np.abs(image - source)[i : i + side, j : j + side].mean() < 0.03, "the square shows the copied part"
        cosine = float(searched.units.vectors[rows.index(row)] @ searched.train.vectors[2 * rows.index(row)])
        assert row.similarity == pytest.approx(cosine, abs=1e-5), "that of the image whose part was copied"
    assert (searched.detail[:6] > 0.9).all() and np.isnan(searched.detail[6:]).all()


def test_the_control_copies_parts_and_the_wider_ones_are_found_better(searched):
    narrow, wide = searched.control.parts
    assert (narrow.pixels, wide.pixels) == (24, 36) and narrow.recall <= wide.recall == searched.control.recall
    assert wide.recall > 0.5 and [bent.pixels for bent in searched.control.bent] == [1.0]


def test_an_image_that_shows_next_to_nothing_is_nobodys_copy():
    """Its background agrees with whatever part of a person lies there once that is fitted to its contrast."""
    people = embedded(np.stack([person(seed) for seed in range(8)]))
    small = np.zeros((1, *SHAPE), np.float32)
    small[0, 40:50, 40:50] = 0.5
    engine = Search(people.vectors, people.images, np.arange(8), Verifier(window=16), 8)
    found = engine(engine.units(embedded(small), np.full(1, -1)))
    assert found.statistic[0] < 1 and found.best_ssim[0] < 0.8
    nothing = engine(engine.units(embedded(small * 0), np.full(1, -1)), np.array([3]))
    assert np.isneginf(nothing.statistic).all()
    assert (nothing.aligned_ssim[0, :7] == -1).all() and np.isneginf(nothing.aligned_ssim[0, 7])
    assert (
        3 not in nothing.subject[0, :7]
        and len(engine(engine.units(people, np.zeros(8), np.zeros(0, int))).statistic) == 0
    )


def test_whole_images_have_no_parts():
    people = embedded(np.stack([textured(seed) for seed in range(8)]))
    result = audit(k=6)(people, people)
    assert result.found.parts is None and result.control.parts == []
    assert {row.part for row in MatchRows(result)} == {""}


@pytest.mark.parametrize("sizes", [[], [0.0], [20.0, -1.0], "abc", 5, ["20"]])
def test_sizes_of_parts_are_positive(sizes):
    with pytest.raises(ValueError, match="part_sizes must be positive numbers, at least one, got"):
        audit(part_sizes=sizes)


def test_parts_that_no_window_fits_into_are_refused():
    with pytest.raises(
        ValueError, match=r"part_sizes: expected one of at least the window's 40 pixels, got \[20.0, 30.0\]"
    ):
        Audit(Pooled(), Verifier(window=40), RandCopyd("image"))
