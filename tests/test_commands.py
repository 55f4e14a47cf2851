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

"""The bundle's main jobs as functions and as commands."""

from __future__ import annotations

import html
import logging
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import scripts
from helpers import ROOT, read
from scripts import __main__ as commands
from scripts import audit, compare, sample, train

SMALL = {"control_images": 6, "bends": [], "thumbnails": False}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Twelve training subjects, and six generated images of which one is a training image."""
    folder = tmp_path_factory.mktemp("folders")
    shutil.copytree(ROOT / "demo" / "train", folder / "2024", ignore=lambda _, names: sorted(names)[24:])
    (folder / "generated").mkdir()
    for path in sorted((ROOT / "demo" / "generated").iterdir())[:5]:
        shutil.copy(path, folder / "generated")
    shutil.copy(folder / "2024" / "sub-03_z08.png", folder / "generated" / "<b>copy.png")
    return folder


@pytest.fixture(scope="module")
def result(folders, tmp_path_factory) -> scripts.AuditResult:
    keys = {"output_dir": folders / "out", "pseudonymize": True, "pseudonym_dir": tmp_path_factory.mktemp("key")}
    return audit(folders / "2024", str(folders / "generated"), **keys, **SMALL, **{"audit::k": 5})


def test_an_audit_is_a_result_with_a_report(result, folders):
    assert isinstance(result, scripts.AuditResult)
    assert result.leaked == ["sub-03"] and result.memorized.sum() == 1
    assert [row["memorized"] for row in read(folders / "out" / "matches.csv")].count("1") == 1
    assert result.found.subject.shape[1] == 5, "audit::k"


class Tags(HTMLParser):
    """The tags that a browser would open, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.opened.append(tag)


def test_a_notebook_shows_verdict_calls_and_report_under_pseudonyms(result, folders):
    shown = result._repr_html_()
    assert (
        "Copies: 1. Likenesses: 0. Of 6 generated images" in shown and (folders / "out/report.html").as_uri() in shown
    )
    tags = Tags()
    tags.feed(shown)
    assert tags.opened.count("tr") == 2, "head and one call"
    assert tags.opened.count("b") == 1, "the headline's, and none of a file's name"
    assert "&lt;b&gt;copy.png" in shown
    assert "sub-03" not in html.unescape(shown) and "sub-03" not in repr(result) + result.text
    assert repr(result).startswith("<Copies: 1.") and len(repr(result)) < 300


def test_a_result_that_calls_nothing_has_no_table(result, folders, tmp_path):
    shutil.copytree(
        folders / "generated", tmp_path / "generated", ignore=lambda _, names: [n for n in names if "<" in n]
    )
    clean = audit(folders / "2024", tmp_path / "generated", output_dir=tmp_path / "out", **SMALL)
    assert not clean.memorized.any() and "<table>" not in clean._repr_html_()
    assert clean.headline in clean._repr_html_()


