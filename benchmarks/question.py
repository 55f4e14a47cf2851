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

"""One row of docs/validity.md: what is asked of audits with a known truth, and whether the answer fulfils it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypedDict, TypeVar

__all__ = ["FDR", "Question", "Row", "table"]

FDR = 0.05  # the level that every study is run at; that of configs/detect.yaml

# an int, a float or a TypedDict of them: an answer is stored as JSON, and judged again when a stopped run goes on
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Question(Generic[Answer]):
    """A study of many audits and its criterion, fixed before the study was run.

    `run` returns the answer and `holds` judges it; `asked` says the criterion in words. Without `holds` the answer is
    only shown.
    """

    name: str
    run: Callable[[], Answer]
    asked: str = "shown, nothing asked"
    holds: Callable[[Answer], bool] | None = None

    def verdict(self, answer: Answer) -> str:
        """Return yes, **no** or, where nothing is asked, nothing."""
        return "" if self.holds is None else "yes" if self.holds(answer) else "**no**"


class Row(TypedDict):
    """What stands in validity.json under a question's name."""

    answer: object
    seconds: float


def table(questions: list[Question], found: Mapping[str, Row]) -> str:
    """Return the answers found so far as a Markdown table, with what is asked of each."""
    lines = ["| audits | found | asked | holds |", "|---|---|---|---|"]
    for question in questions:
        if question.name in found:
            answer = found[question.name]["answer"]
            lines.append(f"| {question.name} | {_text(answer)} | {question.asked} | {question.verdict(answer)} |")
    return "\n".join(lines) + "\n"


def _text(answer: object) -> str:
    if isinstance(answer, Mapping):
        return ", ".join(f"{key.replace('_', ' ')} {_text(value)}" for key, value in answer.items())
    if isinstance(answer, (list, tuple)):
        return " to ".join(map(_text, answer))
    return str(answer) if isinstance(answer, int) else f"{answer:.3g}"
