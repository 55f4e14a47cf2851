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

"""Which part of the work a process does, where several share it."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .files import replacing
from .progress import Progress

__all__ = ["ALL", "Share", "Steps"]

POLL = 0.5  # seconds between two looks at what others have done

Value = TypeVar("Value")


@dataclass(frozen=True)
class Share:
    """The `number`-th of `count` shares, counted from 1: every `count`-th piece of the work.

    Raises:
        ValueError: if there is no such share.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(
                f"shard: expected one from 1/{self.count} to {self.count}/{self.count}, found {self}; the first is 1"
            )

    @classmethod
    def parse(cls, text: str) -> Share:
        """Return the share that a text such as 3/16 names.

        Raises:
            ValueError: for another text.
        """
        if not (found := re.fullmatch(r"\s*([0-9]{1,6})\s*/\s*([0-9]{1,6})\s*", str(text))):
            raise ValueError(f"shard: expected a share such as 3/16, found {text!r}; write the third of 16 so")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, pieces: Sequence[Value]) -> list[Value]:
        """Return this share's pieces."""
        return list(pieces[self.number - 1 :: self.count])


ALL = Share()


class Steps:
    """Which shares of each step are done: a small file each, in a folder that all processes see.

    They say who need not do what. Whether it is done rightly they do not say: what is missing all the same, the next
    step computes itself.

    Args:
        folder: made when a share is done.
        share: of this process.
        work: what the steps are about; of other work the files have other names.
        wait: for the other shares, at the end of each step.
    """

    def __init__(self, folder: str | os.PathLike, share: Share, work: Sequence[str], wait: bool = False) -> None:
        self.folder, self.share, self.wait = Path(folder), share, wait
        self.digest = hashlib.sha256("\n".join(work).encode(errors="surrogateescape")).hexdigest()[:16]

    def done(self, step: str) -> int:
        """Note that this process's share of a step is done, and return how many are: all, if it waits."""
        with replacing(self._file(step, self.share.number)) as temporary:
            temporary.touch()
        found = self._found(step)
        if self.wait and found < self.share.count:
            with Progress(total=self.share.count, desc=f"waiting: {step}", unit="shard", initial=found) as bar:
                while (now := self._found(step)) < self.share.count:
                    bar.update(now - found)
                    found = now
                    time.sleep(POLL)
                bar.update(self.share.count - found)
            found = self.share.count
        return found

    def missing(self, step: str) -> list[Share]:
        """Return the shares of which nobody has noted that their part of a step is done."""
        count = self.share.count
        return [Share(number, count) for number in range(1, count + 1) if not self._file(step, number).exists()]

    def _found(self, step: str) -> int:
        return self.share.count - len(self.missing(step))

    def _file(self, step: str, number: int) -> Path:
        return self.folder / f"{self.digest}.{step}.{number}-of-{self.share.count}.done"
