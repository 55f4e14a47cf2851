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

"""The documentation against the product: commands, keys, files and the API page are those that exist."""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
import scripts
from fire.parser import DefaultParseValue
from helpers import ROOT
from markdown_it import MarkdownIt
from monai.bundle import ConfigParser

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "configs").rglob("*.yaml"))]
RUNNERS = {"run_config", "run_two"}  # of the tests; subprocess.run counts too, where it starts MONAI


def lines_of_code(page: Path) -> list[str]:
    """Return the lines of a page's code, in blocks and within text, or of a config's comments; broken ones joined."""
    if page.suffix == ".yaml":
        code = [line.lstrip("# ") for line in page.read_text().splitlines() if line.startswith("#")]
    else:
        tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text())
        code = [token.content for token in tokens if token.type in ("fence", "code_block")]
        code += [part.content for token in tokens for part in token.children or [] if part.type == "code_inline"]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(code))
    return [line.strip().removeprefix("$ ") for line in joined.splitlines()]


COMMANDS = [(page.name, line) for page in PAGES for line in lines_of_code(page)]
MONAI = [(page, line) for page, line in COMMANDS if "-m monai.bundle run " in line]
MAKE = [(page, line) for page, line in COMMANDS if line.startswith("make ")]
SCRIPT = [(page, line) for page, line in COMMANDS if re.match(r"python \w+/\w+\.py\b", line)]


def flags(words: list[str]) -> dict[str, str]:
    """Return the text of each flag that is followed by one."""
    pairs = zip(words, [*words[1:], "--"])
    return {word[2:]: value for word, value in pairs if word.startswith("--") and not value.startswith("--")}


def arguments(command: str) -> dict[str, str]:
    """Return the flags that MONAI's `run` gets by a documented command; `...` stands for the reader's own."""
    words = shlex.split(command.replace(" ...", " OWN"), comments=True)
    return flags(words[words.index("run") + 1 :])


def config_files(given: dict[str, str]) -> list[str]:
    """Return the configs that the flags name, one or a list; the reader's own, in capitals, are left out."""
    files = DefaultParseValue(given["config_file"])
    return [file for file in ([files] if isinstance(files, str) else files) if not Path(file).stem.isupper()]


