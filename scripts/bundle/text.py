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

"""Text that comes from outside, for people to read: names of files and subjects can hold anything."""

from __future__ import annotations

import unicodedata

__all__ = ["encodable", "grouped", "spreadsheet_cell", "visible"]

OBEYED = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # Unicode categories of what is no letter: control, bidi, line ends
FORMULAS = ("=", "+", "-", "@", "\t", "\r")


def visible(text: str) -> str:
    """Return a text with control and direction characters as escapes, so that they are shown and not obeyed.

    >>> visible("scan\\x1b[2J")
    'scan\\\\x1b[2J'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in OBEYED else letter
        for letter in text
    )


def encodable(text: str, encoding: str | None) -> str:
    """Return a text with what an encoding lacks as escapes, so that printing it cannot fail.

    >>> encodable("Größe", "ascii")
    'Gr\\\\xf6\\\\xdfe'
    """
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def grouped(number: int) -> str:
    """Return a whole number with a comma between thousands, from five digits on.

    >>> grouped(1000), grouped(1000000)
    ('1000', '1,000,000')
    """
    return f"{number:,}" if abs(number) >= 10_000 else str(number)


def spreadsheet_cell(text: str) -> str:
    """Return a text that a spreadsheet shows and does not run: a formula gets a leading apostrophe.

    >>> spreadsheet_cell("=1+1")
    "'=1+1"
    """
    return ("'" if text.startswith(FORMULAS) else "") + visible(text)
