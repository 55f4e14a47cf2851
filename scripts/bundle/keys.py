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

"""What the keys of a config mean, read from the config's own comments."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

__all__ = ["Group", "Key", "describe_keys", "documented_groups"]

HIDDEN = ("imports", "run", "bundle_root")
BUNDLE = "$@bundle_root + "  # how a default below the bundle's folder begins
WIDEST_DEFAULT = 28  # characters; after a longer one the meaning begins on the next line


@dataclass(frozen=True)
class Key:
    """A top-level key: its default as the file writes it, empty for a block, and its comment, empty without one."""

    name: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Group:
    """The keys below one header, a comment that begins its line; the first keys may have none."""

    title: str
    keys: list[Key] = field(default_factory=list)


def describe_keys(config_files: Sequence[str | os.PathLike]) -> str:
    """Return the keys of the first file with default and meaning, by group, then those that each overlay sets.

    Keys without a comment are parts, which an overlay may replace: they are named together at the end of their file.

    Raises:
        FileNotFoundError: if a file is missing.
    """
    width = max(80, shutil.get_terminal_size((120, 24)).columns)
    lines: list[str] = []
    meanings: dict[str, str] = {}  # an overlay need not repeat them
    for file in map(Path, config_files):
        groups = [
            Group(group.title, [replace(key, meaning=key.meaning or meanings.get(key.name, "")) for key in group.keys])
            for group in documented_groups(file)
        ]
        lines += [f"{'Laid over it: ' if lines else ''}{_title(file)}", *_table(groups, width), ""]
        meanings |= {key.name: key.meaning for group in groups for key in group.keys}
    return "\n".join(lines)


def documented_groups(config_file: str | os.PathLike) -> list[Group]:
    """Return the groups of a YAML config with all their keys, except `imports`, `run` and `bundle_root`.

    A key's meaning is the comment at the end of its line, and the comments below that begin in the same column.
    """
    text = Path(config_file).read_text(encoding="utf-8")
    lines = text.splitlines()
    groups, free = [Group("")], 0  # `free`: the first line that belongs to no key yet
    for name, default in yaml.compose(text).value:
        above = lines[free : name.start_mark.line]
        if free and (header := _last_comment(above)):
            groups.append(Group(header))
        block = default.start_mark.line > name.start_mark.line
        end = name.end_mark if block else default.end_mark
        meaning, column = _comment(lines[end.line][end.column :], end.column)
        free = end.line + 1
        while column and free < len(lines) and lines[free].find("#") == column and not lines[free][:column].strip():
            meaning += " " + lines[free][column + 1 :].strip()
            free += 1
        if name.value not in HIDDEN:
            written = "" if block else text[default.start_mark.index : default.end_mark.index]
            groups[-1].keys.append(Key(name.value, written, meaning))
    return groups


def _comment(rest: str, start: int) -> tuple[str, int]:
    """Return the comment in what follows a value on its line, and the column of its #; empty and 0 without one."""
    found = rest.find("#")
    return (rest[found + 1 :].strip(), start + found) if found >= 0 else ("", 0)


def _last_comment(lines: Sequence[str]) -> str:
    """Return the comment that ends the lines and begins in their first column, as one line."""
    block: list[str] = []
    for line in reversed(lines):
        if not line.startswith("#"):
            break
        block.insert(0, line[1:].strip())
    return " ".join(block)


def _title(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").splitlines()
    return f"{file}: {lines[0][1:].strip()}" if lines and lines[0].startswith("#") else str(file)


def _table(groups: Sequence[Group], width: int) -> Iterator[str]:
    margin = max((len(key.name) for group in groups for key in group.keys if key.meaning), default=0)
    for group in groups:
        known = [key for key in group.keys if key.meaning]
        if known:
            yield ""
            yield from textwrap.wrap(group.title, width)
        for key in known:
            yield from _key_lines(key, margin, width)
    if parts := [key.name for group in groups for key in group.keys if not key.meaning]:
        yield ""
        yield from textwrap.wrap(f"Parts, which an overlay may replace: {', '.join(parts)}", width)


def _key_lines(key: Key, margin: int, width: int) -> Iterator[str]:
    below_bundle = key.default.startswith(BUNDLE)
    default = "BUNDLE" + key.default.removeprefix(BUNDLE).strip("'") if below_bundle else key.default
    indent = " " * (margin + WIDEST_DEFAULT + 6)
    start = f"  {key.name:{margin}}  {default:{WIDEST_DEFAULT}}  "
    if len(default) > WIDEST_DEFAULT:
        yield start.rstrip()
        start = indent
    yield from textwrap.wrap(start + key.meaning, width, subsequent_indent=indent)
