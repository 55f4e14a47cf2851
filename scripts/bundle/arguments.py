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

"""The front door of a config: arguments are checked before anything is built, and an error becomes one sentence."""

from __future__ import annotations

import difflib
import inspect
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser

from .components import PACKAGE
from .errors import by_command, causes, debugging, expected_cause, first_line, sentence, stop
from .keys import describe_keys
from .options import PATH_KEY, Option, value_problems

__all__ = ["check_arguments", "run_settings", "running_parser"]


HELP_KEYS = ("show_keys", "help")
Config = Mapping[str, object]


def check_arguments(
    config_file: str | os.PathLike, build: Sequence[str] = (), together: Sequence[str] = (), allow: Sequence[str] = ()
) -> None:
    """Check the config that MONAI is running against the file it came from, then build its parts.

    To be the first expression of a config's `run`. MONAI accepts every flag and turns values into whatever Python
    would; here an unknown key, a value of another type than the file's, a path that the shell's text does not equal,
    and any error while the parts are built end the process with one sentence and status 1. A key that only an overlay
    defines is known if something refers to it.

    `--show_keys True` prints what the keys mean instead, as :func:`~scripts.bundle.keys.describe_keys` says it, and
    ends the process with status 0. `--help` beside `--config_file` does the same, since MONAI's command line hands it
    on as a key; alone it fails within MONAI, and `-h` is the key `h`.

    Args:
        config_file: the shipped config; the types of its values are those expected.
        build: ids to build in this order.
        together: keys of which none or all must be changed.
        allow: further keys, which only overlays have.

    Raises:
        SystemExit: with the sentence, or once the keys are shown; the error itself instead where `verbose` is true.
        ValueError: with the sentence, where no command started the process.
        RuntimeError: if no ConfigParser is at work.
    """
    parser = running_parser()
    config = parser.get()
    given = _command_line()
    if any(config.get(key) for key in HELP_KEYS):
        print(describe_keys(_config_files(given.get("config_file", str(config_file)))))
        sys.exit()
    if config.get("verbose") is True:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")  # unless logging.conf has been read
        logging.getLogger(PACKAGE).setLevel(logging.DEBUG)
    shipped = ConfigParser.load_config_file(str(config_file))
    for problem in _problems(config, shipped, given, together, allow):
        stop(problem)
    for option in _options(config, shipped, given):
        if isinstance(option.value, str) and option.value[:1] in ("$", "@") and option.value != option.default:
            _check_expression(parser, option)
    if "device" in given or (not by_command() and config.get("device") != shipped.get("device")):
        _check_device(parser)
    for key in build:
        _build(parser, key)


def run_settings(config_file: str | os.PathLike) -> dict[str, object]:
    """Return the settings of the config that MONAI is running: keys of the shipped file whose values are plain.

    Numbers, texts, truth values, null and lists of these; of expressions only paths and the device.

    Raises:
        RuntimeError: if no ConfigParser is at work.
    """
    parser = running_parser()
    settings: dict[str, object] = {}
    for key in ConfigParser.load_config_file(str(config_file)):
        value = parser[key] if key in parser else None
        if key in ("imports", "run", "verbose") or isinstance(value, Mapping):
            continue
        if isinstance(value, str) and value.startswith(("$", "@", "%")):
            if not (PATH_KEY.search(key) or key == "device"):
                continue
            value = str(parser.get_parsed_content(key))
        settings[key] = value
    return settings


def _check_expression(parser: ConfigParser, option: Option) -> None:
    """Exit if an expression in the place of a value or path cannot be evaluated, or gives another kind of value.

    An overlay's expressions are evaluated in their turn, but for paths. Texts, nothing and components may give way to
    others, which are checked by what takes them.
    """
    key, value, default = option.key, option.value, option.default
    if not (option.is_path or option.given is not None):
        return
    try:
        found = parser.get_parsed_content(key.replace("#", "::"))
    except Exception as error:
        expected, remedy = ("a path", f"write ./{value}") if option.is_path else ("a value", "correct it")
        stop(
            f"--{key}: expected {expected}, found {value!r}, which MONAI evaluates as it starts with "
            f"{str(value)[0]!r} ({first_line(causes(error)[-1])}); {remedy}"
        )
    if isinstance(default, (bool, int, float, list)) or (isinstance(default, Mapping) and "_target_" not in default):
        for problem in value_problems(Option(key, found, default, None)):
            stop(f"{problem}, which {value!r} gives")


