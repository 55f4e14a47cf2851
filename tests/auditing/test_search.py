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
from audits import embedded, images_of
from scripts.auditing.search import Search
from scripts.decision.statistic import LocalStatistic
from scripts.similarity.verification import Verifier


@pytest.fixture(scope="module")
def train():
    return embedded(images_of(12, seed=0))


def search(train, **more) -> Search:
    return Search(train.vectors, train.images, np.arange(len(train)), Verifier(), **{"k": 6, **more})


def test_each_candidate_is_aligned_and_scored(train):
    query = embedded(np.concatenate([train.images[[7]], images_of(1, seed=3)]), "g")
    engine = search(train)
    found = engine(engine.units(query, np.full(2, -1)))
    assert found.nearest[0] == 7 and found.best_ssim[0] > 0.98 > found.best_ssim[1]
    for row in range(2):
        for column in range(6):
            pair = Verifier().align(query.images[[row]], train.images[[found.image[row, column]]])
            assert found.aligned_ssim[row, column] == pytest.approx(pair.aligned_ssim[0], abs=1e-5)
            assert found.unbent_ssim[row, column] == pytest.approx(pair.unbent_ssim[0], abs=1e-5)
    both = [LocalStatistic()(ssim) for ssim in (found.aligned_ssim, found.unbent_ssim)]
    np.testing.assert_allclose(found.statistic, np.maximum(*both))
    np.testing.assert_allclose(found.at_best(found.aligned_ssim), found.best_ssim)


def test_the_image_that_was_copied_is_compared_where_the_embedding_prefers_its_neighbour(train):
    """Two images a subject, the second half the first; the query shows the first, and its vector is the second's."""
    images = np.repeat(train.images.astype(np.float32), 2, axis=0)
    images[1::2] = 0.5 * (images[1::2] + images_of(12, seed=9))
    slices = embedded(images)
    query = embedded(images[[6]], "g")
    query.vectors[0] = slices.vectors[7]
    for count, image in ((1, 7), (2, 6)):
        engine = Search(slices.vectors, slices.images, np.arange(24) // 2, Verifier(), 6, images_a_subject=count)
        found = engine(engine.units(query, np.full(1, -1)))
        assert found.nearest.tolist() == [3] and found.at_best(found.image).tolist() == [image]
        similarity = float(slices.vectors[7] @ slices.vectors[image])
        assert found.at_best(found.similarity)[0] == pytest.approx(similarity, abs=1e-6)
        assert bool(found.best_ssim[0] > 0.99) is (image == 6)
        assert (found.image[0] // 2 == found.subject[0]).all()


def test_a_unit_does_not_find_its_own_subject_where_it_is_left_out(train):
    engine = search(train)
    units = engine.units(train, np.arange(12))
    assert (engine(units).nearest == np.arange(12)).all()
    left_out = engine(units, units.subject)
    assert (left_out.subject != np.arange(12)[:, None]).all()


def test_units_are_images_or_whole_files(train):
    volumes = embedded(images_of(6, seed=4), "v", slices=3)
    single = search(train).units(volumes, np.arange(6) // 3 + 5)
    assert (
        len(single) == 6
        and single.level.tolist() == volumes.level.tolist()
        and single.subject.tolist() == [5] * 3 + [6] * 3
    )
    whole = search(train, whole_files=True).units(volumes, np.arange(6) // 3 + 5)
    assert len(whole) == 2 and whole.subject.tolist() == [5, 6] and np.isnan(whole.level).all()
    assert whole.rows(1).tolist() == [3, 4, 5]
    some = search(train, whole_files=True).units(volumes, np.zeros(6, int), np.array([1, 2, 5]))
    assert some.unit.tolist() == [0, 0, 1]


def test_the_mean_over_a_unit_is_that_of_its_rows(train):
    volumes = embedded(images_of(6, seed=4), "v", slices=3)
    units = search(train, whole_files=True).units(volumes, np.full(6, -1), np.array([0, 1, 2, 4, 5]))
    assert units.unit.tolist() == [0, 0, 0, 1, 1]
    for values in (np.arange(5), np.arange(10.0).reshape(5, 2), np.arange(20, dtype=np.float32).reshape(5, 2, 2)):
        got = units.mean(values)
        assert got.dtype == float
        np.testing.assert_allclose(got, [values[:3].mean(0), values[3:].mean(0)])
    assert units.part(0, 0).mean(np.zeros((0, 6))).shape == (0, 6)


def test_a_whole_file_is_judged_by_the_mean_of_its_images(train):
    engine = search(train, whole_files=True)
    found = engine(engine.units(embedded(images_of(6, seed=4), "v", slices=3), np.full(6, -1)))
    assert found.aligned_ssim.shape == (2, 6) and found.slice_ssim.shape == (6, 6)
    for unit in range(2):
        mean = found.slice_ssim[3 * unit : 3 * unit + 3].mean(0)
        np.testing.assert_allclose(found.aligned_ssim[unit], mean, rtol=1e-6)


def test_too_few_candidates_for_the_statistic_are_an_error(train):
    with pytest.raises(ValueError, match="k must be at least 5, got 4"):
        search(train, k=4)
