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

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scripts.embedder.cache import TABLE, EmbeddingCache, Gathered, Known, _write_array
from scripts.embedder.file_loader import LoadedImage


def images(*numbers: int) -> tuple[list[LoadedImage], NDArray[np.float32]]:
    """Slices 0, 1, ... with an image and a vector of their own."""
    found, vectors = [], []
    for place, number in enumerate(numbers):
        rng = np.random.default_rng(number)
        vectors.append(rng.normal(size=5).astype(np.float32))
        level = 4.0 * place if number else float("nan")
        found.append(LoadedImage(rng.random((3, 4)).astype(np.float16), place, level))
    return found, np.array(vectors, np.float32).reshape(-1, 5)


def same(found: Gathered, expected: tuple[list[LoadedImage], NDArray[np.float32]]) -> None:
    rows, vectors = expected
    np.testing.assert_array_equal(found.vectors, vectors)
    np.testing.assert_array_equal(found.images, [row.image for row in rows])
    np.testing.assert_array_equal(found.table["slice"], [row.slice for row in rows])
    np.testing.assert_array_equal(found.table["level"], [row.level for row in rows])
    assert (found.images.dtype, found.vectors.dtype) == (np.float16, np.float32)


def contents(known: Known) -> set[str]:
    return set(known.places)


@pytest.fixture
def cache(tmp_path) -> EmbeddingCache:
    """With the contents a, of two images, and b in one shard, and c in another."""
    cache = EmbeddingCache(tmp_path / "new" / "folder")
    cache.add(["a", "a", "b"], *images(0, 1, 2))
    cache.add(["c"], *images(3))
    return EmbeddingCache(cache.folder)  # another process


def test_what_was_added_is_read_by_content_in_order(cache):
    known = cache.read()
    assert contents(known) == {"a", "b", "c"} and "a" in known and "z" not in known
    ab = cache.gather(known, ["a", "b"])
    same(ab, images(0, 1, 2))
    assert ab.counts.tolist() == [2, 1]
    same(cache.gather(known, ["c"]), images(3))


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("order", ["ba", "cab", "b", "abcabb", "cc"])
def test_contents_come_in_the_order_that_is_asked_for(cache, monkeypatch, in_memory, order):
    monkeypatch.setattr("scripts.embedder.cache.MOST_IN_MEMORY", 1e9 if in_memory else 0)
    monkeypatch.setattr("scripts.embedder.cache.ROWS", 2)
    found = cache.gather(cache.read(), list(order))
    rows, vectors = images(0, 1, 2)
    one, own = images(3)
    of = {"a": (rows[:2], vectors[:2]), "b": (rows[2:], vectors[2:]), "c": (one, own)}
    same(found, ([row for key in order for row in of[key][0]], np.concatenate([of[key][1] for key in order])))
    assert found.counts.tolist() == [len(of[key][0]) for key in order]
    assert contents(EmbeddingCache(cache.folder).read()) == {"a", "b", "c"}  # nothing is lost


def test_a_set_that_is_too_large_for_memory_becomes_one_shard(cache, monkeypatch):
    monkeypatch.setattr("scripts.embedder.cache.MOST_IN_MEMORY", 0)
    assert len(list(cache.folder.glob("*.rows.npy"))) == 2
    first = cache.gather(cache.read(), ["c", "a", "b"])
    assert len(list(cache.folder.glob("*.rows.npy"))) == 1 and len(list(cache.folder.glob("*.npy"))) == 3
    again = EmbeddingCache(cache.folder)
    second = again.gather(again.read(), ["c", "a", "b"])  # nothing is written
    assert isinstance(second.images.base, np.memmap) and isinstance(first.images.base, np.memmap)
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.vectors, second.vectors)
    assert len(list(cache.folder.glob("*.npy"))) == 3


def test_a_shard_that_holds_more_stays(cache, monkeypatch):
    monkeypatch.setattr("scripts.embedder.cache.MOST_IN_MEMORY", 0)
    cache.gather(cache.read(), ["b", "c"])
    assert len(list(cache.folder.glob("*.rows.npy"))) == 2  # of a and b, and of b and c
    assert contents(cache.read()) == {"a", "b", "c"}


def test_another_process_may_have_made_one_shard_of_several(cache, monkeypatch):
    known = cache.read()
    monkeypatch.setattr("scripts.embedder.cache.MOST_IN_MEMORY", 0)
    other = EmbeddingCache(cache.folder)
    other.gather(other.read(), ["c", "a", "b"])
    with pytest.raises(FileNotFoundError):
        cache.gather(known, ["b", "c"])
    same(cache.gather(cache.read(), ["b"]), ([images(0, 1, 2)[0][2]], images(0, 1, 2)[1][2:]))


def test_open_files_do_not_grow_with_the_shards(tmp_path):
    open_files = Path("/proc/self/fd")
    if not open_files.is_dir():
        pytest.skip("the system does not list open files")
    cache, before = EmbeddingCache(tmp_path), len(list(open_files.iterdir()))
    for number in range(100):
        cache.add([f"{number}"], *images(number + 1))
    known = cache.read()
    found = cache.gather(known, [f"{number}" for number in range(100)])
    mapped = Path("/proc/self/maps").read_text().count(str(tmp_path))
    assert len(list(open_files.iterdir())) <= before and mapped <= 4 and len(found.images) == 100


def test_an_empty_folder_knows_nothing_and_nothing_is_written(tmp_path):
    cache = EmbeddingCache(tmp_path / "none")
    assert not contents(cache.read()) and cache.read_derived(np.zeros((2, 3, 4), np.float16)) is None
    assert not (tmp_path / "none").exists()


