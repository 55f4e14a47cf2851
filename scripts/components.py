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
from typing import Any

from monai.bundle import ConfigParser

__all__ = ["component"]


def component(config_file: str | os.PathLike, component_id: str, **overrides: Any) -> Any:
    """Return the object that `component_id` of a bundle config describes, after overriding top-level keys.

    Raises:
        ValueError: if the config has no such key or an override names none.
    """
    parser = ConfigParser()
    parser.read_config(str(config_file))
    for key in (component_id, *overrides):
        if key not in parser:
            found = ", ".join(sorted(name for name in parser.get() if not name.startswith("_")))
            raise ValueError(f"{config_file}: expected a key {key!r}, found {found}")
    parser.update(overrides)
    return parser.get_parsed_content(component_id)
