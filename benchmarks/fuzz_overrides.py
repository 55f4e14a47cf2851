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

"""Arguments of configs/detect.yaml for the fuzzer: by MONAI's command line, in this process or as one of their own."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import fire
import scripts
import yaml
from bundle_root import ROOT
from fuzz_case import Case, Rng
from monai.bundle import run

DETECT = ROOT / "configs" / "detect.yaml"
SECONDS = 240.0  # of a whole audit
Rule = Callable[[object], bool]


def whole(low: float, high: float = 2**32) -> Rule:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def number(low: float, high: float = 2**32, but: tuple[float, ...] = ()) -> Rule:
    return lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and low <= v <= high and v not in but


def numbers(low: float, high: float, count: int | None, ascending: bool = False) -> Rule:
    def rule(value: object) -> bool:
        if not isinstance(value, (list, tuple)) or not all(map(number(low, high), value)):
            return False
        return count is None or (len(value) == count and (not ascending or value[0] < value[1]))

    return rule


def one_of(*values: object) -> Rule:
    return lambda value: any(value is known or (isinstance(known, str) and value == known) for known in values)


def nothing(value: object) -> bool:
    return value is None


def window(value: Any) -> bool:
    return whole(0)(value) and (value == 0 or value >= 12)


def levels(value: Any) -> bool:
    return numbers(-(2**32), 2**32, 2)(value) and value[0] <= value[1]


RULES: dict[str, Rule] = {  # what each key may be, by configs/detect.yaml and the README
    "k": whole(5),
    "network": one_of("deepssim"),  # the others need a checkpoint of theirs
    "fdr": number(0, 1, (0, 1)),
    "p_value": one_of("tail", "rank"),
    "adaptive": one_of(True, False),
    "null_transform": one_of("auto", "none"),
    "null_subjects": whole(1),
    "null_slices": whole(1),
    "control_images": whole(1, 100_000),
    "bends": numbers(1e-9, 20, None),
    "bent_images": whole(1, 100_000),
    "smoothing": number(0, 20),
    "bend": one_of(True, False),
    "window": window,
    "seed": whole(0, 2**32 - 1),
    "tail_least": whole(2, 60),
    "tail_share": number(0, 1, (0,)),
    "tail_most": whole(20),
    "matched_auc": numbers(0, 1, 2, True),
    "agreement": number(0, 1),
    "similar_percentile": number(0, 100),
    "duplicate_percentile": number(0, 100),
    "copy_detail": number(-1, 1),
    "near_copy_fdr": number(0, 1, (0, 1)),
    "least_recall": number(0, 1, (1,)),
    "least_nearest": number(0, 1),
    "most_skipped": number(0, 1),
    "least_likeness": number(0, 1),
    "batch_size": whole(1),
    "num_workers": lambda value: value == "auto" or whole(0, 256)(value),
    "amp": one_of(True, False),
    "on_error": one_of("raise", "skip"),
    "max_skipped": number(0, 1),
    "thumbnails": one_of(True, False),
    "pseudonymize": one_of(True, False),
    "slice_spacing": number(1e-9),
    "slice_levels": levels,
    "min_foreground": number(0),
    "include": nothing,
    "exclude": nothing,
    "subject_pattern": nothing,
    "group_column": nothing,
    "statistic": nothing,
    "overrides": lambda v: isinstance(v, dict),
    "device": one_of("cpu"),
}
OPEN = ("include", "exclude", "subject_pattern", "group_column", "null_transform")  # what takes a text decides
PARTS = {  # a part of a component, and the key that says what it may be
    "audit::k": "k",
    "audit#k": "k",
    "embedder::batch_size": "batch_size",
    "embedder::amp_": "",
    "criteria::fdr": "fdr",
    "audit::control_images": "control_images",
    "image_verifier::window": "window",
    "report::thumbnails": "thumbnails",
    "embedder::num_workers": "num_workers",
    "audit::seed": "seed",
    "statistic::subject": "",
    "criteria::matched_auc": "matched_auc",
}
NAN, INF = float("nan"), float("inf")
VALUES: tuple[tuple[str, object], ...] = (  # the shell's word, and the value that it means
    ("-1", -1),
    ("0", 0),
    ("1", 1),
    ("6", 6),
    ("12", 12),
    ("2.5", 2.5),
    ("0.3", 0.3),
    ("-0.0", -0.0),
    ("1e-12", 1e-12),
    ("1e999", INF),
    ("-1e999", -INF),
    ("1e300", 1e300),
    ("9" * 20, 10**20),
    ("-" + "9" * 400, -(10**400)),
    ("nan", "nan"),
    ("True", True),
    ("False", False),
    ("true", "true"),
    ("null", "null"),
    ("tail", "tail"),
    ("skip", "skip"),
    ("auto", "auto"),
    ("cpu", "cpu"),
    ("cuda:99", "cuda:99"),
    ("meta", "meta"),
    ("[]", []),
    ("[1,2]", [1, 2]),
    ("[2,1]", [2, 1]),
    ("[0.2,0.7]", [0.2, 0.7]),
    ("[[1]]", [[1]]),
    ("[1e999,1]", [INF, 1]),
    ("['a']", ["a"]),
    ("[None]", [None]),
    ("(3,)", (3,)),
    ("{}", {}),
    ("{'a':1}", {"a": 1}),
    ("{'_target_':'x.Y'}", ...),
    ("$float('nan')", NAN),
    ("$float('inf')", INF),
    ("$'x'", "x"),
    ("$6", 6),
    ("$[1, 2]", [1, 2]),
    ("$1/0", ...),
    ("$None", None),
    ("$(", ...),
    ("$", ...),
    ("@fdr", 0.05),
    ("@k", 6),
    ("@no", ...),
    ("@", ...),
    ("$print", ...),
    ("$True", True),
    ("$not_defined", ...),
    ("''", ""),
    ("a b", "a b"),
    ("\u60a3", "\u60a3"),
    ("../../etc/passwd", "../../etc/passwd"),
    ("1,2", (1, 2)),
    ("0x10", 16),
    ("1_0", 10),
    ("1j", 1j),
    ("b'x'", b"x"),
    ("x" * 5000, "x"),
)
TOGETHER: tuple[tuple[str, ...], ...] = (  # each may be right alone
    ("--tail_least", "50", "--tail_most", "30"),
    ("--k", "5", "--statistic::subjects", "9"),
    ("--slice_levels", "[50,10]"),
    ("--include", "*.png", "--exclude", "*"),
    ("--holdout_dir", "train"),
    ("--generated_dir", "train"),
    ("--train_dir", "generated"),
    ("--train_dir", "."),
    ("--train_dir", "2024"),
    ("--train_dir", "''"),
    ("--train_dir", "none"),
    ("--train_dir", "train/a.png"),
    ("--checkpoint", "train"),
    ("--checkpoint", "train/a.png"),
    ("--checkpoint", "none"),
    ("--output_dir", "$x"),
    ("--holdout_dir", "[1]"),
    ("--inference_config", "none.yaml"),
    ("--inference_config", "train"),
    ("--subject_pattern", "(?P<subject>x)"),
    ("--generated_dir", "~nobody/x"),
    ("--train_dir", "\\\\x"),
    ("--pseudonym_dir", "5"),
    ("--verbose", "2"),
)


class OverrideCases:
    """Keys and values; whether a value is one that its key may have is said by `RULES`.

    Args:
        whole_audits: share of the inputs that are audited, in a process of their own; the others are checked.
    """

    def __init__(self, whole_audits: float = 0.02) -> None:
        self.whole_audits = whole_audits
        self.keys = [key for key in yaml.safe_load(DETECT.read_text()) if key not in ("imports", "run", "bundle_root")]

    def case(self, rng: Rng, folder: Path) -> Case:
        """Return arguments; a small data set lies in the empty folder."""
        for name, count in (("train", 12), ("generated", 4)):
            (folder / name).mkdir()
            for path in sorted((ROOT / "demo" / name).iterdir())[:count]:
                shutil.copy(path, folder / name)
        shutil.copy(ROOT / "README.md", folder / "a.png")
        audited = rng.random() < self.whole_audits
        start, limit = (whole_audit, SECONDS) if audited else (checked, None)
        chance = rng.random()
        if chance < 0.12:
            key = self._misspelt(rng)
            words: tuple[str, ...] = (f"--{key}", VALUES[rng.integers(len(VALUES))][0])
            return Case(_shown(words), lambda: start(folder, *words), lambda _: "an unknown key", key, limit=limit)
        if chance < 0.2:
            words = TOGETHER[rng.integers(len(TOGETHER))]
            return Case(_shown(words), lambda: start(folder, *words), lambda _: "a contradiction", limit=limit)
        keys = list(PARTS) if chance < 0.3 else list(RULES)
        key = keys[rng.integers(len(keys))]
        word, value = VALUES[rng.integers(len(VALUES))]
        words = (f"--{key}", word)
        rule = RULES.get(PARTS.get(key, key), lambda _: False)
        right = value is not ... and word != f"@{key}" and rule(value)
        open_ = key in OPEN and isinstance(value, (str, list, tuple, type(...)))
        wrong = "" if right or open_ else f"{value!r} is no {key}"
        # a whole audit may refuse what does not fit its files
        sound = right and not open_ and not audited
        return Case(_shown(words), lambda: start(folder, *words), lambda _: wrong, sound=sound, limit=limit)

    def _misspelt(self, rng: Rng) -> str:
        """Return a name that is near a key and none."""
        while True:
            key = self.keys[rng.integers(len(self.keys))]
            at = int(rng.integers(len(key)))
            new = (key[:at] + key[at + 1 :], key[:at] + key[at] + key[at:], key[:at] + "q" + key[at + 1 :], key + "s")[
                rng.integers(4)
            ]
            if new.isidentifier() and new not in (*self.keys, "imports", "run", "help", "show_keys"):
                return new


def _shown(words: tuple[str, ...]) -> str:
    return " ".join(words)[:200]


def _words(folder: Path, words: tuple[str, ...]) -> list[str]:
    own = {"--train_dir": "train", "--generated_dir": "generated", "--output_dir": "out", "--bent_images": "1"}
    own |= dict(zip(words[::2], words[1::2]))
    return ["run", "--config_file", str(DETECT), *(word for pair in own.items() for word in pair)]


def checked(folder: Path, *words: str) -> str:
    """Build all parts of an audit and find its files, as the command would.

    Raises:
        ValueError: with the sentence that the command would end with.
    """

    def found(data: scripts.AuditData, *parts: object) -> None:
        scripts.run_or_exit(data.items)

    command = _words(folder, words)
    quiet = io.StringIO()
    with (
        contextlib.chdir(folder),
        mock.patch.object(sys, "argv", [os.path.join("monai", "bundle", "__main__.py"), *command]),
        mock.patch.object(scripts, "detect", found),
        contextlib.redirect_stdout(quiet),
        contextlib.redirect_stderr(quiet),
    ):
        try:
            fire.Fire({"run": run}, command=command)
        except SystemExit as end:
            if not isinstance(end.code, str) or not end.code.startswith("error: "):
                raise RuntimeError(f"ended with {end.code}") from end
            raise ValueError(end.code.removeprefix("error: ")) from end
        finally:
            logging.getLogger("scripts").setLevel(logging.NOTSET)
    return "accepted"


def whole_audit(folder: Path, *words: str) -> str:
    """Run the command in a process of its own; raises as :func:`checked` does."""
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", *_words(folder, words)]
    with tempfile.TemporaryFile("w+") as said:
        end = subprocess.run(command, cwd=folder, stdout=said, stderr=said, timeout=2 * SECONDS)
        said.seek(0)
        lines = said.read().strip().splitlines() or [""]
    report = (folder / "out" / "report.html").exists()
    if end.returncode in (0, 3) and report:
        return "audited"
    if end.returncode == 1 and lines[-1].startswith("error: ") and not report and "Traceback" not in "\n".join(lines):
        raise ValueError(lines[-1].removeprefix("error: "))
    raise RuntimeError(f"ended with {end.returncode}: {lines[-1]}")
