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

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scripts.embedder.cache import EmbeddingCache, _write_sealed
from scripts.embedder.embedding_set import EmbeddedImage


def images(*numbers: int) -> list[EmbeddedImage]:
    """Slices 0, 1, ... with an image and a vector of their own."""
    found = []
    for place, number in enumerate(numbers):
        rng = np.random.default_rng(number)
        vector = rng.normal(size=5).astype(np.float32)
        level = 4.0 * place if number else float("nan")
        found.append(EmbeddedImage(rng.random((3, 4)).astype(np.float16), place, level, vector))
    return found


def same(found: list[EmbeddedImage], expected: list[EmbeddedImage]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.vector, b.vector)
        np.testing.assert_equal((a.slice, a.level), (b.slice, b.level))
        assert (a.image.dtype, a.vector.dtype) == (np.float16, np.float32)


@pytest.fixture
def cache(tmp_path) -> EmbeddingCache:
    """With the contents a, of two images, and b in one shard, and c in another."""
    cache = EmbeddingCache(tmp_path / "new" / "folder")
    cache.add(["a", "a", "b"], images(0, 1, 2))
    cache.add(["c"], images(3))
    return cache


def test_what_was_added_is_read_by_content_in_order(cache):
    known = EmbeddingCache(cache.folder).read()  # another process
    assert set(known) == {"a", "b", "c"}
    same(known["a"] + known["b"], images(0, 1, 2))
    same(known["c"], images(3))


def test_an_empty_folder_knows_nothing_and_nothing_is_written_of_nothing(tmp_path):
    cache = EmbeddingCache(tmp_path / "none")
    cache.add([], [])
    assert cache.read() == {} and cache.read_derived(np.zeros((2, 3, 4), np.float16)) is None
    assert not (tmp_path / "none").exists()


def test_without_a_folder_nothing_is_kept():
    cache, derived = EmbeddingCache(None), np.zeros((2, 3, 4), np.float16)
    cache.add(["a"], images(0))
    cache.add_derived(derived, np.ones((2, 5), np.float32))
    assert cache.read() == {} and cache.read_derived(derived) is None


def shard_of(cache: EmbeddingCache, content: bytes) -> Path:
    """The table of the shard with this content."""
    return next(path for path in cache.folder.glob("*.json") if b'"%s"' % content in path.read_bytes())


def saved(path: Path, change: Callable[[NDArray], NDArray]) -> None:
    """Save an array as it would be if `change` had been made to it before, but for the checksum."""
    seal = path.read_bytes()[-32:]
    buffer = BytesIO()
    np.save(buffer, change(np.load(path)))
    path.write_bytes(buffer.getvalue() + seal)


def with_a_nan(array: NDArray) -> NDArray:
    array = array.copy()
    array[0, 0] = np.nan
    return array


DAMAGE = {
    "a cut table": lambda shard: shard.with_suffix(".json").write_bytes(shard.with_suffix(".json").read_bytes()[:-9]),
    "a short table": lambda shard: shard.with_suffix(".json").write_text("[]"),
    "an empty table": lambda shard: shard.with_suffix(".json").write_text(""),
    "another content": lambda shard: shard.write_bytes(shard.read_bytes().replace(b'"a"', b'"z"')),
    "cut vectors": lambda shard: shard.with_suffix(".vectors.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00"),
    "empty images": lambda shard: shard.with_suffix(".images.npy").write_bytes(b""),
    "no images": lambda shard: shard.with_suffix(".images.npy").unlink(),
    "reversed vectors": lambda shard: saved(shard.with_suffix(".vectors.npy"), lambda rows: rows[::-1]),
    "reversed images": lambda shard: saved(shard.with_suffix(".images.npy"), lambda rows: rows[::-1]),
    "NaN": lambda shard: saved(shard.with_suffix(".vectors.npy"), with_a_nan),
    "zeros": lambda shard: saved(shard.with_suffix(".vectors.npy"), np.zeros_like),
    "another type": lambda shard: saved(shard.with_suffix(".vectors.npy"), lambda rows: rows.astype(np.float64)),
    "another length": lambda shard: saved(shard.with_suffix(".vectors.npy"), lambda rows: rows[:, :4]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_shard_is_left_out_with_a_warning(cache, caplog, name):
    shard = shard_of(cache, b"a")
    DAMAGE[name](shard)
    known = cache.read()
    assert set(known) == {"c"}
    same(known["c"], images(3))
    assert f"{shard}: damaged" in caplog.text and "embedded again" in caplog.text


def test_every_flipped_bit_is_noticed(cache, caplog):
    cache.add_derived(np.ones((2, 3, 4), np.float16), np.ones((2, 5), np.float32))
    rng, whole = np.random.default_rng(0), {path: path.read_bytes() for path in sorted(cache.folder.iterdir())}
    for number in range(400):
        path = list(whole)[number % len(whole)]
        flipped = bytearray(whole[path])
        flipped[rng.integers(len(flipped))] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        caplog.clear()
        known, derived = cache.read(), cache.read_derived(np.ones((2, 3, 4), np.float16))
        assert (len(known), derived is None) != (3, False) and caplog.text.count("damaged") == 1, path
        for name, content in whole.items():
            name.write_bytes(content)


def test_damage_is_said_once_where_the_folder_can_be_written(cache, caplog):
    shard_of(cache, b"a").write_bytes(b"")
    assert set(cache.read()) == {"c"} and caplog.text.count("damaged") == 1
    assert set(cache.read()) == {"c"} and caplog.text.count("damaged") == 1


def test_a_file_of_another_shard_is_noticed(cache, caplog):
    cache.add(["d"], images(4))
    one, other = (shard_of(cache, content).with_suffix(".vectors.npy") for content in (b"c", b"d"))
    one.write_bytes(other.read_bytes())
    assert set(cache.read()) == {"a", "b", "d"} and "its checksum is another" in caplog.text


def test_a_table_of_another_length_than_its_arrays_is_damaged(cache, caplog):
    shard = shard_of(cache, b"a")
    _write_sealed(shard, lambda file: file.write(b'[{"content": "a", "slice": 0, "level": 0.0}]'))
    assert set(cache.read()) == {"c"} and "another number of rows" in caplog.text


def test_a_shard_without_its_table_does_not_exist(cache, caplog):
    shard_of(cache, b"c").unlink()
    assert set(cache.read()) == {"a", "b"} and not caplog.text


def test_derived_images_are_known_by_their_pixels_and_shape(cache, caplog):
    derived, vectors = np.arange(24, dtype=np.float16).reshape(2, 3, 4), images(7)[0].vector[None].repeat(2, 0)
    assert cache.read_derived(derived) is None
    cache.add_derived(derived, vectors)
    np.testing.assert_array_equal(cache.read_derived(derived), vectors)
    assert cache.read_derived(derived.reshape(2, 4, 3)) is None and cache.read_derived(derived[::-1]) is None
    assert set(cache.read()) == {"a", "b", "c"}
    (path,) = cache.folder.glob("*.derived.npy")
    path.write_bytes(path.read_bytes()[:50])
    assert cache.read_derived(derived) is None and f"{path}: damaged" in caplog.text


def test_images_and_vectors_stay_on_the_disk_until_they_are_used(cache):
    for row in cache.read()["a"]:
        assert isinstance(row.image, np.memmap) and isinstance(row.vector, np.memmap)
