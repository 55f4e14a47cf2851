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

"""The source files of modules, and of what these import from their own package."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Sources"]


LIBRARIES = ("torch", "monai", "numpy", "PIL", "nibabel", "transformers")  # their own imports are told by their version


class Sources:
    """Hashes of source files, by their path below the folder of their package."""

    def __init__(self) -> None:
        self.hashes: dict[str, str] = {}

    def add(self, module: str | None) -> bool:
        """Add a module that is imported, and return whether it has a source; the standard library's does not count."""
        if module is None:
            return False
        root = module.partition(".")[0]
        file = getattr(sys.modules.get(module), "__file__", None)
        if root in sys.stdlib_module_names and root != "__main__":
            return True
        if file is None or not file.endswith(".py") or not Path(file).is_file():
            return False
        depth = module.count(".") + (Path(file).name == "__init__.py")
        self._add(Path(file), Path(file).parents[depth], follow=root not in LIBRARIES)
        return True

    def packages(self) -> set[str]:
        """Return the packages and lone modules that the files belong to."""
        return {name.partition("/")[0].removesuffix(".py") for name in self.hashes}

    def lines(self) -> list[str]:
        """Return a line for each file, in order."""
        return [f"{name} {value}" for name, value in sorted(self.hashes.items())]

    def _add(self, path: Path, folder: Path, follow: bool) -> None:
        name = path.relative_to(folder).as_posix()
        if name in self.hashes:
            return
        text = path.read_bytes()
        self.hashes[name] = hashlib.sha256(text).hexdigest()
        if follow and "/" in name:
            for imported in _imported(ast.parse(text), path, folder):
                self._add(imported, folder, follow)


def _imported(tree: ast.Module, path: Path, folder: Path) -> Iterator[Path]:
    """Yield the files that a module of the package at `path` imports from the same package below `folder`."""
    root = path.relative_to(folder).parts[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            places = [folder.joinpath(*alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = path.parents[node.level - 1] if node.level else folder
            base = base.joinpath(*node.module.split(".")) if node.module else base
            places = [base, *(base / alias.name for alias in node.names)]  # a name may be a module
        else:
            continue
        for place in places:
            if place.is_relative_to(folder / root):
                files = (place.with_name(place.name + ".py"), place / "__init__.py")
                yield from (file for file in files if file.is_file())
