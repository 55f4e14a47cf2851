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

"""How the package's kernels are compiled: by numba, kept on disk where a folder can be written."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import numba

__all__ = ["kernel"]

logger = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable)


def kernel(**options: Any) -> Callable[[Function], Function]:
    """Return a decorator that compiles a function; `options` are those of :func:`numba.njit`.

    The machine code is kept beside the source, in NUMBA_CACHE_DIR or in the user's cache. Where none of them can be
    written, as in a read-only container, it is compiled anew in every process.
    """

    def compiled(function: Function) -> Function:
        try:
            return numba.njit(cache=True, error_model="numpy", **options)(function)
        except RuntimeError:  # numba looks for the folder here, at once
            _say_once()
            return numba.njit(error_model="numpy", **options)(function)

    return compiled


@functools.cache
def _say_once() -> None:
    logger.warning(
        "compiled code cannot be kept, so that each run compiles for a minute; name a folder in NUMBA_CACHE_DIR"
    )
