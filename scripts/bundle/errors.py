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

"""What a user's files and arguments can cause, as one sentence and exit status 1."""

from __future__ import annotations

import errno
import logging
import re
import sys
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

from .components import PACKAGE
from .text import visible

__all__ = ["by_command", "causes", "debugging", "expected_cause", "first_line", "run_or_exit", "sentence", "stop"]


Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# what a user's files and arguments can cause; anything else is a fault of ours and keeps its traceback
EXPECTED_ERRORS = (OSError, ValueError, ImportError, MemoryError)
COMMANDS = ("monai/bundle/__main__.py", f"{PACKAGE}/__main__.py")  # how sys.argv[0] ends there
LONGEST = 1000  # characters of a sentence; a name or a value may have any length
OUT_OF_MEMORY = "the memory ran out; lower batch_size or num_workers, or take fewer images at a time"
EXHAUSTED = {  # what torch says of it, and what to do
    r"DataLoader worker .*(killed|exited)": "a process that reads files was killed, most likely as the memory ran out; "
    "lower num_workers",
    r"can't allocate memory|[Oo]ut of memory": OUT_OF_MEMORY,
    r"PytorchStreamWriter|unexpected pos \d+ vs|iostream error": "weights could not be written, most likely as the "
    "disk is full; free some space and run again, what is finished is kept",
}
REMEDIES = {
    errno.ENOENT: "expected a file or folder, found none; check the path",
    errno.ENOSPC: "the disk is full; free some space and run again, what is finished is kept",
    errno.EDQUOT: "the disk quota is used up; free some space and run again, what is finished is kept",
    errno.EACCES: "permission denied; change the file's mode or choose another folder",
    errno.EPERM: "operation not permitted; change the file's mode or choose another folder",
    errno.EROFS: "the file system is read-only; choose another output_dir",
    errno.ENOTDIR: "a part of this path is a file; choose another folder",
    errno.EEXIST: "a file of this name is where a folder is needed; choose another folder",
    errno.EISDIR: "a folder is where a file is needed; remove or rename it",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ELOOP: "symbolic links lead in a circle; remove one of them",
}


def by_command() -> bool:
    """Return whether a command, MONAI's or the bundle's own, started the process, and not somebody's Python."""
    return sys.argv[0].replace("\\", "/").endswith(COMMANDS)


def stop(text: str) -> NoReturn:
    """End the process with one sentence and status 1; a notebook or another program gets it as a ValueError."""
    if by_command():
        sys.exit(f"error: {text}")
    raise ValueError(text)


def run_or_exit(job: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
    """Return ``job(*args)``; an expected error or Ctrl-C ends the process with one sentence and status 1.

    With `verbose`, errors keep their traceback; those that no user can cause always do. Where no command started the
    process, an expected error is raised as a ValueError with that sentence, and Ctrl-C stays what it is.
    """
    try:
        return job(*args, **kwargs)
    except KeyboardInterrupt:
        if not by_command():
            raise
        sys.exit("error: stopped by the user; what is finished is kept, the same command goes on from there")
    except Exception as error:
        cause = expected_cause(error)
        if cause is None or debugging():
            raise
        if by_command():
            sys.exit(f"error: {sentence(cause)}")
        raise ValueError(sentence(cause)) from error


def debugging() -> bool:
    return logging.getLogger(PACKAGE).isEnabledFor(logging.DEBUG)


def causes(error: BaseException) -> list[BaseException]:
    """Return the error and what caused it: MONAI's outer exceptions say only which part failed."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return chain


def expected_cause(error: BaseException) -> BaseException | None:
    """Return the outermost error of the chain that a user, or a machine that is too small, can cause."""
    return next((e for e in causes(error) if isinstance(e, EXPECTED_ERRORS) or _exhausted(e)), None)


def _exhausted(error: BaseException) -> str | None:
    """Return what to do about an error of torch that says that the machine is too small, None for another one."""
    if isinstance(error, MemoryError):
        return OUT_OF_MEMORY
    if isinstance(error, RuntimeError):
        return next((remedy for words, remedy in EXHAUSTED.items() if re.search(words, str(error))), None)
    return None


def first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "")


def sentence(error: BaseException) -> str:
    """Return an error as one sentence that names the file, where it knows one."""
    text = visible(_sentence(error))
    cut = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:cut]} ... {text[-cut:]}"


def _sentence(error: BaseException) -> str:
    if remedy := _exhausted(error):
        return remedy
    if isinstance(error, OSError) and error.errno is not None:
        remedy = REMEDIES.get(error.errno, error.strerror or type(error).__name__)
        return f"{error.filename}: {remedy}" if error.filename else remedy
    first = first_line(error)
    return first if isinstance(error, (ValueError, OSError)) and first else f"{type(error).__name__}: {first}"
