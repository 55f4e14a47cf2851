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

"""The bundle's commands: ``deepssim audit TRAIN GENERATED``, or ``python -m scripts audit`` in the bundle's folder."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from itertools import takewhile

import fire

from .bundle.errors import run_or_exit, stop
from .bundle.options import PATH_KEY
from .commands import audit, compare, sample, train

__all__ = ["main"]


def main() -> None:
    """Run the command of the command line; a wrong argument or file is one sentence and status 1."""
    sys.argv[0] = __file__  # whatever pip called the script
    jobs = {job.__name__: job for job in (audit, train, sample, compare)}
    name, *words = [*sys.argv[1:], ""]
    if name and name not in jobs and not name.startswith("-"):
        stop(f"{name}: expected one of the commands {', '.join(jobs)}, found another word")
    command = sys.argv[1:]
    if name in jobs:
        command = [name, "--", "--help"] if "--help" in words else [name, *_paths_as_texts(jobs[name], words[:-1])]
    run_or_exit(fire.Fire, {key: _silent(job) for key, job in jobs.items()}, command, name="deepssim")


def _paths_as_texts(job: Callable[..., object], words: Sequence[str]) -> list[str]:
    """Return the words of a command, its first ones quoted, as a folder may be called 2024; stop where one is missing.

    Fire would run the job, hours long, before it found one too many.
    """
    parameters = [one for one in inspect.signature(job).parameters.values() if PATH_KEY.search(one.name)]
    given = list(takewhile(lambda word: not word.startswith("-"), words))
    flags = {word.partition("=")[0].lstrip("-").replace("-", "_") for word in words if word.startswith("--")}
    missing = [one.name for one in parameters[len(given) :] if one.default is one.empty and one.name not in flags]
    expected = " ".join(one.name.upper() for one in parameters)
    if missing:
        stop(f"{job.__name__}: expected {expected}, found no {missing[0].upper()}")
    if len(given) > len(parameters):
        stop(
            f"{job.__name__}: expected {expected}, found one more, {given[len(parameters)]!r}; quote names with spaces"
        )
    return [*map(repr, given), *words[len(given) :]]


def _silent(job: Callable[..., object]) -> Callable[..., None]:
    """Return the job without its result, which Fire would print."""

    @functools.wraps(job)
    def command(*args: object, **keys: object) -> None:
        job(*args, **keys)

    return command


if __name__ == "__main__":
    main()
