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

"""The documents as a reader meets them: short sentences, one screen before the how-tos, every page in the index."""

from __future__ import annotations

import re
import subprocess

import pytest
from helpers import ROOT
from markdown_it import MarkdownIt
from markdown_it.token import Token

README = (ROOT / "README.md").read_text()
MARKDOWN = MarkdownIt("commonmark").enable("table")
# a full stop ends a sentence where a capital or code follows, not in `et al. say` or `eq. 13`
SENTENCE_END = re.compile(r"(?<=[.!?])[)'\"]*\s+(?=['\"(]*[A-Z`])")
MOST_WORDS = {
    "README.md": 25,
    "docs/index.md": 25,
    "docs/architecture.md": 25,
    "docs/inputs.md": 25,
    "docs/results.md": 25,
    "docs/reproducibility.md": 25,
    "docs/rating.md": 25,
    "docs/monai_label.md": 25,
    "docs/monai_deploy.md": 25,
    "docs/model_zoo.md": 25,
    "docs/README.md": 40,
    "docs/method.md": 40,
    "docs/benchmark.md": 40,
    "docs/case_study.md": 40,
    "docs/validity.md": 40,
}


def words_of(block: Token) -> str:
    """Return a block's words; code in a line counts as one, a link as its text, a picture as none."""
    words = ""
    for part in block.children or []:
        words += part.content if part.type == "text" else "`code`" if part.type == "code_inline" else ""
        words += " " if part.type.endswith("break") else ""
    return words


def sentences(markdown: str) -> list[str]:
    """Return the sentences of paragraphs, headings and list items; tables and blocks of code are left out.

    A paragraph's or an item's end ends a sentence, a colon or semicolon does not.
    """
    found, in_table = [], False
    for token in MARKDOWN.parse(markdown):
        in_table = token.type == "table_open" or (in_table and token.type != "table_close")
        if token.type == "inline" and not in_table:
            found += SENTENCE_END.split(words_of(token).strip())
    return [sentence for sentence in found if sentence]


def length(sentence: str) -> int:
    """Return the count of words: what stands between spaces and holds a letter or a digit."""
    return sum(any(c.isalnum() for c in word) for word in sentence.split())


@pytest.mark.parametrize("page", MOST_WORDS)
def test_sentences_are_short(page):
    text = sentences((ROOT / page).read_text())
    assert len(text) > 10
    assert not [f"{length(s)}: {s}" for s in text if length(s) > MOST_WORDS[page]]


def test_sentences_are_counted():
    text = (
        "# One head\n\nA `long --code here` [is one](x.md). Two\nlines? Dar et al. say 0.05 - so.\n\n- item, 1.5 mm\n"
    )
    text += "\n| a. B | c |\n|---|---|\n| D. E | f |\n\n    code. Code\n\n```\ncode. Code\n```\n\n![A. B](x.png)\n"
    assert [length(s) for s in sentences(text)] == [2, 4, 2, 6, 3]


def test_the_first_screen_of_the_readme_is_one_screen():
    assert len(README.split("\n## Audit your own folders")[0].splitlines()) <= 75


def test_the_readme_shows_no_number_that_the_results_do_not_have():
    """Its one table is a part of the tables of docs/results.md."""
    results = (ROOT / "docs" / "results.md").read_text()
    table = README.split("\n## On real scans")[1].split("\n## ")[0]
    cells = re.findall(r"\d\.\d+(?: \(\d\.\d+–\d\.\d+\))?", "\n".join(re.findall(r"^\|.*", table, re.MULTILINE)[2:]))
    assert len(cells) >= 6
    assert not [cell for cell in cells if cell not in results]


def test_every_page_stands_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text()
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert pages <= set(re.findall(r"\]\(([\w.]+\.md)\)", index))


def test_make_help_lists_every_target():
    targets = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert [line.split()[1] for line in shown] == targets
    assert all(len(line) <= 120 and len(line.split()) > 3 for line in shown)
    assert "default target" in shown[0], "the first target of the file is what `make` alone does"
