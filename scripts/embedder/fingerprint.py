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

"""A text that stands for objects and the code behind them: what was computed with one may be used with its equal."""

from __future__ import annotations

import copyreg
import enum
import functools
import hashlib
import logging
import pathlib
import random
import re
import types
from collections import deque
from collections.abc import Callable, Iterator
from functools import singledispatch
from importlib.metadata import version

import numpy as np
import torch

from .sources import Sources

__all__ = ["fingerprint"]


VERSIONED = ("torch", "monai", "numpy", "pillow", "nibabel")
OPTIONAL = ("transformers",)  # counts where it is used, or having it installed would change what is kept


def fingerprint(*objects: object) -> str:
    """Return 64 hexadecimal digits that change with anything that the objects' results depend on.

    Objects are followed through their attributes, items, closures and bound arguments down to numbers, texts and the
    values of arrays. Of every class and function on the way the source of its module counts, and of modules outside
    torch, monai, numpy, pillow, nibabel and transformers also the modules of the same package that they import; of
    those six the version. Random states, cached properties and what pickling leaves out do not count, nor where a
    package lies on the disk.

    It does not see: files, environment variables and global variables that code reads when it runs; packages that
    another package imports; compiled code; the processor. A source that is edited after its import counts as edited,
    though the process still runs the old one.

    >>> fingerprint([1, 2.0]) == fingerprint([1, 2.0]) != fingerprint([1, 2])
    True
    """
    sources = Sources()
    describe = _Describer(sources)
    parts = [describe(value) for value in objects]
    used = [name for name in OPTIONAL if name in sources.packages()]
    versions = [f"{name} {version(name)}" for name in (*VERSIONED, *used)]
    return _digest(*parts, *sources.lines(), *versions)


