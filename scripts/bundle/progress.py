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

"""How far a long step is: a bar on a terminal, a line from time to time in a file."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from tqdm import tqdm

__all__ = ["Progress"]

INTERVAL = 30.0  # seconds between two lines
BAR_AFTER, LINE_AFTER = 1.0, 5.0  # seconds; a step that ends before says nothing
LINE = "{desc}: {n_fmt} of {total_fmt} {unit}s, {elapsed} passed, {remaining} left"


class Progress(tqdm):
    """tqdm's bar; where standard error is no terminal, whole lines, the first after 5 s, then one every 30 s."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if sys.stderr.isatty():
            super().__init__(*args, delay=BAR_AFTER, **kwargs)
            return
        # smoothing 0: the rate of the whole step, which the shifted time of the last line below does not bend
        how = {"file": _Lines(sys.stderr), "mininterval": INTERVAL, "miniters": 1, "smoothing": 0, "bar_format": LINE}
        super().__init__(*args, delay=LINE_AFTER, **how, **kwargs)
        self.last_print_t = self.start_t - INTERVAL


class _Lines:
    """A stream that turns the rewriting of one line into lines, each once."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.last = stream, ""

    def write(self, text: str) -> None:
        if (text := text.strip()) not in ("", self.last):
            self.stream.write(f"{text}\n")
            self.last = text

    def flush(self) -> None:
        self.stream.flush()