def _check_device(parser: ConfigParser) -> None:
    """Exit if the key `device` names none of this machine that can compute."""
    value = parser.get("device")
    try:
        value = parser.get_parsed_content("device")
        if value is not None and torch.empty(0, device=value).device.type != "meta":
            return
        reason = "which computes nothing"
    except Exception as error:  # torch raises several
        cause = causes(error)[-1]
        reason = f"a {type(value).__name__}" if isinstance(cause, TypeError) else first_line(cause)
    stop(f"--device: expected cpu, or cuda or cuda:N where there is such a GPU, found {value!r} ({reason})")


def _options(config: Config, shipped: Config, given: Mapping[str, str]) -> Iterator[Option]:
    """Yield each key of the shipped file that a config has; then the flags that name a part, as ``audit::k``.

    The default of such a part is that of the key that it refers to.
    """
    for key, default in shipped.items():
        if key not in ("imports", "run") and key in config:
            yield Option(key, config[key], default, given.get(key))
    for key, text in given.items():
        names = re.split("::|#", key)
        if len(names) > 1:
            try:
                value, default = _part(config, names), _part(shipped, names)
            except (LookupError, TypeError, ValueError):
                continue  # new to the config: what takes it will say
            if isinstance(default, str) and default.startswith("@"):
                default = shipped.get(default[1:], default)
            yield Option(key, value, default, text)


def _part(content: Any, names: Sequence[str]) -> object:
    """Return a part of a config by the names that lead to it; in a list a name is a number."""
    for name in names:
        content = content[int(name)] if isinstance(content, list) else content[name]
    return content


def _build(parser: ConfigParser, key: str) -> None:
    try:
        parser.get_parsed_content(key)
    except Exception as error:
        if debugging():
            raise
        stop(sentence(expected_cause(error) or causes(error)[-1]))


def _config_files(given: str) -> list[str]:
    """Return the files of MONAI's flag `config_file`: one, or a list as the shell gave it."""
    files = DefaultParseValue(given)
    return [files] if isinstance(files, str) else list(files)


def running_parser() -> ConfigParser:
    """Return the parser that evaluates the calling expression; MONAI hands it to no expression.

    Raises:
        RuntimeError: if no ConfigParser is at work.
    """
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, ConfigParser):
            return owner
        frame = frame.f_back
    raise RuntimeError("this must be called by an expression of a MONAI config")


def _command_line() -> dict[str, str]:
    """Return each flag's text as the shell gave it; empty where no command started the process."""
    if not by_command():
        return {}
    words, given = sys.argv[1:], {}
    for number, word in enumerate(words):
        if word.startswith("--"):
            name, sign, text = word[2:].partition("=")
            following = words[number + 1] if number + 1 < len(words) else "--"
            if sign or not following.startswith("--"):
                given[name.replace("-", "_")] = text if sign else following
    return given


def _problems(
    config: Config, shipped: Config, given: Mapping[str, str], together: Sequence[str], allow: Sequence[str]
) -> Iterator[str]:
    """Yield what is wrong with a config, a sentence each: unknown keys, wrong values, one key of two given alone."""
    options = {key: default for key, default in shipped.items() if key not in ("imports", "run")}
    texts = list(_strings(config))
    for key in config:
        if key in shipped or key in allow or key in HELP_KEYS or key.startswith("_"):
            continue
        if not any(re.search(rf"[@%]{re.escape(key)}\b", text) for text in texts):
            used = [one for one in config if any(re.search(rf"[@%]{re.escape(one)}\b", text) for text in texts)]
            known = [*options, *allow, *used, *HELP_KEYS[:1]]  # an overlay's keys are used by it
            close = difflib.get_close_matches(key, known, 1)
            yield f"--{key}: expected a key of the config, found none of this name; " + (
                f"did you mean --{close[0]}?" if close else "--show_keys True lists them"
            )
    for option in _options(config, shipped, given):
        yield from value_problems(option)
    changed = [key for key in together if config.get(key) != shipped.get(key)]
    if changed and len(changed) < len(together):
        missing = next(key for key in together if key not in changed)
        yield f"--{missing}: expected beside --{changed[0]}, found none, which would audit the demo; give both"


def _strings(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from _strings(value)
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from _strings(value)
