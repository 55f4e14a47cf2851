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

"""What a case study finds, as values; the one place where they become JSON and come back from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

from ..bundle.files import replacing

__all__ = [
    "AttackedSubject",
    "Cell",
    "CellResult",
    "CopiesRow",
    "CopyLeaks",
    "Flagged",
    "Group",
    "LeakedRate",
    "Membership",
    "Merit",
    "Quality",
    "SeenRow",
    "Slope",
    "StudyResult",
    "SubjectLeak",
]


@dataclass(frozen=True)
class Cell:
    """One training condition: so many `subjects`, trained on `passes` times; `slices` of them, a name among the study's
    tables; `duplication` and `condition` as in configs/ldm/train_diffusion.yaml."""

    name: str
    subjects: int
    slices: str = "one"
    duplication: str = "none"
    passes: int = 100
    condition: str = "none"


class Rate(TypedDict):
    """A count, its share and the 95 % interval of the share, as an audit's report has them."""

    count: int
    rate: float
    ci95: list[float]


class Curve(TypedDict):
    """The `subjects` of called samples among the first so many `samples`."""

    samples: list[int]
    subjects: list[float]


class LeakedRate(Rate):
    """The leaked subjects of a model."""

    curve: Curve


class SetLevel(TypedDict):
    """Whether the generated images as a set are nearer to the training images than unseen ones are."""

    auc: float


class Control(TypedDict):
    """An audit's positive control."""

    recall: float


@dataclass(frozen=True)
class SubjectLeak:
    """A training subject: its `copies` in the training set, and whether the audit says that it leaked."""

    subject_id: str
    copies: int
    leaked: bool


@dataclass(frozen=True)
class Flagged:
    """What a rival flags: the share of the generated images above `cut`, a percentile of unseen real images."""

    flagged: float
    cut: float


@dataclass(frozen=True)
class Quality:
    """MMD^2 to unseen real images: of the generated images, and of the training images, the best possible."""

    mmd: float
    mmd_train: float


@dataclass(frozen=True)
class Group:
    """So many subjects, so many of them leaked."""

    subjects: int
    leaked: int


@dataclass(frozen=True)
class Merit:
    """A figure of merit, with its 95 % interval where it has one. `value` is None where it is not defined, and `reason`
    says why."""

    value: float | None
    ci95: tuple[float, float] | None = None
    reason: str | None = None

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Merit:
        """Return the figure that has this JSON."""
        return cls(content["value"], content["ci95"] and tuple(content["ci95"]), content["reason"])


@dataclass(frozen=True)
class AttackedSubject:
    """A subject in a membership attack: whether it is a training subject (`member`), its images' mean `score`, the
    higher the more like a member's, whether the audit says that it leaked, and how many samples were `called` its."""

    subject_id: str
    member: bool
    score: float
    leaked: bool
    called: int


@dataclass(frozen=True)
class Membership:
    """What a membership attack on a model recognises, and whether that is what the audit calls.

    Attributes:
        auc: P(score of a training subject > score of one that the model never saw).
        tpr: share of the training subjects above the lowest cut that at most 1 % of the others pass.
        recognised: the training subjects above that cut; None without others.
        missed: the other training subjects; None without others.
        leaked_auc: P(score of a leaked training subject > score of one that did not leak).
        called_correlation: Spearman's, of the training subjects' scores and the samples called theirs.
        subjects: of both kinds.
    """

    auc: Merit
    tpr: Merit
    recognised: Group | None
    missed: Group | None
    leaked_auc: Merit
    called_correlation: Merit
    subjects: list[AttackedSubject]

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Membership:
        """Return the result that has this JSON."""
        values: dict[str, Any] = {
            name: Merit.of_json(content[name]) for name in ("auc", "tpr", "leaked_auc", "called_correlation")
        }
        values |= {name: content[name] and Group(**content[name]) for name in ("recognised", "missed")}
        return cls(**values, subjects=[AttackedSubject(**subject) for subject in content["subjects"]])


@dataclass(frozen=True)
class CellResult:
    """One model: its training condition and what its audit found.

    `duplicates` are calls labelled so, `empty` samples that show nothing; `seconds` are those of each stage;
    `membership` is None where the model was not attacked.
    """

    cell: Cell
    seed: int
    memorized: Rate
    duplicates: int
    empty: int
    leaked_subjects: LeakedRate
    set_level: SetLevel
    positive_control: Control
    subjects: list[SubjectLeak]
    rivals: dict[str, Flagged]
    quality: Quality
    seconds: dict[str, float]
    membership: Membership | None = None

    @property
    def model(self) -> str:
        """The model's name."""
        return f"{self.cell.name}_{self.seed}"

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> CellResult:
        """Return the result that has this JSON."""
        values = {
            "cell": Cell(**content["cell"]),
            "subjects": [SubjectLeak(**subject) for subject in content["subjects"]],
            "rivals": {name: Flagged(**rival) for name, rival in content["rivals"].items()},
            "quality": Quality(**content["quality"]),
            "membership": Membership.of_json(content["membership"]) if "membership" in content else None,
        }
        return cls(**{**content, **values})

    @classmethod
    def read(cls, path: Path) -> CellResult:
        """Return the content of a file that :meth:`write` wrote."""
        return cls.of_json(json.loads(path.read_text(encoding="utf-8")))

    def json(self) -> dict[str, Any]:
        """Return the result's JSON; of a model that was not attacked, as it was before there were attacks."""
        content = asdict(self)
        if self.membership is None:
            del content["membership"]
        return content

    def write(self, path: Path) -> None:
        """Write the result as JSON."""
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.json(), indent=1), encoding="utf-8")


@dataclass(frozen=True)
class CopiesRow:
    """The subjects of one number of copies, in all models of one duplication; `ci95` is of the leaked share."""

    duplication: str
    copies: int
    subjects: int
    leaked: int
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Slope:
    """The slope of the log odds of a leak a doubling of the copies, and the log odds of one copy in each model."""

    per_doubling: float
    ci95: tuple[float, float]
    intercepts: dict[str, float]


@dataclass(frozen=True)
class CopyLeaks:
    """Leaks against copies: each number of copies, the slope, subjects of one copy and of many in the same models."""

    copies: list[CopiesRow]
    slope: Slope
    leaked_once: Group
    leaked_often: Group


@dataclass(frozen=True)
class SeenRow:
    """The subjects whose images were seen in training between the two numbers `seen` of times."""

    seen: tuple[int, int]
    subjects: int
    leaked: int
    ci95: tuple[float, float]


@dataclass(frozen=True)
class StudyResult:
    """All models of a study; `by_copies` is None where no model repeats subjects."""

    samples: int
    cells: list[CellResult]
    by_copies: CopyLeaks | None
    seen: list[SeenRow]

    def json(self) -> dict[str, Any]:
        """Return the JSON of case_study.json."""
        by_copies = {"copies": None} if self.by_copies is None else asdict(self.by_copies)
        return {
            "samples": self.samples,
            "cells": [cell.json() for cell in self.cells],
            **by_copies,
            "seen": [asdict(row) for row in self.seen],
        }
