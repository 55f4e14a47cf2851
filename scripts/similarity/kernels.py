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

"""How the package's kernels are compiled and run: by numba, kept on disk where a folder can be written; on all cores.

A kernel does a part of the work, from `start` to `stop`, without Python's lock, and :func:`in_parts` gives the parts to
threads. numba's own parallel loops take five times as long to compile and leave a process that must not fork.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numba

__all__ = ["Behind", "in_parts", "kernel"]

logger = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable)

PARTS = 4  # a thread: some parts take longer than others


def kernel(**options: Any) -> Callable[[Function], Function]:
    """Return a decorator that compiles a function; `options` are those of :func:`numba.njit`.

    The machine code is kept beside the source, in NUMBA_CACHE_DIR or in the user's cache. Where none of them can be
    written, as in a read-only container, it is compiled anew in every process.
    """

    def compiled(function: Function) -> Function:
        try:
            return numba.njit(cache=True, error_model="numpy", nogil=True, **options)(function)
        except RuntimeError:  # numba looks for the folder here, at once
            _say_once()
            return numba.njit(error_model="numpy", nogil=True, **options)(function)

    return compiled


def in_parts(function: Callable[..., object], count: int, *arguments: Any) -> None:
    """Call ``function(start, stop, *arguments)`` for parts of 0 ... count - 1, on as many threads as numba may use.

    What the parts write must not overlap. Threads are as many as the cores, or NUMBA_NUM_THREADS.
    """
    threads = min(_threads(), count)
    if threads <= 1:
        function(0, count, *arguments)
        return
    step = -(-count // (PARTS * threads))
    with ThreadPoolExecutor(threads) as pool:
        parts = [pool.submit(function, a, min(a + step, count), *arguments) for a in range(0, count, step)]
        for part in parts:
            part.result()


class Behind:
    """Runs a kernel's parts while the caller makes the input of the next call, as a product of matrices; a context.

    At most one call is under way: the next one waits for it. Its threads are a quarter of the cores, as the work of the
    caller is meant to be the larger one.
    """

    def __init__(self) -> None:
        self._count = max(1, _threads() // 4)
        self._pool = ThreadPoolExecutor(self._count)
        self._parts: list[Future[object]] = []

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.wait()
        finally:
            self._pool.shutdown()

    def __call__(self, function: Callable[..., object], count: int, *arguments: Any) -> None:
        """Begin ``function(start, stop, *arguments)`` for parts of 0 ... count - 1, once the last call has ended."""
        self.wait()
        step = max(1, -(-count // self._count))
        self._parts = [self._pool.submit(function, a, min(a + step, count), *arguments) for a in range(0, count, step)]

    def wait(self) -> None:
        """Wait until nothing is under way.

        Raises:
            Exception: that of a part that failed.
        """
        parts, self._parts = self._parts, []
        for part in parts:
            part.result()


def _threads() -> int:
    """Return how many threads numba may use, shared with the other processes that torchrun has started here."""
    return max(1, int(numba.config.NUMBA_NUM_THREADS) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))  # type: ignore[attr-defined]


@functools.cache
def _say_once() -> None:
    logger.warning(
        "compiled code cannot be kept, so that each run compiles for a minute; name a folder in NUMBA_CACHE_DIR"
    )
