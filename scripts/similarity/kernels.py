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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numba

__all__ = ["in_parts", "kernel"]

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
    threads = min(numba.config.NUMBA_NUM_THREADS, count)  # type: ignore[attr-defined]
    if threads <= 1:
        function(0, count, *arguments)
        return
    step = -(-count // (PARTS * threads))
    with ThreadPoolExecutor(threads) as pool:
        parts = [pool.submit(function, a, min(a + step, count), *arguments) for a in range(0, count, step)]
        for part in parts:
            part.result()


@functools.cache
def _say_once() -> None:
    logger.warning(
        "compiled code cannot be kept, so that each run compiles for a minute; name a folder in NUMBA_CACHE_DIR"
    )
