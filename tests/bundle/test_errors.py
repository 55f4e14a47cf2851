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

import errno
import logging
import sys

import pytest
import torch
from scripts.bundle.errors import by_command, causes, expected_cause, run_or_exit, sentence, stop


def chained(*errors: BaseException) -> BaseException:
    """The first error, caused by the second, and so on."""
    for error, cause in zip(errors, errors[1:]):
        error.__cause__ = cause
    return errors[0]


def test_the_outermost_error_that_a_user_can_cause_is_told():
    outer, value, inner = RuntimeError("transform failed"), ValueError("no image\nmore"), KeyError("x")
    assert causes(chained(outer, value, inner)) == [outer, value, inner]
    assert expected_cause(outer) is value and expected_cause(inner) is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("\n  \nfirst line\nsecond"), "first line"),
        (ValueError(""), "ValueError: "),
        (ImportError("no module x"), "ImportError: no module x"),
        (OSError("odd"), "odd"),
        (
            OSError(errno.ENOSPC, "full", "a.png"),
            "a.png: the disk is full; free some space and run again, what is finis",
        ),
        (OSError(errno.EPIPE, "Broken pipe"), "Broken pipe"),
    ],
)
def test_an_error_becomes_one_sentence(error, expected):
    assert sentence(error).startswith(expected) and "\n" not in sentence(error)


def test_a_long_value_is_shown_by_its_ends():
    said = sentence(ValueError(f"list.csv: expected an id, found {'x' * 99_999}; correct it"))
    assert len(said) < 1010 and said.startswith("list.csv: expected an id, found xxx") and said.endswith("; correct it")


def test_a_job_returns_or_ends_the_process_with_its_sentence(as_command):
    def fail(error: BaseException):
        raise error

    assert run_or_exit(divmod, 7, 2) == (3, 1)
    for error, said in (
        (ValueError("a.png: no image"), "error: a.png: no image"),
        (
            chained(RuntimeError("outer"), FileNotFoundError(errno.ENOENT, "", "b")),
            "error: b: expected a file or folder, found",
        ),
        (KeyboardInterrupt(), "error: stopped by the user"),
        (MemoryError(), "error: the memory ran out; lower batch_size"),
        (chained(RuntimeError("outer"), torch.OutOfMemoryError("CUDA out of memory.")), "error: the memory ran out"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "error: the memory ran out"),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 7285696 vs 7285600"),
            "error: weights could not be written, most likely as the disk is full",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
            "error: a process that reads files was",
        ),
    ):
        with pytest.raises(SystemExit) as stop:
            run_or_exit(fail, error)
        assert str(stop.value.code).startswith(said)


def test_what_no_user_can_cause_is_raised_and_all_is_where_verbose(as_command):
    with pytest.raises(ZeroDivisionError):
        run_or_exit(divmod, 1, 0)
    logging.getLogger("scripts").setLevel(logging.DEBUG)
    try:
        with pytest.raises(ValueError, match="invalid literal"):
            run_or_exit(int, "x")
    finally:
        logging.getLogger("scripts").setLevel(logging.NOTSET)


def test_a_program_gets_the_sentence_as_a_value_error_and_its_own_interrupts():
    missing = chained(RuntimeError("outer"), FileNotFoundError(errno.ENOENT, "", "b"))

    def fail(error: BaseException):
        raise error

    with pytest.raises(ValueError, match="^b: expected a file or folder, found none; check the path$"):
        run_or_exit(fail, missing)
    with pytest.raises(KeyboardInterrupt):
        run_or_exit(fail, KeyboardInterrupt())
    with pytest.raises(ZeroDivisionError):
        run_or_exit(divmod, 1, 0)
    with pytest.raises(ValueError, match="^no$"):
        stop("no")


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("/lib/monai/bundle/__main__.py", True),
        ("C:\\lib\\monai\\bundle\\__main__.py", True),
        ("/site-packages/scripts/__main__.py", True),
        ("/home/a/bundle/__main__.py", False),
        ("", False),
    ],
)
def test_a_command_is_known_by_the_program(program, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program])
    assert by_command() is expected