def test_without_a_folder_nothing_is_kept_but_in_memory():
    cache, derived, known = EmbeddingCache(None), np.zeros((2, 3, 4), np.float16), Known()
    known.add(cache.add(["a"], *images(0)))
    known.add(cache.add(["b"], *images(1)))
    cache.add_derived(derived, np.ones((2, 5), np.float32))
    assert not contents(cache.read()) and cache.read_derived(derived) is None
    same(cache.gather(known, ["a"]), images(0))
    assert len(cache.gather(known, ["b", "a"]).images) == 2


def shard_of(cache: EmbeddingCache, content: bytes) -> Path:
    """The table of the shard with this content."""
    return next(path for path in cache.folder.glob("*.rows.npy") if content in np.load(path)["content"])


def part(shard: Path, name: str) -> Path:
    return shard.with_name(shard.name.replace(".rows.", f".{name}."))


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
    "a cut table": lambda shard: shard.write_bytes(shard.read_bytes()[:-9]),
    "a short table": lambda shard: saved(shard, lambda rows: rows[:1]),
    "an empty table": lambda shard: shard.write_text(""),
    "another content": lambda shard: shard.write_bytes(shard.read_bytes().replace(b"a\0\0\0", b"z\0\0\0")),
    "cut vectors": lambda shard: part(shard, "vectors").write_bytes(b"\x93NUMPY\x01\x00v\x00"),
    "empty images": lambda shard: part(shard, "images").write_bytes(b""),
    "no images": lambda shard: part(shard, "images").unlink(),
    "reversed vectors": lambda shard: saved(part(shard, "vectors"), lambda rows: rows[::-1]),
    "reversed images": lambda shard: saved(part(shard, "images"), lambda rows: rows[::-1]),
    "NaN": lambda shard: saved(part(shard, "vectors"), with_a_nan),
    "zeros": lambda shard: saved(part(shard, "vectors"), np.zeros_like),
    "another type": lambda shard: saved(part(shard, "vectors"), lambda rows: rows.astype(np.float64)),
    "another length": lambda shard: saved(part(shard, "vectors"), lambda rows: rows[:, :4]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_shard_is_left_out_with_a_warning(cache, caplog, name):
    shard = shard_of(cache, b"a")
    DAMAGE[name](shard)
    known = cache.read()
    assert contents(known) == {"c"}
    same(cache.gather(known, ["c"]), images(3))
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
        known, derived = EmbeddingCache(cache.folder).read(), cache.read_derived(np.ones((2, 3, 4), np.float16))
        assert (len(contents(known)), derived is None) != (3, False) and caplog.text.count("damaged") == 1, path
        for name, content in whole.items():
            name.write_bytes(content)


def test_damage_is_said_once_where_the_folder_can_be_written(cache, caplog):
    shard_of(cache, b"a").write_bytes(b"")
    assert contents(cache.read()) == {"c"} and caplog.text.count("damaged") == 1
    assert contents(cache.read()) == {"c"} and caplog.text.count("damaged") == 1


def test_a_file_of_another_shard_is_noticed(cache, caplog):
    cache.add(["d"], *images(4))
    one, other = (part(shard_of(cache, content), "vectors") for content in (b"c", b"d"))
    one.write_bytes(other.read_bytes())
    assert contents(cache.read()) == {"a", "b", "d"} and "its checksum is another" in caplog.text


def test_a_table_of_another_length_than_its_arrays_is_damaged(cache, caplog):
    shard = shard_of(cache, b"a")
    _write_array(shard, np.zeros(1, TABLE))
    assert contents(cache.read()) == {"c"} and "another number of rows" in caplog.text


def test_a_table_of_another_kind_is_damaged(cache, caplog):
    _write_array(shard_of(cache, b"c"), np.zeros(1))
    assert contents(cache.read()) == {"a", "b"} and "another kind of table" in caplog.text


def test_what_was_checked_is_not_read_again_unless_it_changed(cache, caplog):
    checked = EmbeddingCache(cache.folder, seen := set())
    assert contents(checked.read()) == {"a", "b", "c"} and len(seen) == 6
    vectors = part(shard_of(cache, b"c"), "vectors")
    state, content = vectors.stat(), vectors.read_bytes()
    vectors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(vectors, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))  # a system's clock may tick every 4 ms only
    assert contents(EmbeddingCache(cache.folder, seen).read()) == {"a", "b"} and "checksum" in caplog.text


def test_a_shard_without_its_table_does_not_exist(cache, caplog):
    shard_of(cache, b"c").unlink()
    assert contents(cache.read()) == {"a", "b"} and not caplog.text


def test_derived_images_are_known_by_their_pixels_and_shape(cache, caplog):
    derived, vectors = np.arange(24, dtype=np.float16).reshape(2, 3, 4), images(7)[1].repeat(2, 0)
    assert cache.read_derived(derived) is None
    cache.add_derived(derived, vectors)
    np.testing.assert_array_equal(cache.read_derived(derived), vectors)
    assert cache.read_derived(derived.reshape(2, 4, 3)) is None and cache.read_derived(derived[::-1]) is None
    assert contents(cache.read()) == {"a", "b", "c"}
    (path,) = cache.folder.glob("*.derived.npy")
    path.write_bytes(path.read_bytes()[:50])
    assert cache.read_derived(derived) is None and f"{path}: damaged" in caplog.text
