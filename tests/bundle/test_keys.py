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

from __future__ import annotations

import re
from pathlib import Path

import monai.bundle
import pytest
from helpers import ROOT, run_config
from scripts.bundle.keys import Group, Key, describe_keys, documented_groups

CONFIGS = {str(path.relative_to(ROOT / "configs")): path for path in sorted((ROOT / "configs").rglob("*.yaml"))}
RUNNABLE = [name for name, path in CONFIGS.items() if "scripts.check_arguments(" in path.read_text()]
WHOLE = [name for name, path in CONFIGS.items() if "\nimports:" in path.read_text()]
TEXT = """# What it does.
#   its command
imports:
  - $import os   # not a key

bundle_root: $os.getcwd()
folder: $@bundle_root + '/a#b'   # where; a # may follow
plain: [1, 2]                 # first line,
                              # second
                              # and third
bare: x

# not a header, as a line is between

# the machine
# and more
"speed#max": {a: '# no comment'}  # of it
block:                        # a block
  inner: 1                    # not shown
# the last
text: "a # b"
run: []
"""


def is_setting(key: Key) -> bool:
    """Whether a user may want to give it: a plain value, a path, the device; no part of the machinery."""
    plain = key.default and not re.match(r"""['"]?[$@{]""", key.default)
    return bool(plain) or key.name == "device" or key.name.endswith(("_dir", "_file", "_config"))


def keys_of(path: Path) -> list[Key]:
    return [key for group in documented_groups(path) for key in group.keys]


def test_groups_defaults_and_comments_are_read_from_the_text(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(TEXT)
    first = [Key("folder", "$@bundle_root + '/a#b'", "where; a # may follow")]
    first += [Key("plain", "[1, 2]", "first line, second and third"), Key("bare", "x", "")]
    machine = [Key("speed#max", "{a: '# no comment'}", "of it"), Key("block", "", "a block")]
    last = [Key("text", '"a # b"', "")]
    assert documented_groups(path) == [
        Group("", first),
        Group("the machine and more", machine),
        Group("the last", last),
    ]


def test_the_table_names_parts_and_what_an_overlay_changes(tmp_path):
    (tmp_path / "a.yaml").write_text(TEXT)
    (tmp_path / "b.yaml").write_text("# Overlay on a.yaml.\nplain: [3, 4]\nmore: 5   # new\nbare: y\n")
    words = describe_keys([tmp_path / "a.yaml", tmp_path / "b.yaml"]).split()
    text = " ".join(words)
    assert text.startswith(f"{tmp_path}/a.yaml: What it does. folder BUNDLE/a#b where; a # may follow plain [1, 2]")
    assert "the machine and more speed#max" in text and "Parts, which an overlay may replace: bare, text" in text
    overlay = text.split("Laid over it: ")[1]
    assert overlay.startswith(f"{tmp_path}/b.yaml: Overlay on a.yaml. plain [3, 4] first line, second and third more 5")
    with pytest.raises(FileNotFoundError):
        describe_keys([tmp_path / "c.yaml"])


@pytest.mark.parametrize("name", WHOLE)
def test_every_setting_has_its_comment(name):
    settings = [key for key in keys_of(CONFIGS[name]) if is_setting(key)]
    assert settings and [key.name for key in settings if not key.meaning] == []


def base_of(overlay: str) -> Path:
    """The config that an overlay says to lie on."""
    base = re.search(r"Overlay on ([\w.]+\.yaml)", CONFIGS[overlay].read_text())[1]
    return next(path for path in CONFIGS.values() if path.name == base)


@pytest.mark.parametrize("name", sorted(CONFIGS.keys() - set(WHOLE)))
def test_an_overlay_explains_what_is_new(name):
    known = {key.name for key in keys_of(base_of(name))}
    new = [key for key in keys_of(CONFIGS[name]) if is_setting(key) and key.name.split("#")[0] not in known]
    assert [key.name for key in new if not key.meaning] == []


@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")  # MONAI: parse only what one trusts
@pytest.mark.parametrize("name", RUNNABLE)
def test_every_config_shows_its_keys_and_does_nothing_else(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    files = [str(CONFIGS[name])]
    if name not in WHOLE:
        files.insert(0, str(base_of(name)))
    with pytest.raises(SystemExit) as stop:
        monai.bundle.run(config_file=files, logging_file=False, show_keys=True)  # the suite keeps its loggers
    assert not stop.value.code
    assert capsys.readouterr().out.startswith(f"{ROOT}/configs/{Path(files[0]).relative_to(ROOT / 'configs')}: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_line_shows_overlays_and_help_means_the_same(tmp_path):
    both = f"['{ROOT}/configs/train.yaml','{ROOT}/configs/evaluate.yaml']"
    shown, helped = (run_config(both, tmp_path, *words) for words in (("--show_keys", "True"), ("--help",)))
    assert shown.returncode == helped.returncode == 0, shown.stderr + helped.stderr
    assert shown.stdout == helped.stdout
    assert "the highest" in shown.stdout and f"Laid over it: {ROOT}/configs/evaluate.yaml: " in shown.stdout
    assert list(tmp_path.iterdir()) == []
