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

"""Whether the value of a config's key is of the kind that the shipped config has, in words for the user."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import cast

__all__ = ["PATH_KEY", "Option", "value_problems"]

PATH_KEY = re.compile(r"(_dir|_file|_config)$|^(checkpoint|resume)$")

LARGEST = 2**32  # of a number; a larger one is a slip


@dataclass(frozen=True)
class Option:
    """A key with its value, the shipped default and, where it was given on the command line, the shell's text."""

    key: str
    value: object
    default: object
    given: str | None

    @property
    def is_path(self) -> bool:
        return PATH_KEY.search(self.key) is not None

    @property
    def is_text(self) -> bool:
        """Whether the default is a text, or nothing, which a list may replace."""
        if self.default is None:
            return not isinstance(self.value, (list, tuple))
        return isinstance(self.default, str) and not self.default.startswith(("$", "@", "%"))

    @property
    def is_choice(self) -> bool:
        """Whether a number stands in the place of `auto`: what takes it says which."""
        return self.default == "auto" and isinstance(self.value, Real)

    @property
    def is_built(self) -> bool:
        """Whether MONAI evaluates the value, an expression or a component, which is checked by what takes it."""
        if isinstance(self.value, str):
            return self.value.startswith(("$", "@")) and not self.is_path
        return isinstance(self.value, Mapping) and "_target_" in self.value and self.given is None


def value_problems(option: Option) -> Iterator[str]:
    """Yield what is wrong with a value, a sentence each: not of the default's kind, or not what the shell gave."""
    key, value = option.key, option.value
    if option.given == "None" and option.default is not None:
        yield f"--{key}: expected a value, found None, which MONAI drops in favour of the default; leave the flag out"
    elif option.is_built or option.is_choice:
        return
    elif kind := _kind(_sides(option)):
        accepts, expected = kind
        if not accepts(value):
            yield f"--{key}: expected {expected}, found {value!r}"
        elif not all(abs(number) <= LARGEST for number in _numbers(value)):  # NaN is not, either
            yield f"--{key}: expected {expected}, none above {LARGEST}, found {value!r}"
    elif option.is_path or option.is_text:
        yield from _text_problems(option, "a path" if option.is_path else "text")


def _sides(option: Option) -> object:
    """Return the default, or where an overlay gives the two sides of a plane a third one, that of a volume."""
    default, value = option.default, option.value
    if option.given is None and isinstance(default, list) and isinstance(value, list) and option.key == "spatial_size":
        return [*default, default[-1]] if (len(default), len(value)) == (2, 3) else default
    return default


def _kind(default: object) -> tuple[Callable[[object], bool], str] | None:
    """Return what accepts values like this default, and what they are called; None for texts, paths and components."""

    def listed(of: type) -> Callable[[object], bool]:
        return lambda value: isinstance(value, (list, tuple)) and all(isinstance(entry, of) for entry in value)

    def number(value: object) -> bool:
        return isinstance(value, Real) and not isinstance(value, bool)

    def numbers(value: object) -> bool:
        return isinstance(value, (list, tuple)) and all(map(number, value))

    def component(value: object) -> bool:  # an overlay may take it out
        return value is None or (isinstance(value, Mapping) and "_target_" in value)

    if isinstance(default, Mapping) and "_target_" in default:
        return component, "an object with a _target_"
    if isinstance(default, Mapping):
        return lambda value: isinstance(value, Mapping), "an object"
    if isinstance(default, bool):
        return lambda value: isinstance(value, bool), "True or False"
    if isinstance(default, int):
        return lambda value: isinstance(value, Integral) and not isinstance(value, bool), "a whole number"
    if isinstance(default, float):
        return number, "a number"
    if not isinstance(default, list):
        return None
    if default and isinstance(default[0], Mapping):
        return listed(Mapping), f"a list of objects, as {default[0]}"
    if default and isinstance(default[0], str):
        return listed(str), f"a list of texts, as {default}"
    if len(default) == 2:  # a range or a size
        return lambda value: numbers(value) and len(value) == 2, f'2 numbers, as "{default}"'
    return numbers, f'a list of numbers, as "{default}"'


def _numbers(value: object) -> list[float]:
    """Return a number, or those of a list, as a list; nothing of another value."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return [cast(float, number) for number in values if isinstance(number, Real)]


def _text_problems(option: Option, kind: str) -> Iterator[str]:
    key, value, given, may_be_none = option.key, option.value, option.given, option.default is None
    if given == "None" and value is None and may_be_none:
        return
    # MONAI reads values as Python: 2024 is a number, a#b is a with a comment, None is no argument at all
    if given is not None and value != given.strip("'\""):
        yield f"--{key}: expected {kind}, found {given!r}, which MONAI reads as {value!r}; " + (
            "use a name or a link without '#'" if "#" in given else f"write ./{given}" if kind == "a path" else
            "quote it twice, as \"'...'\""
        )  # fmt: skip
    elif value is None and may_be_none:
        return
    elif not isinstance(value, (str, os.PathLike)) or not str(value).strip():
        yield f"--{key}: expected {kind}, found {value!r}"
    elif value in ("null", "false", "true"):
        yield (
            f"--{key}: expected {kind}, found {value!r}; leave the flag out, or write ./{value} for a file of that name"
        )
