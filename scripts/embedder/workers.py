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

"""How many processes load files beside the main one."""

from __future__ import annotations

import multiprocessing
import os
from typing import Literal

__all__ = ["MOST_BESIDE_GPU", "MOST_CHOSEN", "Workers", "checked_workers", "worker_count"]

Workers = int | Literal["auto"]

MOST_WORKERS = 256
MOST_CHOSEN = 4  # more load pictures faster than a processor embeds them, and each may hold a volume
MOST_BESIDE_GPU = 12  # which embeds faster than these load
FEWEST_FILES = 256  # fewer pictures are loaded within a second, about what the start of processes costs


def checked_workers(num_workers: Workers) -> Workers:
    """Return a number of processes, or `auto`, if it is one.

    Raises:
        ValueError: for another text, and for a number that is not whole or not in [0, 256].
    """
    if num_workers == "auto":
        return num_workers
    if not isinstance(num_workers, int) or isinstance(num_workers, bool):
        raise ValueError(f"num_workers must be auto or a whole number, got {num_workers!r}")
    if num_workers < 0:
        raise ValueError(f"num_workers must be 0 or more, got {num_workers}")
    if num_workers > MOST_WORKERS:
        raise ValueError(f"num_workers must be at most {MOST_WORKERS}, got {num_workers}")
    return num_workers


def worker_count(num_workers: Workers, files: int, most: int = MOST_CHOSEN) -> int:
    """Return how many processes are to load so many files; 0: the main one loads them.

    `auto` leaves one of the cores that this process may use to the network, and takes at most `most`. It starts none
    for few files. Nor does it where processes are spawned: each would import all packages, which takes longer than
    loading thousands of pictures, and run a script again that does not guard its main part. Nor in a daemon, which may
    have no processes of its own.
    """
    if num_workers != "auto":
        return num_workers
    forked = multiprocessing.get_start_method() == "fork" and not multiprocessing.current_process().daemon
    return min(most, _cores() - 1) if forked and files >= FEWEST_FILES else 0


def _cores() -> int:
    """Return the number of cores that this process may use; all where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
