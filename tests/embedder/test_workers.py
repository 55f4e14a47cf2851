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

import multiprocessing

import numpy as np
import pytest
from helpers import write_pictures
from scripts.embedder import workers
from scripts.embedder.file_loader import FileLoader
from scripts.embedder.workers import FEWEST_FILES, checked_workers, worker_count


@pytest.fixture
def cores(monkeypatch):
    """Sets the number of cores that this process may use."""
    return lambda count: monkeypatch.setattr(workers.os, "sched_getaffinity", lambda _: set(range(count)))


@pytest.fixture
def start(monkeypatch):
    """Sets how processes start; None: as they do here."""

    def choose(method: str | None) -> None:
        if method:
            monkeypatch.setattr(multiprocessing, "get_start_method", lambda *_: method)

    choose("fork")  # which Python 3.14 no longer takes by itself
    return choose


@pytest.mark.parametrize(("usable", "expected"), [(1, 0), (2, 1), (4, 3), (5, 4), (64, 4)])
def test_auto_leaves_a_core_to_the_network(cores, start, usable, expected):
    cores(usable)
    assert worker_count("auto", 10 * FEWEST_FILES) == worker_count("auto", FEWEST_FILES) == expected
    assert worker_count("auto", FEWEST_FILES - 1) == worker_count("auto", 0) == 0
    assert [worker_count(number, 1) for number in (0, 1, 7)] == [0, 1, 7]  # as asked for
    assert worker_count("auto", FEWEST_FILES, most=12) == min(usable - 1, 12)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_auto_starts_none_where_each_would_import_everything(cores, start, method):
    cores(8)
    start(method)
    assert worker_count("auto", 10**6) == 0 and worker_count(3, 10**6) == 3


def test_auto_starts_none_in_a_daemon(cores, start, monkeypatch):
    cores(8)
    monkeypatch.setattr(multiprocessing.current_process(), "_config", {"daemon": True})
    assert worker_count("auto", 10**6) == 0


def test_without_affinity_all_cores_count(start, monkeypatch):
    monkeypatch.delattr(workers.os, "sched_getaffinity")
    for count, expected in ((3, 2), (None, 0)):
        monkeypatch.setattr(workers.os, "cpu_count", lambda: count)  # noqa: B023  called at once
        assert worker_count("auto", 10**6) == expected


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_files_are_the_same_whoever_loads_them(preprocessing, tmp_path, monkeypatch, method):
    files = {item["id"]: item for item in write_pictures(tmp_path, *range(4))}
    expected = list(FileLoader(preprocessing, 0)(files))
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(method, force=True)
    try:
        monkeypatch.setattr(workers, "FEWEST_FILES", 2)
        found = [list(FileLoader(preprocessing, number)(files)) for number in (1, "auto")]
    finally:
        multiprocessing.set_start_method(before, force=True)
    for those in found:
        assert [file.content for file in those] == list(files)
        for one, other in zip(those, expected):
            np.testing.assert_array_equal(one.images[0].image, other.images[0].image)


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (-1, "num_workers must be 0 or more, got -1"),
        (1000, "num_workers must be at most 256, got 1000"),
        (2.5, "num_workers must be auto or a whole number, got 2.5"),
        (True, "num_workers must be auto or a whole number, got True"),
        ("many", "num_workers must be auto or a whole number, got 'many'"),
    ],
)
def test_another_number_is_an_error(number, sentence):
    with pytest.raises(ValueError) as error:
        checked_workers(number)
    assert str(error.value) == sentence
