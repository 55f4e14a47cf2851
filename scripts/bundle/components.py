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

"""Take one component from another config of the bundle, so that a chain or a network is written down once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from monai.bundle import ConfigParser

__all__ = ["bundle_file", "bundle_root", "choice", "component", "renamed"]

Option = TypeVar("Option")

PACKAGE = __name__.partition(".")[0]  # scripts in the bundle, deepssim where it is installed


def bundle_root() -> str:
    """Return the folder that holds configs/ and models/: the bundle's own, or the package where it is installed."""
    return str(bundle_file("configs/metadata.json").parent.parent)


def bundle_file(name: str) -> Path:
    """Return the path of a file that comes with the bundle, such as ``configs/inference.yaml`` or ``models/model.pt``.

    In the bundle it lies beside this package, in an installation inside it.

    Raises:
        FileNotFoundError: if there is none.
    """
    package = Path(__file__).resolve().parent.parent
    for root in (package.parent, package):
        if (root / "configs" / "metadata.json").is_file() and (root / name).is_file():
            return root / name
    raise FileNotFoundError(f"{name}: expected a file of the bundle, found none; check the name")


def component(
    config_file: str | os.PathLike | Sequence[str | os.PathLike], component_id: str, **overrides: object
) -> Any:
    """Return the object that `component_id` of a bundle config describes, after overriding top-level keys.

    Of several config files the later ones are overlays. Of any type: what the object is, only the config says.

    Raises:
        ValueError: if the config has no such key or an override names none.
    """
    # installed, the package has another name than the one in the bundle's configs
    files = [config_file] if isinstance(config_file, (str, os.PathLike)) else config_file
    parser = ConfigParser()
    for file in files:
        parser.update(dict(renamed(_read(file), "scripts", PACKAGE)))
    for key in (component_id, *overrides):
        if key not in parser:
            found = ", ".join(sorted(name for name in parser.get() if not name.startswith("_")))
            raise ValueError(f"{config_file}: expected a key {key!r}, found {found}")
    parser.update(overrides)
    return parser.get_parsed_content(component_id)


def _read(config_file: str | os.PathLike) -> object:
    if not Path(config_file).is_file():
        raise FileNotFoundError(f"{config_file}: expected a config file, found none; check the path")
    try:
        content = ConfigParser.load_config_file(str(config_file))
    except (ValueError, yaml.YAMLError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{config_file}: expected a config in YAML or JSON, found another file ({first})") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{config_file}: expected a config in YAML or JSON, found no keys in it; check the path")
    return content


def choice(key: str, options: Mapping[str, Option], value: str) -> Option:
    """Return the option of this name, for a config's closed sets.

    Raises:
        ValueError: if there is none.

    >>> choice("size", {"published": 256, "cpu": 32}, "cpu")
    32
    """
    if value not in options:
        raise ValueError(f"{key}: expected one of {', '.join(options)}, got {value!r}")
    return options[value]


def renamed(content: Any, name: str, new: str) -> Any:
    """Return the content with package `name` called `new` in every target, import and expression."""
    if isinstance(content, dict):
        return {key: renamed(value, name, new) for key, value in content.items()}
    if isinstance(content, list):
        return [renamed(value, name, new) for value in content]
    if isinstance(content, str) and content.startswith((f"{name}.", "$")):
        return re.sub(rf"(?<![\w./'\"]){name}\b", new, content)
    return content
