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

"""Random inputs at the doors of the audit: is every answer either right, or one sentence?

python benchmarks/fuzz.py [--inputs 5000] [--seed 0] [--only images:17]

Three kinds: image files, three of five; datalists, subject patterns and split files, one of five; arguments of
configs/detect.yaml, one of five. Each input is made anew from seed, kind and number, so that its number reproduces it.
How it was made says which answers are right. Status 1 if there is a traceback, a hang, or nonsense: bad input that
passes without a word, or sound input that is refused.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import resource
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fuzz_case import COLUMNS, HANG, NONSENSE, TRACEBACK, Cases, Outcome, outcome
from fuzz_images import ImageCases
from fuzz_lists import ListCases
from fuzz_overrides import OverrideCases

KINDS: dict[str, Callable[[], Cases]] = {"images": ImageCases, "lists": ListCases, "overrides": OverrideCases}
OF_FIVE = {"images": 3, "lists": 1, "overrides": 1}
FAULTS = (TRACEBACK, HANG, NONSENSE)
HEADER = "| kind | inputs | right or accepted rightly | one sentence | tracebacks | hangs | silent nonsense |"
MEMORY = 12 << 30  # bytes that this process may take: an input that asks for more must not stop the machine


@dataclass(frozen=True)
class Thrown:
    """An input by kind and number, what it was, and its outcome."""

    kind: str
    number: int
    what: str
    outcome: Outcome


def thrown(kind: str, cases: Cases, numbers: range, seed: int) -> Iterator[Thrown]:
    """Throw the inputs of these numbers."""
    place = list(KINDS).index(kind)
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            case = cases.case(np.random.default_rng([seed, place, number]), Path(folder))
            yield Thrown(kind, number, case.what, outcome(case))


def table(results: list[Thrown]) -> str:
    """Return how many inputs of each kind had each outcome."""
    counts: dict[str, Counter[str]] = {}
    for result in results:
        counts.setdefault(result.kind, Counter())[result.outcome.column] += 1
    rows = [
        f"| {kind} | {count.total():,} | " + " | ".join(f"{count[column]:,}" for column in COLUMNS) + " |"
        for kind, count in counts.items()
    ]
    return "\n".join([HEADER, "|---|---|---|---|---|---|---|", *rows])


def faults(results: list[Thrown]) -> list[str]:
    """Return a line for each input whose answer is neither right nor a sentence."""
    return [
        f"{r.outcome.column}: --only {r.kind}:{r.number} ({ascii(r.what)}) {ascii(r.outcome.text)[:300]}"
        for r in results
        if r.outcome.column in FAULTS
    ]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep back what is logged and warned of; libraries in C still write to the terminal."""
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def throw(numbers: Mapping[str, range], seed: int) -> list[Thrown]:
    """Throw inputs of several kinds."""
    with quiet():
        return [result for kind, of in numbers.items() for result in thrown(kind, KINDS[kind](), of, seed)]


def main(words: list[str] | None = None) -> None:
    """Throw all, or one again, and print the table and the faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=5000, help="of all kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one input, as kind:number")
    arguments = parser.parse_args(words)
    numbers = {kind: range(arguments.inputs * share // 5) for kind, share in OF_FIVE.items()}
    if arguments.only:
        kind, _, number = arguments.only.partition(":")
        numbers = {kind: range(int(number), int(number) + 1)}
    results = throw(numbers, arguments.seed)
    print(table(results))
    print("\n".join(faults(results)))
    if arguments.only:
        print(f"{results[0].what}\n{results[0].outcome.column}: {results[0].outcome.text}")
    if faults(results):
        sys.exit(1)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    main()