class _Describer:
    """A value in, a digest of it out; what it is made of is described by :func:`_parts`."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.done: dict[int, tuple[object, str]] = {}  # the value too: an id is only its own while it lives
        self.open: list[int] = []

    def __call__(self, value: object) -> str:
        if id(value) in self.done:
            return self.done[id(value)][1]
        if id(value) in self.open:  # a cycle, told by its length
            return _digest("cycle", str(len(self.open) - self.open.index(id(value))))
        self.open.append(id(value))
        kind = type(value)
        name = kind.__qualname__ if kind.__module__ == "builtins" else self(kind)
        digest = _digest(name, *_parts(value, self))
        self.open.pop()
        self.done[id(value)] = value, digest
        return digest


def _digest(*parts: str) -> str:
    return hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode(errors="surrogatepass")).hexdigest()


Describe = Callable[[object], str]


@singledispatch
def _parts(value: object, describe: Describe) -> Iterator[str]:
    """Yield digests of what tells a value from others of its type: what pickle would keep, in order."""
    try:
        reduce = copyreg.dispatch_table.get(type(value))
        kept = reduce(value) if reduce else value.__reduce_ex__(4)
    except Exception:  # locks, open files and the like hold nothing that a result depends on
        return
    known = {name: part for base in type(value).__mro__ for name, part in vars(base).items()}
    for part in [kept] if isinstance(kept, str) else kept:
        if isinstance(part, dict) and all(isinstance(name, str) for name in part):  # attributes, in any order
            names = sorted(name for name in part if not isinstance(known.get(name), functools.cached_property))
            part = {name: part[name] for name in names} or None  # as where there never were any
        yield describe(list(part) if isinstance(part, Iterator) else part)


@_parts.register(type(None))
@_parts.register(int)
@_parts.register(float)
@_parts.register(complex)
@_parts.register(str)
@_parts.register(bytes)
@_parts.register(range)
@_parts.register(np.dtype)
@_parts.register(torch.dtype)
@_parts.register(torch.device)
@_parts.register(torch.layout)
@_parts.register(torch.memory_format)
@_parts.register(pathlib.PurePath)
def _(value: object, describe: Describe) -> Iterator[str]:
    yield repr(value)


@_parts.register(enum.Enum)
def _(value: enum.Enum, describe: Describe) -> Iterator[str]:
    yield str(value.name)
    yield describe(value.value)


@_parts.register(list)
@_parts.register(tuple)
@_parts.register(deque)
def _(value: list[object], describe: Describe) -> Iterator[str]:
    yield from map(describe, value)


@_parts.register(set)
@_parts.register(frozenset)
def _(value: set[object], describe: Describe) -> Iterator[str]:
    yield from sorted(map(describe, value))


@_parts.register(dict)
@_parts.register(types.MappingProxyType)
def _(value: dict[object, object], describe: Describe) -> Iterator[str]:
    for pair in value.items():
        yield from map(describe, pair)


@_parts.register(np.ndarray)
@_parts.register(np.generic)
def _(value: np.ndarray, describe: Describe) -> Iterator[str]:
    array = np.asarray(value)
    yield f"{array.dtype} {array.shape}"
    yield describe(array.tolist()) if array.dtype.hasobject else hashlib.sha256(array.tobytes()).hexdigest()


@_parts.register(torch.Tensor)
def _(value: torch.Tensor, describe: Describe) -> Iterator[str]:
    yield f"{value.dtype} {tuple(value.shape)}"
    if not value.is_meta:
        plain = value.detach().to_dense().cpu().as_subclass(torch.Tensor).contiguous()
        yield hashlib.sha256(plain.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


@_parts.register(torch.nn.Module)
def _(value: torch.nn.Module, describe: Describe) -> Iterator[str]:
    # hooks are kept under numbers that count all hooks of the process
    for name, part in sorted(vars(value).items()):
        yield name
        yield describe(list(part.values()) if "_hooks" in name and isinstance(part, dict) else part)


@_parts.register(torch.jit.ScriptModule)
def _(value: torch.jit.ScriptModule, describe: Describe) -> Iterator[str]:
    yield describe(value.state_dict())
    # without the comments, which name files
    yield re.sub(r" *#.*", "", str(value.inlined_graph)) if hasattr(value, "forward") else ""


@_parts.register(np.random.RandomState)
@_parts.register(np.random.Generator)
@_parts.register(np.random.BitGenerator)
@_parts.register(torch.Generator)
@_parts.register(random.Random)
def _(value: object, describe: Describe) -> Iterator[str]:
    yield from ()


@_parts.register(logging.Logger)
def _(value: logging.Logger, describe: Describe) -> Iterator[str]:
    yield value.name


@_parts.register(types.ModuleType)
def _(value: types.ModuleType, describe: _Describer) -> Iterator[str]:
    describe.sources.add(value.__name__)
    yield value.__name__


@_parts.register(type)
def _(value: type, describe: _Describer) -> Iterator[str]:
    yield f"{value.__module__}.{value.__qualname__}"
    known = [describe.sources.add(base.__module__) for base in value.__mro__]
    if not known[0]:  # typed into a session, or compiled
        yield describe({n: part for n, part in sorted(vars(value).items()) if isinstance(part, types.FunctionType)})


@_parts.register(types.FunctionType)
def _(value: types.FunctionType, describe: _Describer) -> Iterator[str]:
    yield f"{value.__module__}.{value.__qualname__}"
    describe.sources.add(value.__module__)
    cells = [cell.cell_contents for cell in value.__closure__ or () if not _is_empty(cell)]
    yield from map(describe, [value.__code__, value.__defaults__, value.__kwdefaults__, cells, vars(value)])
    if not pathlib.Path(value.__code__.co_filename).is_file():  # an expression of a config, which no source shows
        used = sorted(_names(value.__code__) & value.__globals__.keys())
        yield from map(describe, [value.__globals__[name] for name in used])


def _is_empty(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is cell
    except ValueError:
        return True


def _names(code: types.CodeType) -> set[str]:
    inner = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


@_parts.register(types.CodeType)
def _(value: types.CodeType, describe: Describe) -> Iterator[str]:
    yield from map(describe, [value.co_code, value.co_consts, value.co_names, value.co_varnames, value.co_freevars])


@_parts.register(types.MethodType)
def _(value: types.MethodType, describe: Describe) -> Iterator[str]:
    yield from map(describe, [value.__func__, value.__self__])


@_parts.register(types.BuiltinFunctionType)
def _(value: types.BuiltinFunctionType, describe: Describe) -> Iterator[str]:
    yield f"{value.__module__}.{value.__qualname__}"
    if not isinstance(value.__self__, types.ModuleType):  # a method of an object
        yield describe(value.__self__)


@_parts.register(functools.partial)
def _(value: functools.partial, describe: Describe) -> Iterator[str]:
    yield from map(describe, [value.func, value.args, value.keywords])


@_parts.register(type(functools.lru_cache(len)))
def _(value: Callable, describe: Describe) -> Iterator[str]:
    yield describe(value.__wrapped__)  # type: ignore[attr-defined]
