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

"""The order of the rooms, the size of the modules, and what each room says of itself: docs/architecture.md."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

ROOMS = sorted(file.parent for file in (ROOT / "scripts").glob("*/__init__.py"))
LONGEST = 350  # lines of a module; aim at 200


def imports_are_in_order(folder: Path) -> subprocess.CompletedProcess:
    """Check the contracts of the pyproject.toml in a folder."""
    check = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    return subprocess.run([sys.executable, "-c", check], cwd=folder, capture_output=True, text=True)


def imported_rooms(room: Path) -> set[str]:
    """Return the other rooms that a room's modules import, by their relative imports."""
    found = set()
    for module in room.glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 2:
                found |= {node.module.split(".")[0]} if node.module else {name.name for name in node.names}
    return found


def test_rooms_import_downwards_only():
    result = imports_are_in_order(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("bundle/__init__.py", "from ..images import foreground", "Rooms import downwards only"),
        ("similarity/__init__.py", "from ..embedder import networks", "Rooms import downwards only"),
        ("ldm/__init__.py", "from ..similarity import ssim", "Rooms import downwards only"),
        ("report/__init__.py", "from .. import metrics", "Rooms import downwards only"),
        ("auditing/__init__.py", "import scripts", "Rooms import downwards only"),  # a door above it
        ("images/__init__.py", "from ..decision import null", "What makes and compares images knows no decision"),
        ("studies/__init__.py", "import benchmarks", "The package knows neither its benchmarks nor its demo"),
        ("attic/__init__.py", "", "Rooms import downwards only"),  # a room without a place
    ],
)
def test_an_import_against_the_order_is_seen(tmp_path, file, line, broken):
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "scripts" / file).parent.mkdir(exist_ok=True)
    with (tmp_path / "scripts" / file).open("a") as module:
        module.write(line + "\n")
    result = imports_are_in_order(tmp_path)
    assert result.returncode == 1 and f"{broken} BROKEN" in result.stdout, result.stdout + result.stderr


def test_no_module_is_too_long():
    modules = [*(ROOT / "scripts").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    lines = {str(module.relative_to(ROOT)): len(module.read_text().splitlines()) for module in modules}
    assert len(lines) > 40
    assert not {name: count for name, count in lines.items() if count > LONGEST}


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_says_what_stands_in_it_and_what_it_imports(room):
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text()))
    assert text and re.search(r"[Ii]mports?\b", text), room
    if "every room" in text or "below it" in text:
        return  # the contract is all that it promises
    assert imported_rooms(room) <= set(re.findall(r"`(\w+)`", text)), f"scripts/{room.name}/__init__.py"


def test_the_rooms_are_found_and_read():
    assert {"auditing", "bundle", "studies"} <= {room.name for room in ROOMS}
    assert {"similarity", "decision"} <= imported_rooms(ROOT / "scripts" / "auditing")


def test_every_room_has_a_paragraph_in_the_architecture():
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert sorted(re.findall(r"^### `(\w+)`", page, re.MULTILINE)) == [room.name for room in ROOMS]
    figure = page.split("```mermaid")[1].split("```")[0]
    assert {room.name for room in ROOMS} <= set(re.findall(r"\w+", figure))
