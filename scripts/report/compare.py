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

"""Two audits side by side: before and after a mitigation, or two models trained on the same images."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.files import no_wider_than, replacing
from .summary import SCHEMA_VERSION

__all__ = ["Comparison", "compare_reports", "difference_interval"]

Json = Mapping[str, Any]  # a report.json as it was read


def difference_interval(
    share: float, interval: Sequence[float], other: float, other_interval: Sequence[float]
) -> tuple[float, float]:
    """Return the interval of `other - share` for independent shares, from the interval of each.

    The method of variance estimates recovery (Zou and Donner, Statistics in Medicine 27, 2008, eq. 5), which takes
    intervals of any kind; with Wilson's it is Newcombe's (1998).
    """
    low = other - share - math.hypot(other - other_interval[0], interval[1] - share)
    high = other - share + math.hypot(other_interval[1] - other, share - interval[0])
    return low, high


@dataclass(frozen=True)
class RateChange:
    """The shares of generated images that are copies, their difference (second minus first) and its 95 % interval."""

    rates: tuple[float, float]
    difference: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class LeakChange:
    """How many subjects either set would have leaked with so many `samples`, and who leaked in which."""

    samples: int
    expected: tuple[float, float]
    both: list[str]
    only_first: list[str]
    only_second: list[str]


@dataclass(frozen=True)
class Comparison:
    """How a second audit differs from a first, and in what else than the generated images (`unlike`)."""

    memorized: RateChange
    leaked_subjects: LeakChange
    recall: tuple[float, float]
    set_level_auc: tuple[float | None, float | None]
    unlike: list[str]


def compare_reports(first: str | os.PathLike, second: str | os.PathLike, output_dir: str | os.PathLike) -> Comparison:
    """Return, print and write to `output_dir`/comparison.json how the second audit differs from the first.

    Args:
        first, second: report.json files of ``configs/detect.yaml``, or the folders that hold them.

    Raises:
        FileNotFoundError: if there is no such report.
        ValueError: if a file is no report, or of another version, or if the two name people differently.
    """
    a, b = _read(first), _read(second)
    if a.get("pseudonyms") != b.get("pseudonyms"):
        raise ValueError(
            f"{second}: expected subjects named as in {first}, found other names; pseudonymize both audits with one "
            "key (pseudonym_dir), or neither"
        )
    samples = min(a["calibration"]["images"], b["calibration"]["images"])
    rates = a["memorized"]["rate"], b["memorized"]["rate"]
    interval = difference_interval(rates[0], a["memorized"]["ci95"], rates[1], b["memorized"]["ci95"])
    ids = [set(report["leaked_subjects"]["ids"]) for report in (a, b)]
    result = Comparison(
        RateChange(rates, rates[1] - rates[0], interval),
        LeakChange(
            samples,
            (_leaked(a, samples), _leaked(b, samples)),
            both=sorted(ids[0] & ids[1]),
            only_first=sorted(ids[0] - ids[1]),
            only_second=sorted(ids[1] - ids[0]),
        ),
        recall=(a["positive_control"]["recall"], b["positive_control"]["recall"]),
        set_level_auc=(a["set_level"]["auc"], b["set_level"]["auc"]),
        unlike=_unlike(a, b),
    )
    with no_wider_than([_file(first), _file(second)]), replacing(Path(output_dir) / "comparison.json") as path:
        path.write_text(json.dumps(asdict(result), indent=2), encoding="utf-8")
    print(_text(a, b, result))
    return result


def _file(path: str | os.PathLike) -> Path:
    return Path(path) / "report.json" if Path(path).is_dir() else Path(path)


def _read(path: str | os.PathLike) -> Json:
    file = _file(path)
    if not file.is_file():
        raise FileNotFoundError(f"{path}: expected a report.json of an audit, found none; check the path")
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        version = report["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: expected a report.json of an audit, found another file; check the path") from error
    # what is compared has been there since the first version of this number
    if str(version).split(".")[0] != SCHEMA_VERSION.split(".")[0] or "curve" not in report.get("leaked_subjects", {}):
        raise ValueError(
            f"{file}: expected a report of version {SCHEMA_VERSION.split('.')[0]}, found {version!r}; run the audit "
            "again"
        )
    return report


def _leaked(report: Json, samples: int) -> float:
    """Return the subjects that so many generated images would have leaked."""
    curve = report["leaked_subjects"]["curve"]
    return float(np.interp(samples, curve["samples"], curve["subjects"]))


def _unlike(a: Json, b: Json) -> list[str]:
    """Return what keeps the two from being compared fairly."""
    checks: dict[str, Callable[[Json], object]] = {
        "embedder weights": lambda r: r["checkpoint"]["sha256"],
        "false-discovery rate": lambda r: r["fdr"],
        "training subjects": lambda r: r["inputs"]["train"]["subjects"],
        "training images": lambda r: r["inputs"]["train"]["slices"],
        "null": lambda r: (r["calibration"]["null"], r["calibration"]["p_value"]),
    }
    return [name for name, of in checks.items() if of(a) != of(b)]


def _text(a: Json, b: Json, result: Comparison) -> str:
    memorized, leaked = result.memorized, result.leaked_subjects
    lines = []
    for name, report, expected in zip(("First ", "Second"), (a, b), leaked.expected):
        low, high = report["memorized"]["ci95"]
        lines.append(
            f"{name}: {report['memorized']['count']} of {report['calibration']['images']} images are copies "
            f"({report['memorized']['rate']:.1%}, 95 % interval {low:.1%} to {high:.1%}); "
            f"{expected:.1f} subjects leaked by {leaked.samples} images; "
            f"recall on the positive control {report['positive_control']['recall']:.0%}."
        )
    low, high = memorized.ci95
    verdict = "fewer copies" if high < 0 else "more copies" if low > 0 else "no difference that the intervals show"
    lines.append(f"Change: {memorized.difference:+.1%} (95 % interval {low:+.1%} to {high:+.1%}): {verdict}.")
    lines.append(
        f"Leaked subjects: {len(leaked.both)} by both, {len(leaked.only_first)} by the first alone, "
        f"{len(leaked.only_second)} by the second alone."
    )
    if abs(result.recall[0] - result.recall[1]) > 0.1:
        lines.append("Recall differs by more than 0.1: fewer copies found need not mean fewer copies.")
    if result.unlike:
        lines.append(f"The audits differ in more than the generated images: {', '.join(result.unlike)}.")
    return "\n".join(lines)
