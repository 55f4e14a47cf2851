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

import collections
import datetime
import enum
import fractions
import functools
import importlib
import os
import re
import shutil
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
import torch
from helpers import ROOT, write_pictures
from scripts.bundle.components import component
from scripts.embedder.fingerprint import fingerprint


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a: int) -> None:
        self.a = a


class Plain:
    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


def outer(factor: float):
    def inner(x: float, offset: float = 1.0) -> float:
        return factor * x + offset

    return inner


def cycle(length: int) -> list:
    first: list = []
    last = first
    for _ in range(length - 1):
        last.append([])
        last = last[0]
    last.append(first)
    return first


def layers(width: int, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Conv2d(1, width, 3), torch.nn.BatchNorm2d(width), torch.nn.ReLU())


def hooked(function) -> torch.nn.Module:
    network = layers(2)
    network.register_forward_hook(function)
    return network


# made anew each time, so that nothing is told by its identity
DIFFERENT = {
    "numbers": [lambda: 1, lambda: 1.0, lambda: True, lambda: 2, lambda: float("nan"), lambda: 1j],
    "texts": [lambda: "1", lambda: b"1", lambda: "", lambda: "\udcff"],
    "lists": [lambda: [1, 2], lambda: [2, 1], lambda: (1, 2), lambda: [[1], 2], lambda: [1, [2]], lambda: [12]],
    "more lists": [lambda: collections.deque([1, 2]), lambda: collections.namedtuple("P", "x y")(1, 2)],
    "dicts": [lambda: {"a": 1, "b": 2}, lambda: {"a": 2, "b": 1}, lambda: collections.OrderedDict(a=1, b=2)],
    "sets": [lambda: {"a", "b", "c"}, lambda: {"a", "b"}, lambda: frozenset("abc")],
    "arrays": [lambda: np.arange(4), lambda: np.arange(4.0), lambda: np.arange(4).reshape(2, 2), lambda: np.zeros(4)],
    "objects in arrays": [lambda: np.array([1, "a"], object), lambda: np.array([1, "b"], object)],
    "scalars": [lambda: np.float32(1), lambda: np.float64(1), lambda: np.int64(1)],
    "tensors": [lambda: torch.arange(4.0), lambda: torch.arange(4.0).bfloat16(), lambda: torch.zeros(4)],
    "odd tensors": [lambda: torch.tensor(1.0), lambda: torch.eye(3).to_sparse(), lambda: torch.zeros(0, 3)],
    "types of values": [lambda: torch.float32, lambda: torch.bfloat16, lambda: np.dtype("f4"), lambda: np.float32],
    "devices": [lambda: torch.device("cpu"), lambda: torch.device("cuda"), lambda: torch.channels_last],
    "enums": [lambda: Colour.RED, lambda: Colour.BLUE],
    "objects": [lambda: Plain(a=1, b=2), lambda: Plain(a=1), lambda: Plain(a=1, c=2), lambda: Slotted(1)],
    "slots": [lambda: Slotted(3), lambda: Slotted(4)],
    "without attributes": [lambda: re.compile("a"), lambda: re.compile("a", re.I), lambda: re.compile("b")],
    "dates and fractions": [lambda: datetime.date(2020, 1, 2), lambda: fractions.Fraction(1, 3)],
    "functions": [lambda: outer(1.0), lambda: outer(2.0), lambda: outer],
    "lambdas": [lambda: eval("lambda x: x + 1"), lambda: eval("lambda x: x + 2"), lambda: eval("lambda x: x - 1")],
    "expressions": [lambda: eval("lambda x: x + k", {"k": 1}), lambda: eval("lambda x: x + k", {"k": 2})],
    "defaults": [
        lambda: eval("lambda x, k=1: x"),
        lambda: eval("lambda x, k=2: x"),
        lambda: eval("lambda x, *, k=2: x"),
    ],
    "partials": [
        lambda: functools.partial(max, 1),
        lambda: functools.partial(max, 2),
        lambda: functools.partial(min, 1),
    ],
    "methods": [lambda: Plain(a=1).__init__, lambda: Plain(a=2).__init__, lambda: [1].count, lambda: [2].count],
    "cached functions": [lambda: functools.lru_cache(outer), lambda: functools.lru_cache(cycle)],
    "classes": [lambda: Plain, lambda: Slotted, lambda: torch.nn.Linear],
    "modules": [lambda: types, lambda: functools],
    "cycles": [lambda: cycle(1), lambda: cycle(2), lambda: [cycle(1)]],
    "networks": [lambda: layers(2), lambda: layers(3), lambda: layers(2, seed=1), lambda: layers(2).eval()],
    "parts of networks": [lambda: layers(2)[:2], lambda: torch.nn.Sequential(*layers(2)[::-1])],
    "hooks": [lambda: hooked(outer(1.0)), lambda: hooked(outer(2.0))],
    "scripts": [lambda: torch.jit.script(layers(2)), lambda: torch.jit.script(layers(2, seed=1))],
    "script's code": [lambda: torch.jit.script(layers(2)[2]), lambda: torch.jit.script(torch.nn.Tanh())],
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_equal_values_have_one_fingerprint_and_others_another(kind):
    first, second = ([fingerprint(make()) for make in DIFFERENT[kind]] for _ in range(2))
    assert first == second
    assert len(set(first)) == len(first)
    assert all(re.fullmatch("[0-9a-f]{64}", text) for text in first)


def test_the_order_of_attributes_does_not_count_that_of_arguments_does():
    assert fingerprint(Plain(a=1, b=2)) == fingerprint(Plain(b=2, a=1))
    assert fingerprint(1, 2) != fingerprint(2, 1) != fingerprint([2, 1])


def test_what_is_shared_and_what_is_equal_are_one():
    part = [1, 2]
    assert fingerprint([part, part]) == fingerprint([[1, 2], [1, 2]])


def test_random_states_caches_and_locks_do_not_count():
    class Cached:
        @functools.cached_property
        def table(self) -> list[int]:
            return [1, 2]

    used, unused = Cached(), Cached()
    assert used.table and fingerprint(used) == fingerprint(unused)
    for make in (np.random.RandomState, np.random.default_rng, lambda seed: torch.Generator().manual_seed(seed)):
        assert fingerprint(Plain(R=make(0))) == fingerprint(Plain(R=make(1)))
    assert fingerprint(Plain(lock=threading.Lock())) == fingerprint(Plain(lock=threading.Lock()))


def test_a_chain_that_was_used_is_the_same_chain(tmp_path):
    chain = component(ROOT / "configs" / "inference.yaml", "preprocessing")
    before = fingerprint(chain)
    for item in write_pictures(tmp_path, 0, 1):
        chain(dict(item))
    assert fingerprint(chain) == before
    assert fingerprint(component(ROOT / "configs" / "inference.yaml", "preprocessing")) == before
    for key, value in (("spatial_size", [96, 110]), ("slice_levels", [12.0, 110.0]), ("min_foreground", 41.0)):
        other = component(ROOT / "configs" / "inference.yaml", "preprocessing", **{key: value})
        assert fingerprint(other) != before, key


SOURCES = {
    "__init__.py": "",
    "chain.py": "from .helpers import scale\nfrom .deep import far\nclass Chain:\n    scale = scale\n",
    "helpers.py": "def scale(x): return 2 * x\n",
    "deep/__init__.py": "from . import far\n",
    "deep/far.py": "import users_own.chain  # a circle\n",
    "unused.py": "",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function that writes a package of a user into a folder and returns its chain, imported anew."""

    def make(folder: str):
        for name, text in SOURCES.items():
            path = tmp_path / folder / "users_own" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(tmp_path / folder)
            for name in [name for name in sys.modules if name.partition(".")[0] == "users_own"]:
                del sys.modules[name]
            return importlib.import_module("users_own.chain").Chain()

    yield make
    for name in [name for name in sys.modules if name.partition(".")[0] == "users_own"]:
        del sys.modules[name]


def test_the_source_of_what_is_used_counts_and_of_what_it_imports(package, tmp_path):
    chain = package("one")
    before = fingerprint(chain)
    for name in SOURCES:
        path = tmp_path / "one" / "users_own" / name
        path.write_text(SOURCES[name] + "\n# edited\n")
        used = name not in ("__init__.py", "unused.py")
        assert (fingerprint(chain) != before) == used, name
        path.write_text(SOURCES[name])
        assert fingerprint(chain) == before, name


def test_a_copy_of_a_package_elsewhere_on_the_disk_is_the_same(package):
    assert fingerprint(package("one")) == fingerprint(package("two"))


RUN = """
import sys
from pathlib import Path
import torch
import scripts
from scripts import AutocastInferer, DeepSSIM, Embedder, component, fingerprint

folder, cache, files = Path(scripts.__file__).parent, sys.argv[1], sys.argv[2:]
torch.manual_seed(0)
network = DeepSSIM(embedding_dim=6, channels=(4, 4, 6), hidden=8).eval()
chain = component(folder.parent / "configs" / "inference.yaml", "preprocessing")
items = [{"image": file, "id": file, "subject_id": file} for file in files]
print(fingerprint({"a", "b", "c", ("d", 1)}))
for name in (None, "bundle/inferers.py", "images/foreground.py", "images/geometry.py", "embedder/file_loader.py",
             "report/page.py", "embedder/losses.py"):
    if name is not None:
        source = folder / name
        source.write_text(source.read_text() + "\\n# edited\\n")
    embedder = Embedder(network, chain, AutocastInferer(), torch.device("cpu"), cache)
    embedder.embed_files(items)
    print(name, embedder.computed)
"""


def test_another_process_uses_what_one_wrote_until_code_changes_that_it_runs(tmp_path):
    files = [item["image"] for item in write_pictures(tmp_path, 0, 1)]
    outputs = []
    for name, seed in (("here", "1"), ("there", "2")):  # of hash(), which orders sets
        for part in ("scripts", "configs"):
            shutil.copytree(ROOT / part, tmp_path / name / part, ignore=shutil.ignore_patterns("__pycache__"))
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / name), "PYTHONHASHSEED": seed}
        command = [sys.executable, "-W", "ignore", "-c", RUN, str(tmp_path / "cache"), *files]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        outputs.append(result.stdout.split("\n"))
    first, second = outputs
    assert first[0] == second[0]
    unused = ["report/page.py 0", "embedder/losses.py 0"]  # code that embeds nothing
    used = ["bundle/inferers.py", "images/foreground.py", "images/geometry.py", "embedder/file_loader.py"]
    assert first[1:8] == ["None 2", *(f"{name} 2" for name in used), *unused]
    assert second[1:8] == ["None 0", *(f"{name} 0" for name in used), *unused]
