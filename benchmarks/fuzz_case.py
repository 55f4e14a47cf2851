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

"""An input of the fuzzer, thrown at a door, and in which column of the table its outcome counts."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import bundle_root  # noqa: F401  # it puts the bundle on the path
import numpy as np
from scripts.bundle.errors import sentence

Rng = np.random.Generator
RIGHT, SENTENCE, TRACEBACK, HANG, NONSENSE = COLUMNS = "right", "sentence", "traceback", "hang", "nonsense"
LIMIT = 20.0  # seconds of an input; longer is a hang
LONGEST = 1010  # characters of a sentence
DOCUMENTED = (
    "__init__() got an unexpected keyword argument"  # of a part that a component has not: tests/test_front_door.py
)
PYTHON = (  # what Python and its libraries say of themselves, not of the input
    r"object has no|NoneType|<class|<bound|not supported between|unsupported operand|out of range|subscriptable"
    r"|not iterable|broadcast|Traceback|__\w+__|invalid literal for|must be real number|not callable|positional"
    r"|unhashable|recursion|\w\(\)|enforce fail|Cannot cast|MemoryError|Unable to allocate|[Ss]ingular matrix"
)


class Hang(BaseException):
    """An input took too long. No `except Exception` swallows it."""


@dataclass(frozen=True)
class Case:
    """An input: `throw` returns an answer or raises, `wrong` says why that answer is not right, or nothing.

    An error must contain `name`. If `sound`, only an answer is right. A hang takes more seconds than `limit`, else than
    `LIMIT`.
    """

    what: str
    throw: Callable[[], object]
    wrong: Callable[[object], str]
    name: str = ""
    sound: bool = False
    limit: float | None = None


@dataclass(frozen=True)
class Outcome:
    """Where an input is counted, and why."""

    column: str
    text: str


class Cases(Protocol):
    """A kind of inputs."""

    def case(self, rng: Rng, folder: Path) -> Case:
        """Return an input, its files in an empty folder."""


def outcome(case: Case) -> Outcome:
    """Throw an input, and say what it gave."""

    def late(*_: object) -> None:
        raise Hang

    limit = case.limit or LIMIT
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        answer = case.throw()
    except Hang:
        return Outcome("hang", f"more than {limit:g} s")
    except (ValueError, OSError, MemoryError) as error:
        text = sentence(error)
    except Exception as error:
        return Outcome("traceback", f"{type(error).__name__}: {error}")
    else:
        wrong = case.wrong(answer)
        return Outcome("nonsense", wrong) if wrong else Outcome("right", "")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if "\n" in text or len(text) > LONGEST or re.search(PYTHON, text.replace(DOCUMENTED, "")) or case.name not in text:
        return Outcome("traceback", f"no sentence: {text}")
    return Outcome("nonsense", f"sound, yet refused: {text}") if case.sound else Outcome("sentence", text)
