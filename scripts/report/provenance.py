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

"""When, with what and how an audit was run: what another person needs to run it again."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from platform import python_version

from ..bundle.components import PACKAGE
from ..bundle.errors import by_command
from ..bundle.options import PATH_KEY

__all__ = ["Run"]

PACKAGES = ("torch", "monai", "numpy", "scipy", "numba")


@dataclass(frozen=True)
class Run:
    """A run of the audit.

    Attributes:
        date: when the report was written, ISO 8601 in UTC.
        command: as a shell takes it; empty where Python called the audit, or where names are hidden.
        settings: the config's keys and their values; without paths where names are hidden.
        versions: of Python and of the packages that results depend on.
    """

    date: str
    command: str
    settings: dict[str, object]
    versions: dict[str, str]

    @classmethod
    def now(cls, settings: Mapping[str, object], hidden: bool = False) -> Run:
        """Return the run that this process is."""
        return cls(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            command="" if hidden else _command(),
            settings={key: value for key, value in settings.items() if not (hidden and _may_name(key))},
            versions={"python": python_version()} | {name: version(name) for name in PACKAGES},
        )


def _command() -> str:
    """Return the command that started the process, if one did."""
    program, *words = sys.argv
    if not by_command():
        return ""
    monai = program.replace("\\", "/").endswith("monai/bundle/__main__.py")
    return f"python -m {'monai.bundle' if monai else PACKAGE} {shlex.join(words)}"


def _may_name(key: str) -> bool:
    """Return whether a setting may name a file or a person: paths, globs and patterns."""
    return bool(PATH_KEY.search(key)) or key in ("include", "exclude", "subject_pattern", "group_column")
