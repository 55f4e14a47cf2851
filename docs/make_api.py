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


"""Write docs/api.md from the docstrings of what the package exports:  python docs/make_api.py"""

from __future__ import annotations

import enum
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import scripts  # noqa: E402

HEAD = """# API

Everything that `scripts` exports, `deepssim` where the package is installed. Written from the docstrings by
`python docs/make_api.py`.
"""


def signature(thing: Callable[..., object]) -> str:
    """Return the parameters with their defaults, as Python writes them; of an enumeration none, as it is not made."""
    if isinstance(thing, enum.EnumMeta):
        return ""
    try:
        text = str(inspect.signature(thing))
    except (TypeError, ValueError):
        return ""
    return re.sub(r" -> .*$", "", re.sub(r"<[^>]*?(\w+)( at 0x\w+)?>", r"\1", text)).replace("'", "")


def entry(name: str) -> str:
    """Return the section of one exported name."""
    thing = getattr(scripts, name)
    text = inspect.cleandoc(thing.__doc__ or "")
    lines = [f"## {name}", "", f"`{name}{signature(thing)}`", "", "```text", text, "```"]
    if inspect.isclass(thing):
        for method, function in vars(thing).items():
            if inspect.isfunction(function) and function.__doc__ and not method.startswith("_"):
                body = inspect.cleandoc(function.__doc__)
                lines += ["", f"`.{method}{signature(function).replace('(self, ', '(').replace('(self)', '()')}`"]
                lines += ["", "```text", body, "```"]
    return "\n".join(lines)


def page() -> str:
    """Return the whole page."""
    return "\n\n".join([HEAD.rstrip(), *(entry(name) for name in sorted(scripts.__all__, key=str.lower))]) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "api.md").write_text(page(), encoding="utf-8")
