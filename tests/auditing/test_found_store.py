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

"""What was aligned is read again where all that it depends on is the same, and only there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from audits import embedded, images_of
from scripts.auditing.found import Found
from scripts.auditing.found_store import FoundStore
from scripts.auditing.search import Search
from scripts.bundle.shares import Share
from scripts.similarity.verification import Verifier


class Counting(Verifier):
    """Counts the pairs that it aligns; the number is none of what a result depends on."""

    pairs = 0

    def align(self, queries, references, pairs=None, start=None):
        """Return what :class:`Verifier` returns."""
        type(self).pairs += len(pairs[0])
        return super().align(queries, references, pairs, start)


@pytest.fixture(scope="module")
def train():
    return embedded(images_of(9, seed=0))


@pytest.fixture(scope="module")
def query():
    return embedded(images_of(7, seed=1), "g")


def search(train, folder, **more) -> Search:
    Counting.pairs = 0
    more = {"verifier": Counting(), **more}
    return Search(train.vectors, train.images, np.arange(len(train)), k=5, store=FoundStore(folder), **more)


def same(a: Found, b: Found) -> None:
    for name, array in a.arrays.items():
        np.testing.assert_array_equal(array, b.arrays[name])
        assert array.dtype == b.arrays[name].dtype


def test_what_is_known_is_not_aligned_again(train, query, tmp_path):
    plain = replace(search(train, tmp_path), store=None)
    expected = plain(plain.units(query, np.full(7, -1)))
    first = search(train, tmp_path / "new")
    same(first(first.units(query, np.full(7, -1))), expected)
    assert Counting.pairs == 35
    again = search(train, tmp_path / "new")
    same(again(again.units(query, np.full(7, -1))), expected)
    assert Counting.pairs == 0


CHANGES = {
    "another training image": lambda train, query: (replace(train, images=train.images[::-1].copy()), query, {}, None),
    "another training vector": lambda train, query: (
        replace(train, vectors=train.vectors[::-1].copy()),
        query,
        {},
        None,
    ),
    "another image": lambda train, query: (train, replace(query, images=query.images[::-1].copy()), {}, None),
    "another vector": lambda train, query: (train, replace(query, vectors=query.vectors[::-1].copy()), {}, None),
    "another verifier": lambda train, query: (train, query, {"verifier": Counting(smoothing=0.5)}, None),
    "a subject that may not be found": lambda train, query: (train, query, {}, np.full(7, 2)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_depends_on_something_else_is_aligned(train, query, tmp_path, name):
    first = search(train, tmp_path)
    first(first.units(query, np.full(7, -1)))
    train, query, more, barred = CHANGES[name](train, query)
    other = search(train, tmp_path, **more)
    other(other.units(query, np.full(7, -1)), barred)
    assert Counting.pairs == 35


def test_what_is_damaged_is_aligned_again(train, query, tmp_path, caplog):
    first = search(train, tmp_path)
    found = first(first.units(query, np.full(7, -1)))
    (path,) = tmp_path.glob("*.found.npz")
    for damage in (lambda data: data[:-5], lambda data: b"", lambda data: data[:50] + b"?" + data[51:]):
        path.write_bytes(damage(path.read_bytes()))
        again = search(train, tmp_path)
        same(again(again.units(query, np.full(7, -1))), found)
        assert Counting.pairs == 35 and "damaged" in caplog.text
        caplog.clear()


def test_shares_together_are_the_whole(train, query, tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.auditing.search.UNITS", (2, 2))
    plain = replace(search(train, tmp_path), store=None)
    expected = plain(plain.units(query, np.full(7, -1)))
    pairs = []
    for number in (3, 1, 2):
        one = search(train, tmp_path)
        one(one.units(query, np.full(7, -1)), share=Share(number, 3))
        pairs.append(Counting.pairs)
    assert pairs == [10, 15, 10]  # of four blocks: two, two, two and one image
    whole = search(train, tmp_path)
    same(whole(whole.units(query, np.full(7, -1))), expected)
    assert Counting.pairs == 0
    none = search(train, tmp_path)
    none(none.units(query, np.full(7, -1)), share=Share(9, 9))  # nothing is left for it
    assert Counting.pairs == 0