def check(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the configs judge the flags as they do when they are run, and build nothing.

    Raises:
        SystemExit: with the sentence that the command would end with.
    """
    files = [ROOT / file for file in config_files(given)]
    parser = ConfigParser()
    parser.read_config([str(file) for file in files])
    # fire reads the shell's words as Python, where it can
    parser.update({key: DefaultParseValue(value) for key, value in given.items() if key != "config_file"})
    # what MONAI does for a command: the config's folder is on the path, and the words stay at hand
    monkeypatch.syspath_prepend(str(files[0].parent))
    words = [word for key, value in given.items() for word in (f"--{key}", value)]
    monkeypatch.setattr(sys, "argv", [os.path.join("monai", "bundle", "__main__.py"), "run", *words])
    checks = [step for step in parser["run"] if step.startswith("$scripts.check_arguments(")]
    assert checks, "the config checks nothing"
    for step in checks:
        parser["_check"] = re.sub(r"build=\[[^]]*\]", "build=[]", step)
        try:
            parser.get_parsed_content("_check")
        except SystemExit as end:
            if end.code:  # else it has said what it was asked for
                raise


@pytest.mark.parametrize(("page", "command"), MONAI)
def test_bundle_commands_pass_the_checks_of_their_configs(page, command, monkeypatch):
    check(arguments(command), monkeypatch)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("--config_file configs/detect.yaml --trian_dir a", "--trian_dir: expected a key"),
        ("--config_file configs/detect.yaml --train_dir a", "--generated_dir: expected beside --train_dir"),
        ("--config_file configs/train.yaml --epochs many", "--epochs: expected a whole number"),
        ("--config_file configs/ldm/generate.yaml --part test", "--part: expected a key"),
        ("--config_file \"['configs/train.yaml','configs/evaluate.yaml']\" --form brain", "--form: expected a key"),
    ],
)
def test_a_wrong_command_would_be_noticed(command, sentence, monkeypatch):
    with pytest.raises(SystemExit, match=sentence):
        check(arguments(f"python -m monai.bundle run {command}"), monkeypatch)


def test_a_missing_config_would_be_noticed(monkeypatch):
    with pytest.raises((FileNotFoundError, ValueError), match="no_such"):
        check({"config_file": "configs/no_such.yaml"}, monkeypatch)


def configs_run_by(source: str) -> set[str]:
    """Return the names of the configs that the functions of a test file give to a runner.

    Names are followed: of local and global variables, and of parameters that are parametrized.
    """
    tree, found = ast.parse(source), set()
    values = assigned(ast.Module([node for node in tree.body if not isinstance(node, ast.FunctionDef)], []))
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        local = values | assigned(function)
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
            texts = strings([*call.args, *(keyword.value for keyword in call.keywords)], local)
            runner = ast.unparse(call.func)
            if runner in RUNNERS or (runner == "subprocess.run" and "monai.bundle" in texts):
                found |= {name for text in texts for name in re.findall(r"\w+\.yaml", text)}
                if any(text.startswith(".yaml") for text in texts):  # f"{name}.yaml": any word may be the name
                    found |= {f"{text}.yaml" for text in texts if re.fullmatch(r"\w+", text)}
    return found


def assigned(body: ast.AST) -> dict[str, list[ast.expr]]:
    """Return the expressions that each name is given in a function or module."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(body):
        if isinstance(node, (ast.Assign, ast.AugAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for name in (part.id for part in ast.walk(target) if isinstance(part, ast.Name)):
                    found.setdefault(name, []).append(node.value)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.parametrize":
            for name in strings([node.args[0]], {}):
                found.setdefault(name, []).append(node.args[1])
    return found


def strings(expressions: list[ast.expr], values: dict[str, list[ast.expr]]) -> set[str]:
    """Return the texts in expressions and in those of the names that they use."""
    texts, names, waiting = set(), set(), list(expressions)
    while waiting:
        for node in ast.walk(waiting.pop()):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
            elif isinstance(node, ast.Name) and node.id not in names:
                names.add(node.id)
                waiting += values.get(node.id, [])
    return texts


@functools.cache
def all_configs_run() -> set[str]:
    """Return the names of the configs that any test runs."""
    return set().union(*(configs_run_by(file.read_text()) for file in (ROOT / "tests").rglob("test_*.py")))


@pytest.mark.parametrize("file", sorted({file for _, line in MONAI for file in config_files(arguments(line))}))
def test_every_documented_config_is_run_by_a_test(file):
    assert Path(file).name in all_configs_run(), f"no test gives {file} to {' or '.join(sorted(RUNNERS))}"


def test_only_what_is_run_counts_as_run():
    source = '''
OVERLAY = "global.yaml"

@pytest.mark.parametrize("size", ["small.yaml", "large.yaml"])
def test_it(tmp_path, size):
    """docstring.yaml"""
    files = [f"{ROOT}/local.yaml", OVERLAY]
    other = read("other.yaml")
    run_config(str(files), tmp_path, size)
    subprocess.run(["ls", "listed.yaml"])
    command = ["python", "-m", "monai.bundle"]
    command += ["--config_file", "started.yaml"]
    subprocess.run(command)

@pytest.mark.parametrize("name", ["one", *(pytest.param(name, marks=slow) for name in ("two",))])
def test_more(name):
    run_two([f"rivals/{name}.yaml"])
'''
    names = {"global", "small", "large", "local", "started", "one", "two"}
    assert configs_run_by(source) == {f"{name}.yaml" for name in names}


def test_there_are_commands():
    assert len(MONAI) >= 10
    assert {"detect", "test"} <= {line.split()[1] for _, line in MAKE}
    assert any("validity.py" in line for _, line in SCRIPT)


@pytest.mark.parametrize(("page", "command"), MAKE)
def test_make_commands_name_targets_and_pass_the_checks(page, command, monkeypatch):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    target, *variables = shlex.split(command, comments=True)[1:]
    assert target in targets
    for variable in variables:
        name, words = variable.split("=", 1)
        assert (target, name) == ("detect", "ARGS")
        check({"config_file": "configs/detect.yaml"} | flags(shlex.split(words)), monkeypatch)


@pytest.mark.parametrize(("page", "command"), SCRIPT)
def test_scripts_exist_and_know_their_flags(page, command):
    file, *words = shlex.split(command.removeprefix("python "), comments=True)
    source = (ROOT / file).read_text()
    assert [flag for flag in flags(words) if f'add_argument("--{flag}"' not in source] == []


def test_links_and_files_exist():
    for page in PAGES:
        if page.suffix == ".md":
            for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
                assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"
        for file in re.findall(r"`((?:configs|scripts|docs|demo|models)/[\w./-]+\.\w+)`", page.read_text()):
            assert (ROOT / file).is_file(), f"{page.name}: {file}"


def test_the_api_page_is_up_to_date_and_everything_has_a_docstring():
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "api.md").read_text() == module.page(), "run python docs/make_api.py"
    assert all(getattr(scripts, name).__doc__ for name in scripts.__all__)
