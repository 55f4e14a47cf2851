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

"""Render a page of one file: all that comes from outside is escaped, its own script alone may run, and it asks the
network for nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import jinja2
from markupsafe import Markup

from ..bundle.text import visible

__all__ = ["json_block", "render_self_contained", "shown_text"]


def render_self_contained(
    template: Path, script: Path, filters: Mapping[str, Callable[..., object]] | None = None, **values: object
) -> str:
    """Return the page that a Jinja2 template makes of `values`.

    The template also gets `script` and `script_hash`, the SHA-256 that its Content-Security-Policy names. Control and
    direction characters of texts are shown as escapes.

    Args:
        template, script: files; the script is the only one that the page may run.
        filters: of the template, by name.
    """
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, finalize=shown_text
    )
    environment.filters.update(filters or {})
    source = script.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        script=Markup(source), script_hash=digest, **values
    )


def shown_text(value: object) -> object:
    """Return a text with control and direction characters shown; markup and all else as it is."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def json_block(content: object) -> Markup:
    """Return content as the JSON of a data block, which only '<' could end early."""
    return Markup(json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))