def test_python_is_told_by_a_value_error_and_never_ended(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for call, sentence in (
        (lambda: audit("none", folders / "generated"), "none: expected an existing folder or a .json/.csv/.tsv data"),
        (
            lambda: audit(folders / "2024"),
            "--generated_dir: expected beside --train_dir, found none, which would audit",
        ),
        (lambda: audit(tmp_path / "empty", folders / "generated"), f"{tmp_path}/empty: expected images"),
        (lambda: audit(folders / "2024", folders / "generated", fdr="x"), "--fdr: expected a number, found 'x'"),
        (lambda: audit(folders / "2024", folders / "generated", fdrr=1), "--fdrr: expected a key of the config, found"),
        (
            lambda: audit(folders / "2024", "$1 / 0"),
            "generated_dir: expected a value, found '$1 / 0', which MONAI eval",
        ),
        (
            lambda: audit(folders / "2024", folders / "a#b"),
            f"generated_dir: expected a path, found '{folders}/a#b'; use",
        ),
        (lambda: audit(folders / "2024", "out", device="tpu"), "--device: expected cpu, or cuda or cuda:N where there"),
        (
            lambda: train("none", "out"),
            "none: expected an existing folder or a .json/.csv/.tsv datalist, found nothing",
        ),
        (lambda: train("none", "out", volumes=True), "none: expected an existing folder or a .json/.csv/.tsv datalist"),
        (lambda: sample("none", "none.pt", "out"), "none"),
        (lambda: sample("none", "none.pt", "out", volumes=True), "none"),
        (lambda: compare("none", "other"), "none"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}") as error:
            call()
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_too_few_people_are_inconclusive_and_the_program_goes_on(folders, tmp_path):
    shutil.copytree(folders / "2024", tmp_path / "few", ignore=lambda _, names: sorted(names)[6:])
    result = audit(tmp_path / "few", folders / "generated", output_dir=tmp_path / "out", **SMALL)
    assert result.verdict is scripts.Verdict.INCONCLUSIVE and result.headline.startswith("INCONCLUSIVE")


def test_a_program_keeps_its_search_path_and_loggers(folders, tmp_path):
    path, level = list(sys.path), logging.getLogger("monai.bundle.workflows").level
    handlers = list(logging.getLogger().handlers)
    with pytest.raises(ValueError):
        audit("none", "none", output_dir=tmp_path)
    assert (sys.path, logging.getLogger("monai.bundle.workflows").level) == (path, level)
    assert logging.getLogger().handlers == handlers


def command(*words: str) -> object:
    """What ends the process of a command: a status or a sentence."""
    with mock.patch.object(sys, "argv", ["deepssim", *words]), mock.patch.object(logging.config, "fileConfig"):
        try:
            commands.main()
        except SystemExit as end:
            return end.code
    return 0


def test_the_command_audits_as_the_function_does(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folders)
    words = ("--output_dir", str(tmp_path), "--control_images", "6", "--bends", "[]", "--thumbnails", "False")
    assert command("audit", "2024", "generated", *words) == 0
    said = capsys.readouterr().out
    assert "Copies: 1. Likenesses: 0. Of 6 generated images" in said and said.endswith("report.html\n")
    assert "'audit', '2024'" not in said and "object at" not in said, "no result is printed"
    assert '"command": "python -m scripts audit 2024 generated' in (tmp_path / "report.json").read_text()
    np.testing.assert_equal([row["memorized"] for row in read(tmp_path / "matches.csv")].count("1"), 1)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("audit", "none", "none"),
            "error: none: expected an existing folder or a .json/.csv/.tsv datalist, found nothi",
        ),
        (("audit", "none"), "error: --generated_dir: expected beside --train_dir, found none"),
        (("audit", "a", "b", "c"), "error: audit: expected TRAIN_DIR GENERATED_DIR, found one more, 'c'; quote names"),
        (
            ("audit", "a", "b", "--kk", "3"),
            "error: --kk: expected a key of the config, found none of this name; did yo",
        ),
        (("train", "a"), "error: train: expected DATASET_DIR OUTPUT_DIR, found no OUTPUT_DIR"),
        (("train", "a", "--output_dir", "b"), "error: a: expected an existing folder or a .json/.csv/.tsv datalist"),
        (("sample",), "error: sample: expected MODEL_DIR AUTOENCODER_FILE OUTPUT_DIR, found no MODEL_DIR"),
        (("compare", "a"), "error: compare: expected FIRST_DIR SECOND_DIR, found no SECOND_DIR"),
        (("detect",), "error: detect: expected one of the commands audit, train, sample, compare, found another word"),
    ],
)
def test_a_wrong_command_is_one_sentence(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = command(*words)
    assert str(said).startswith(sentence) and "\n" not in str(said)
    assert list(tmp_path.iterdir()) == []


def test_help_and_keys_are_shown(capsys):
    for job in ("audit", "train"):
        assert command(job, "--help") == 0 and "OUTPUT_DIR" in "".join(capsys.readouterr()).upper()
    assert command("audit", "--show_keys", "True") is None and "subject_pattern" in capsys.readouterr().out
