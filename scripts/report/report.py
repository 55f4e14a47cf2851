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

"""Write an audit's result: matches.csv, slices.csv, report.json, a self-contained report.html, and a short summary."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from filelock import FileLock

from ..auditing.result import AuditResult
from ..bundle.progress import Progress
from ..bundle.text import visible
from ..images.understood import Understood
from .notebook import ShownResult
from .page import draw_pictures, render_page
from .pictures import Explains
from .provenance import Run
from .pseudonyms import Pseudonyms
from .summary import Timing, json_text, summarise
from .tables import MatchRow, MatchRows, SliceRow, slice_rows, write_csv, write_parquet
from .terminal import headline, terminal_text

__all__ = ["OUTPUTS", "Report"]

OUTPUTS = ("matches.parquet", "matches.csv", "candidates.csv", "slices.csv", "report.json", "report.html")  # page last
PARQUET_ABOVE = 100_000  # rows

Writer = Callable[[Path], object]

logger = logging.getLogger(__name__)


class Report:
    """Writes the result of an audit below `output_dir`.

    Args:
        output_dir: created if it does not exist.
        checkpoint: named in the report with its SHA-256.
        thumbnails: show image pairs in the report.
        pseudonymize: replace subject ids, the names of real images and all paths by random names.
        group_column: column of the generated datalist whose groups are counted, or None.
        pixel_mm: side of a pixel of volumes' slices, for the evidence in 3-D.
        key_dir: where the key of the pseudonyms stays, None: nowhere.
        settings: of the run, by key, for the report.
        explain: as :class:`~scripts.embedder.attribution.Explainer`, maps what made an image and its match alike; shown
            where pictures are. None: no maps.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        checkpoint: str | os.PathLike,
        thumbnails: bool = True,
        pseudonymize: bool = False,
        group_column: str | None = None,
        pixel_mm: float = 2.0,
        key_dir: str | os.PathLike | None = None,
        settings: Mapping[str, object] | None = None,
        explain: Explains | None = None,
    ) -> None:
        if not isinstance(group_column, (str, type(None))):
            raise ValueError(f"group_column must be the name of a column, got {group_column!r}")
        self.output_dir, self.checkpoint = Path(output_dir), Path(checkpoint)
        self.thumbnails, self.pseudonymize, self.group_column = thumbnails, pseudonymize, group_column
        self.pixel_mm, self.key_dir, self.settings = pixel_mm, key_dir, settings or {}
        self.explain = explain

    def write(
        self, result: AuditResult, timing: Timing, understood: Mapping[str, Understood] | None = None
    ) -> ShownResult:
        """Write all files, each under a temporary name first, and return the result with its summary for a terminal.

        Args:
            result: of the audit.
            timing: of the audit; the time that the pictures take is added.
            understood: what the files of each set were taken for.
        """
        key_id, understood, named = None, understood or {}, result
        if self.pseudonymize:
            pseudonyms = Pseudonyms(self.key_dir)
            result, key_id = pseudonyms.result(result, self.group_column), pseudonyms.key_id
            understood = {name: one.hidden() for name, one in understood.items()}
        run = Run.now(self.settings, hidden=self.pseudonymize)
        matches = MatchRows(result)
        start = time.perf_counter()
        pictures = draw_pictures(result, self.pixel_mm, self.explain) if self.thumbnails else None
        timing = replace(timing, seconds=round(timing.seconds + time.perf_counter() - start, 1))
        summary = summarise(result, matches, timing, run, self.checkpoint, self.group_column, key_id, understood)
        candidates = np.flatnonzero(result.candidate).tolist()

        def told(rows: MatchRows, name: str) -> Iterable[MatchRow]:
            return Progress(rows, desc=f"writing {name}", unit="row")

        writers: dict[str, Writer] = {
            "matches.csv": lambda path: _write_csv(path, MatchRow, told(matches, "matches.csv")),
            # apart from the calls: no error rate covers them
            "candidates.csv": lambda path: _write_csv(path, MatchRow, (matches[unit] for unit in candidates)),
            "slices.csv": lambda path: _write_csv(path, SliceRow, slice_rows(result)),
            "report.json": lambda path: path.write_text(json_text(summary), encoding="utf-8"),
            "report.html": lambda path: path.write_text(
                render_page(result, matches, summary, pictures), encoding="utf-8"
            ),  # the page comes last: where it is, all is
        }
        if len(matches) > PARQUET_ABOVE:
            if find_spec("pyarrow"):
                writers = {
                    "matches.parquet": lambda path: write_parquet(path, told(matches, "matches.parquet")),
                    **writers,
                }
            else:
                logger.info("matches.parquet is not written, as pyarrow is not installed; matches.csv holds the same")
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(self.output_dir / ".lock"):  # another audit of this folder writes before or after
            _write_together(writers, self.output_dir)
        text = terminal_text(result, summary, matches, self.output_dir / "report.html")
        return ShownResult.of(named, visible(headline(summary, len(matches))), text, self.output_dir)


def _write_csv(path: Path, kind: type[MatchRow] | type[SliceRow], rows: Iterable[MatchRow | SliceRow]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        write_csv(file, kind, rows)


def _write_together(writers: Mapping[str, Writer], folder: Path) -> None:
    """Write files by name so that they are all of one audit: old ones go before the first new one appears."""
    temporary = {name: folder / f".{name}.{uuid.uuid4().hex}.tmp" for name in writers}
    try:
        for name, write in writers.items():
            write(temporary[name])
        for name in reversed(OUTPUTS):  # nothing of an earlier audit beside this one's files
            (folder / name).unlink(missing_ok=True)
        for name in writers:
            temporary[name].replace(folder / name)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
