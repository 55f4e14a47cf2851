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
from audits import audit, embedded, images_of
from scripts.auditing.found_store import FoundStore
from scripts.auditing.naming import name_images
from scripts.auditing.search import Search
from scripts.embedder.embedding_set import EmbeddingSet
from scripts.similarity.verification import Verifier

PEOPLE, EACH = 12, 5


@pytest.fixture(scope="module")
def train() -> EmbeddingSet:
    """Twelve people with five images each, which differ more and more from the first."""
    first, other = images_of(PEOPLE, seed=0).astype(np.float32), images_of(PEOPLE, seed=9).astype(np.float32)
    weights = np.linspace(0, 0.5, EACH, dtype=np.float32)[:, None, None]
    images = np.concatenate([(1 - weights) * a + weights * b for a, b in zip(first, other)])
    return replace(embedded(images), items=[item(row) for row in range(len(images))])


def item(row: int) -> dict:
    return {"id": f"p{row // EACH:02d}_{row % EACH}", "image": "", "subject_id": f"p{row // EACH:02d}"}


def misled(train: EmbeddingSet, rows: list[int], slices: int = 1) -> EmbeddingSet:
    """Copies of training images whose embedding has another image of that subject as the nearest: the last one."""
    copies = embedded(train.images[rows].astype(np.float32), "g", slices=slices)
    copies.vectors[:] = train.vectors[[row // EACH * EACH + EACH - 1 for row in rows]]
    return copies


def search(train: EmbeddingSet, **more) -> Search:
    number = np.unique(train.subject_ids, return_inverse=True)[1]
    return Search(train.vectors, train.images, number, more.pop("verifier", Verifier()), 6, **more)


def test_the_image_that_was_copied_is_named_wherever_the_embedding_ranks_it(train):
    engine, copied = search(train), [0, 15, 31]
    units = engine.units(misled(train, copied), np.full(3, -1))
    found = engine(units)
    assert found.nearest.tolist() == [0, 3, 6] and found.at_best(found.image).tolist() != copied
    named = name_images(engine, units, found, np.array([True, True, False]), EACH)
    assert named.at_best(named.image).tolist() == [0, 15, found.at_best(found.image)[2]]
    assert (named.best_ssim[:2] > 0.99).all() and (named.best_ssim[:2] > found.best_ssim[:2]).all()
    for unit in range(2):
        pair = Verifier().align(units.images[[unit]], train.images[[copied[unit]]])
        np.testing.assert_allclose(named.at_best(named.matrix)[unit], pair.matrix[0], atol=1e-5)
        assert named.best_ssim[unit] == named.at_best(named.slice_ssim)[unit] == pytest.approx(pair.aligned_ssim[0])
        cosine = float(units.vectors[unit] @ train.vectors[copied[unit]])
        assert named.at_best(named.similarity)[unit] == pytest.approx(cosine, abs=1e-6)
    # what was decided by, and the other candidates, stay
    for key in ("statistic", "best", "subject", "unbent_ssim"):
        np.testing.assert_array_equal(getattr(named, key), getattr(found, key))
    other = np.ones_like(found.image, bool)
    other[[0, 1], found.best[:2]] = False
    for key in ("image", "slice_ssim", "aligned_ssim", "similarity", "matrix", "mirrored"):
        np.testing.assert_array_equal(getattr(named, key)[other], getattr(found, key)[other])


def test_as_many_images_are_tried_as_is_asked(train):
    engine = search(train, images_a_subject=1)
    units = engine.units(misled(train, [0]), np.full(1, -1))
    found = engine(units)
    order = np.argsort(-(train.vectors[:EACH] @ units.vectors[0]), kind="stable")
    for most in range(2, EACH + 3):
        named = name_images(engine, units, found, np.ones(1, bool), most)
        ssim = [Verifier().align(units.images[:], train.images[[row]]).aligned_ssim[0] for row in order[:most]]
        assert named.at_best(named.image)[0] == order[int(np.argmax(ssim))]


def test_a_turned_copy_is_found_where_the_nearest_image_lies_another_way(train):
    """Each is aligned from scratch: the map of the one that the search took is no start."""
    turned = train.images.astype(np.float32).copy()
    turned[EACH - 1] = turned[EACH - 1][::-1, ::-1]
    engine = search(replace(train, images=turned), images_a_subject=1)
    units = engine.units(misled(train, [1]), np.full(1, -1))
    named = name_images(engine, units, engine(units), np.ones(1, bool), EACH)
    assert named.at_best(named.image).tolist() == [1] and named.best_ssim[0] > 0.99


def test_nothing_changes_where_there_is_nothing_else_to_name(train):
    engine = search(train)
    units = engine.units(misled(train, [0, 5]), np.full(2, -1))
    found = engine(units)
    for chosen, most in (([False, False], EACH), ([True, True], 1)):
        assert name_images(engine, units, found, np.array(chosen), most) is found
    single = Search(train.vectors[::EACH], train.images[::EACH], np.arange(PEOPLE), Verifier(), 6)
    found = single(units)
    assert name_images(single, units, found, np.ones(2, bool), EACH) is found
    alone = Search(train.vectors[:EACH], train.images[:EACH], np.zeros(EACH, np.int64), Verifier(), 6)
    nobody = alone(units, np.zeros(2, np.int64))  # whom it must not find
    assert nobody.nearest.tolist() == [-1, -1]
    assert name_images(alone, units, nobody, np.ones(2, bool), EACH) is nobody


def test_of_a_cut_volume_every_slice_is_named_and_the_mean_is_theirs(train):
    engine = search(train, whole_files=True, images_a_subject=1)
    units = engine.units(misled(train, [10, 11, 12, 20, 21, 22], slices=3), np.full(6, -1))
    found = engine(units)
    named = name_images(engine, units, found, np.array([True, False]), EACH)
    columns = named.best[units.unit]
    assert named.image[np.arange(6), columns].tolist()[:3] == [10, 11, 12]
    assert named.best_ssim[0] == pytest.approx(named.slice_ssim[np.arange(3), columns[:3]].mean()) and (
        named.best_ssim[0] > found.best_ssim[0]
    )
    assert named.best_ssim[1] == found.best_ssim[1]


def test_of_a_part_the_image_is_named_that_agrees_in_the_square_which_decided(train):
    verifier = Verifier(window=16)
    engine = search(train, images_a_subject=1, verifier=verifier)
    units = engine.units(misled(train, [25]), np.full(1, -1))
    found = engine(units)
    named = name_images(engine, units, found, np.ones(1, bool), EACH)
    assert named.nearest.tolist() == [5] and named.at_best(named.image).tolist() == [25]
    grid = verifier.grid(train.images.shape[1:])
    square = np.flatnonzero((grid == found.parts.square[0]).all(1))[0]
    pair = verifier.align(units.images[:], train.images[[25]])
    assert named.best_ssim[0] == pytest.approx(pair.squares[0, square]) and named.best_ssim[0] > found.best_ssim[0]


def test_an_audit_names_the_copied_image_and_judges_its_detail(train):
    copied = [0, 7, 13, 24]
    generated = embedded(
        np.concatenate([train.images[copied].astype(np.float32), images_of(8, seed=77).astype(np.float32)]), "g"
    )
    generated.vectors[:4] = train.vectors[[row // EACH * EACH + (row + 3) % EACH for row in copied]]
    results = {most: audit(images_a_subject=1, named_images=most)(train, generated) for most in (1, EACH)}
    assert results[1].memorized[:4].all()
    np.testing.assert_array_equal(results[1].p_value, results[EACH].p_value)
    rows = [results[EACH].match(unit) for unit in range(4)]
    assert [row.train_row for row in rows] == copied and [row.train_file for row in rows] == copied
    assert (results[EACH].detail[:4] > results[1].detail[:4]).all() and results[EACH].copy[:4].all()
    assert results[EACH].control.image_found >= results[1].control.image_found
    assert 0.8 < results[EACH].control.image_found <= 1
    for unit in range(12):
        assert results[EACH].found.best_ssim[unit] >= results[1].found.best_ssim[unit]


def test_what_was_named_is_kept_and_read_again(train, tmp_path, monkeypatch):
    engine = search(train, store=FoundStore(tmp_path))
    units = engine.units(misled(train, [0, 15]), np.full(2, -1))
    found, both = engine(units), np.ones(2, bool)
    named = name_images(engine, units, found, both, EACH)
    monkeypatch.setattr(Verifier, "align", None)
    again = name_images(engine, units, found, both, EACH)
    for key in ("image", "slice_ssim", "matrix", "mirrored", "aligned_ssim", "similarity"):
        np.testing.assert_array_equal(getattr(again, key), getattr(named, key))
    with pytest.raises(TypeError):  # others are aligned
        name_images(engine, units, found, both, EACH - 1)


def test_of_two_files_with_one_image_either_is_the_right_one(train):
    """Each image stands in the set twice: nothing can tell which of the two was copied."""
    twice = replace(
        embedded(train.images.repeat(2, axis=0)), items=[item(row // 2) | {"id": str(row)} for row in range(120)]
    )
    generated = embedded(images_of(8, seed=77), "g")
    alone, both = (audit()(data, generated).control for data in (train, twice))
    assert both.image_found == pytest.approx(alone.image_found, abs=0.1) and both.image_found > 0.8
    assert alone.image_found_ci95[0] < alone.image_found <= alone.image_found_ci95[1]


def test_how_many_are_named_must_be_positive():
    with pytest.raises(ValueError, match="named_images must be at least 1, got 0"):
        audit(named_images=0)
