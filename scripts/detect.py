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

"""The main job: find the files, embed them, audit, write the report."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .audit import Audit, AuditResult
from .datalists import find_images
from .embeddings import Embedder, sha256_of_file
from .report import Report

__all__ = ["AuditData", "detect", "fingerprint", "run_audit"]

logger = logging.getLogger(__name__)

EXPECTED_ERRORS = (OSError, ValueError, KeyError, re.error)


@dataclass
class AuditData:
    """Where the images of an audit are; fields as the keys of configs/detect.yaml."""

    train_dir: str | os.PathLike
    generated_dir: str | os.PathLike
    holdout_dir: str | os.PathLike | None = None
    include: Sequence[str] | str | None = None
    exclude: Sequence[str] | str | None = None
    subject_pattern: str | None = None

    def items(self) -> dict[str, list[dict[str, Any]]]:
        """Return the items of train, generated and, if given, holdout.

        Only real images have subjects: a generated file is never matched against the pattern.

        Raises:
            ValueError: if a subject stands in both train and holdout.
        """
        found = {"train": find_images(self.train_dir, self.subject_pattern, self.include, self.exclude)}
        found["generated"] = find_images(self.generated_dir, None, self.include, self.exclude, warn=False)
        if self.holdout_dir is not None:
            found["holdout"] = find_images(self.holdout_dir, self.subject_pattern, self.include, self.exclude)
            both = {i["subject_id"] for i in found["train"]} & {i["subject_id"] for i in found["holdout"]}
            if both:
                raise ValueError(
                    f"{self.holdout_dir}: expected subjects that the generator never saw, found {len(both)} of "
                    f"{self.train_dir}, such as {min(both)}; take them out of one of the two"
                )
        return found


def fingerprint(checkpoint: str | os.PathLike, config_file: str | os.PathLike, overrides: Mapping, *more: Any) -> str:
    """Return a text that changes whenever an embedding would: weights, config, overrides, and the code itself."""
    code = [sha256_of_file(Path(__file__).with_name(name)) for name in ("slices.py", "networks.py", "embeddings.py")]
    weights = sha256_of_file(checkpoint) if Path(checkpoint).is_file() else ""
    parts = [weights, sha256_of_file(config_file), json.dumps(dict(overrides), sort_keys=True, default=str), *code]
    return hashlib.sha256("|".join([*parts, *map(repr, more)]).encode()).hexdigest()


def run_audit(data: AuditData, embedder: Embedder, audit: Audit) -> AuditResult:
    """Return the audit's result; raises what it meets."""
    items = data.items()
    sets = {name: embedder.embed_files(files, name) for name, files in items.items()}
    return audit(sets["train"], sets["generated"], sets.get("holdout"))


def detect(data: AuditData, embedder: Embedder, audit: Audit, report: Report) -> AuditResult:
    """Audit, write the report and print the summary; an expected error ends the process with one sentence, status 1."""
    start = time.perf_counter()
    try:
        result = run_audit(data, embedder, audit)
        summary = report.write(
            result, {"seconds": round(time.perf_counter() - start, 1), "embedded": embedder.computed}
        )
    except EXPECTED_ERRORS as error:
        if logger.isEnabledFor(logging.DEBUG):
            raise
        sys.exit(f"error: {error.args[0] if isinstance(error, KeyError) else error}")
    print(summary)
    return result
