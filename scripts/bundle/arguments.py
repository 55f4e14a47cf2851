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

from monai.bundle import ConfigParser

from .components import PACKAGE
from .errors import causes, debugging, expected_cause, first_line, sentence

__all__ = ["check_arguments"]


PATH_KEY = re.compile(r"(_dir|_file|_config)$|^(checkpoint|resume)$")


def check_arguments(
    config_file: str | os.PathLike, build: Sequence[str] = (), together: Sequence[str] = (), allow: Sequence[str] = ()
) -> None:
    """Check the config that MONAI is running against the file it came from, then build its parts.

    To be the first expression of a config's `run`. MONAI accepts every flag and turns values into whatever Python
    would; here an unknown key, a value of another type than the file's, a path that the shell's text does not equal,
    and any error while the parts are built end the process with one sentence and status 1. A key that only an overlay
    defines is known if something refers to it.

    Args:
        config_file: the shipped config; the types of its values are those expected.
        build: ids to build in this order.
        together: keys of which none or all must be changed.
        allow: further keys, which only overlays have.

    Raises:
        SystemExit: with the sentence; the error itself instead where `verbose` is true.
        RuntimeError: if no ConfigParser is at work.
    """
    parser = _running_parser()
    config = parser.get()
    if config.get("verbose") is True:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")  # unless logging.conf has been read
        logging.getLogger(PACKAGE).setLevel(logging.DEBUG)
    shipped = ConfigParser.load_config_file(str(config_file))
    for problem in _problems(config, shipped, _command_line(), together, allow):
        sys.exit(f"error: {problem}")
    for key in filter(PATH_KEY.search, shipped):
        if config[key] != shipped[key] and isinstance(config[key], str) and config[key][:1] in "$@":
            try:
                parser.get_parsed_content(key)
            except Exception as error:
                sys.exit(
                    f"error: --{key}: expected a path, found {config[key]!r}, which MONAI evaluates as it starts with "
                    f"{config[key][0]!r} ({first_line(causes(error)[-1])}); write ./{config[key]}"
                )
    for key in build:
        try:
            parser.get_parsed_content(key)
        except Exception as error:
            if debugging():
                raise
            sys.exit(f"error: {sentence(expected_cause(error) or causes(error)[-1])}")


def _running_parser() -> ConfigParser:
    """Return the parser that evaluates the calling expression; MONAI hands it to no expression."""
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, ConfigParser):
            return owner
        frame = frame.f_back
    raise RuntimeError("check_arguments must be called by an expression of a MONAI config")


def _command_line() -> dict[str, str]:
    """Return each flag's text as the shell gave it; empty where MONAI's command line did not start the process."""
    if not sys.argv[0].endswith(os.path.join("monai", "bundle", "__main__.py")):
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
    config: Mapping[str, Any], shipped: Mapping[str, Any], given: Mapping[str, str], together, allow
) -> Iterator[str]:
    known = [key for key in (*shipped, *allow) if key not in ("imports", "run")]
    texts = list(_strings(config))
    for key in config:
        if key in shipped or key in allow or key.startswith("_"):
            continue
        if not any(re.search(rf"[@%]{re.escape(key)}\b", text) for text in texts):
            close = difflib.get_close_matches(key, known, 1)
            yield f"--{key}: expected a key of the config, found none of this name; " + (
                f"did you mean --{close[0]}?" if close else f"known are {', '.join(sorted(known))}"
            )
    for key, default in shipped.items():
        if key in config and key not in ("imports", "run"):
            yield from _value_problems(key, config[key], default, given.get(key))
    changed = [key for key in together if config.get(key) != shipped.get(key)]
    if changed and len(changed) < len(together):
        missing = next(key for key in together if key not in changed)
        yield f"--{missing}: expected beside --{changed[0]}, found none, which would audit the demo; give both"


def _value_problems(key: str, value: Any, default: Any, given: str | None) -> Iterator[str]:
    if given == "None" and default is not None:
        yield f"--{key}: expected a value, found None, which MONAI drops in favour of the default; leave the flag out"
    elif isinstance(value, str) and value.startswith(("$", "@")) and not PATH_KEY.search(key):
        return  # an expression, of the file or of an overlay; what it gives is checked by what takes it
    elif isinstance(value, Mapping) and "_target_" in value and given is None:
        return  # a component of an overlay, checked in the same way
    elif isinstance(default, bool):
        if not isinstance(value, bool):
            yield f"--{key}: expected True or False, found {value!r}"
    elif isinstance(default, (int, float)):
        whole = isinstance(default, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            yield f"--{key}: expected a {'whole ' if whole else ''}number, found {value!r}"
    elif isinstance(default, list) and isinstance(default[0], Mapping):
        if not isinstance(value, (list, tuple)) or not all(isinstance(entry, Mapping) for entry in value):
            yield f"--{key}: expected a list of objects, as {default[0]}, found {value!r}"
    elif isinstance(default, list) and isinstance(default[0], str):
        if not isinstance(value, (list, tuple)) or not all(isinstance(entry, str) for entry in value):
            yield f"--{key}: expected a list of texts, as {default}, found {value!r}"
    elif isinstance(default, list):
        if not isinstance(value, (list, tuple)) or len(value) != len(default):
            yield f'--{key}: expected {len(default)} values, as "{default}", found {value!r}'
    elif PATH_KEY.search(key):
        yield from _text_problems(key, value, given, default is None, "a path")
    elif default is None or (isinstance(default, str) and not default.startswith(("$", "@", "%"))):
        if not isinstance(value, (list, tuple)) or default is not None:
            yield from _text_problems(key, value, given, default is None, "text")


def _text_problems(key: str, value: Any, given: str | None, may_be_none: bool, kind: str) -> Iterator[str]:
    if given == "None" and value is None and may_be_none:
        return
    # MONAI reads values as Python: 2024 is a number, a#b is a with a comment, None is no argument at all
    if given is not None and value != given.strip("'\""):
        yield f"--{key}: expected {kind}, found {given!r}, which MONAI reads as {value!r}; " + (
            "use a name or a link without '#'" if "#" in given else f"write ./{given}" if kind == "a path" else
            "quote it twice, as \"'...'\""
        )  # fmt: skip
    elif value is None and may_be_none:
        return
    elif not isinstance(value, (str, os.PathLike)) or not str(value).strip():
        yield f"--{key}: expected {kind}, found {value!r}"
    elif value in ("null", "false", "true"):
        yield (
            f"--{key}: expected {kind}, found {value!r}; leave the flag out, or write ./{value} for a file of that name"
        )


def _strings(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from _strings(value)
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from _strings(value)
