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

import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .auditing.audit import Audit
from .auditing.findings import SetFit
from .auditing.fit import FitTest
from .auditing.likeness import corrected
from .auditing.result import AuditResult, Verdict
from .bundle.errors import by_command, run_or_exit
from .bundle.files import narrowed, no_wider_than
from .bundle.shares import Share, Steps
from .bundle.text import encodable
from .embedder.embedder import Embedder
from .embedder.embedding_set import EmbeddingSet
from .images.datalists import FoundImages, scan_images
from .images.items import Item
from .images.readers import file_of, files_of
from .images.subjects import check_spelling
from .images.understood import understand
from .report.notebook import ShownResult
from .report.report import OUTPUTS, Report
from .report.summary import Timing
from .report.tables import group_names

__all__ = ["SHARED_STEPS", "STATUS_INCONCLUSIVE", "AuditData", "detect", "run_audit", "shared_steps"]

STATUS_INCONCLUSIVE = 3  # of the process
# in this order; the last one does little, but where training ids turn out to be one person
SHARED_STEPS = ("training images embedded", "generated images embedded", "images aligned", "merged ids aligned again")

logger = logging.getLogger(__name__)


@dataclass
class AuditData:
    """Where the images of an audit are; fields as the keys of configs/detect.yaml."""

    train_dir: str | os.PathLike
    generated_dir: str | os.PathLike
    holdout_dir: str | os.PathLike | None = None
    include: Sequence[str] | str | None = None
    exclude: Sequence[str] | str | None = None
    subject_pattern: str | None = None
    train_include: Sequence[str] | str | None = None
    generated_include: Sequence[str] | str | None = None
    train_section: str | None = None
    generated_section: str | None = None
    holdout_section: str | None = None
    array_layout: str | None = None
    array_key: str | Sequence[str] | None = None
    _known: tuple[str, dict[str, FoundImages]] | None = field(default=None, init=False, repr=False, compare=False)

    def items(self) -> dict[str, list[Item]]:
        """Return the items of train, generated and, if given, holdout.

        Raises:
            ValueError: if a file is both train (or holdout) and generated, or a subject both train and holdout.
        """
        return {name: found.items for name, found in self.found().items()}

    def found(self) -> dict[str, FoundImages]:
        """Return the items of train, generated and, if given, holdout, and what the files were taken for.

        Only real images have subjects: a generated file is never matched against the pattern.

        Raises:
            ValueError: as :meth:`items`.
        """
        key = repr(self)
        if self._known is not None and self._known[0] == key:  # the config asks twice: what is wrong is said once
            return self._known[1]
        sets = {
            "train": self._scanned(self.train_dir, self.train_include, self.train_section),
            "generated": self._scanned(self.generated_dir, self.generated_include, self.generated_section, real=False),
        }
        if self.holdout_dir is not None:
            sets["holdout"] = self._scanned(self.holdout_dir, self.train_include, self.holdout_section)
        self._check({name: one.items for name, one in sets.items()})
        self._known = key, sets
        return sets

    def _scanned(
        self, source: str | os.PathLike, own: Sequence[str] | str | None, section: str | None, real: bool = True
    ) -> FoundImages:
        include = self.include if own is None else own
        pattern = self.subject_pattern if real else None
        return scan_images(
            source, pattern, include, self.exclude, real, self.array_layout, section, array_key=self.array_key
        )

    def _check(self, found: Mapping[str, Sequence[Item]]) -> None:
        generated = {item["image"] for item in found["generated"]}
        if twice := [item["image"] for item in found["train"] if item["image"] in generated]:
            one_list = Path(self.train_dir).is_file() and self.train_dir == self.generated_dir
            remedy = (
                "name the list's sections by train_section and generated_section"
                if one_list
                else "exclude one, or choose folders that do not hold each other"
            )
            raise ValueError(
                f"{twice[0]}: expected a training or a generated image, found it ({len(twice)} such) in train_dir and "
                f"in generated_dir; {remedy}"
            )
        if self.holdout_dir is not None:
            both = {i["subject_id"] for i in found["train"]} & {i["subject_id"] for i in found["holdout"]}
            people = [item["subject_id"] for part in ("train", "holdout") for item in found[part]]
            check_spelling(people, self.holdout_dir)
            if both:
                raise ValueError(
                    f"{self.holdout_dir}: expected subjects that the generator never saw, found {len(both)} of "
                    f"{self.train_dir}, such as {min(both)}; take them out of one of the two"
                )


def run_audit(data: AuditData, embedder: Embedder, audit: Audit, fit_test: FitTest | None = None) -> AuditResult:
    """Return the audit's result; raises what it meets. `fit_test`: of the two sets, None: ``FitTest()``."""
    embedded = _embedded(data.items(), embedder, fit_test or FitTest())
    return audit(*embedded.three, embedded.fit)


@dataclass(frozen=True)
class _Embedded:
    """The sets of an audit, the generated one corrected as the fit test found, and how they fit."""

    sets: Mapping[str, EmbeddingSet]
    fit: SetFit

    @property
    def three(self) -> tuple[EmbeddingSet, EmbeddingSet, EmbeddingSet | None]:
        """The training, generated and holdout set."""
        return self.sets["train"], self.sets["generated"], self.sets.get("holdout")


def _embedded(
    items: Mapping[str, Sequence[Item]], embedder: Embedder, fit_test: FitTest, known: SetFit | None = None
) -> _Embedded:
    """Return the sets; `known` is what the fit test has found of them, None: it is done here."""
    sets: dict[str, EmbeddingSet] = {}
    fit = known or SetFit()
    for name, files in items.items():
        if name == "generated":
            fit = known or fit_test(sets["train"], files, embedder)
            files = fit_test.corrected(files, fit)
        subjects = "" if name == "generated" else f" of {len({item['subject_id'] for item in files})} subjects"
        logger.debug("%s: %d files%s", name, len(files), subjects)
        before = embedder.computed
        sets[name] = embedder.embed_files(files, name)
        new = embedder.computed - before
        logger.debug("%s: %d images, %d of them embedded now", name, len(sets[name]), new)
    if sets["train"].images.ndim == 4 and not fit.fits:
        if fit.correction.stretch != (1.0, 1.0):  # a brain is no smaller head
            fit = replace(fit, correction=replace(fit.correction, stretch=(1.0, 1.0)))
            sets["generated"] = embedder.embed_files(corrected(items["generated"], fit.correction), "generated")
        fitted = fit_test.of_one_view(sets, fit, embedder)
        sets, fit = dict(fitted.sets), fitted.fit
    return _Embedded(sets, fit)


def _share_work(
    items: Mapping[str, Sequence[Item]], embedder: Embedder, audit: Audit, fit_test: FitTest, steps: Steps
) -> _Embedded | str:
    """Do a share of the steps until others must do theirs; return what is to be said of that, the sets if all is done.

    First the training and holdout images are embedded, then, as these say how the sets fit, the generated ones; then
    all is aligned, and once more where training ids are merged.
    """
    share = steps.share
    train, generated, aligned, merged = SHARED_STEPS
    for name in ("train", "holdout"):
        if name in items:
            embedder.embed_missing(share.of(items[name]), name)
    if (done := steps.done(train)) < share.count:
        return _again(share, "embedded its training images", done)
    fit = fit_test(embedder.embed_files(items["train"], "train"), items["generated"], embedder)
    embedder.embed_missing(share.of(fit_test.corrected(items["generated"], fit)), "generated")
    if (done := steps.done(generated)) < share.count:
        return _again(share, "embedded its generated images", done)
    embedded = _embedded(items, embedder, fit_test, fit)
    audit.align_share(*embedded.three, share, merged=False)
    if (done := steps.done(aligned)) < share.count:
        return _again(share, "aligned its images", done)
    audit.align_share(*embedded.three, share, merged=True)
    if (done := steps.done(merged)) < share.count:
        return f"Shard {share} is done; {done} of {share.count} are. When all are, run the audit without a shard."
    return embedded


def shared_steps(
    items: Mapping[str, Sequence[Item]], output_dir: str | os.PathLike, share: Share, wait: bool = False
) -> Steps:
    """Return which shares of the steps of an audit of these items, into this folder, are done: `SHARED_STEPS`."""
    files = [f"{name} {item['id']}" for name, one in items.items() for item in one]
    return Steps(Path(output_dir, "embeddings", "shares"), share, files, wait)


def _again(share: Share, what: str, done: int) -> str:
    return f"Shard {share} has {what}, as {done} of {share.count} shards have. When all have, run each again."


def detect(
    data: AuditData,
    embedder: Embedder,
    audit: Audit,
    report: Report,
    fit_test: FitTest | None = None,
    shard: str | None = None,
    wait: bool = False,
) -> ShownResult | None:
    """Audit, write the report and print the summary; an expected error ends the process with one sentence, status 1.

    Where copies could not have been recognised the process ends with status 3, the report written. Where no command
    started the process, it goes on, and an expected error is a ValueError. What is written can be read by nobody who
    cannot read all of the input images.

    `shard`, such as 3/16, does that share of the work for an audit of the same output folder, and then returns None:
    docs/scale.md. With `wait` it waits for the other shards, and the first one audits when all are done.
    """
    start = time.perf_counter()

    def job() -> ShownResult | str:
        found = data.found()
        items = {name: one.items for name, one in found.items()}
        _check_output(items, report.output_dir)
        _refuse_links(report.output_dir)
        if report.group_column is not None:
            group_names(items["generated"], report.group_column)  # before hours of embedding
        lists = [source for source in (data.train_dir, data.generated_dir, data.holdout_dir) if source is not None]
        with no_wider_than(
            [*lists, *{file for one in items.values() for item in one for file in files_of(item["image"])}]
        ):
            if (cache := report.output_dir / "embeddings").is_dir():
                narrowed(cache)
            embedded = None
            if shard is not None:
                share = Share.parse(shard)
                audit.check_share()
                steps = shared_steps(items, report.output_dir, share, wait)
                done = _share_work(items, embedder, audit, fit_test or FitTest(), steps)
                if isinstance(done, str):
                    return done
                if not wait or share.number > 1:
                    last = "the first one writes the report" if wait else "run the audit without a shard"
                    return f"Shard {share} is done, as all are: {last}."
                embedded = done
            understood = {
                name: understand(one, name != "generated", data.array_layout, data.array_key)
                for name, one in found.items()
            }
            embedded = embedded or _embedded(items, embedder, fit_test or FitTest())
            logger.debug("null, search and decisions")
            result = audit(*embedded.three, embedded.fit)
            timing = Timing(round(time.perf_counter() - start, 1), embedder.computed)
            return report.write(result, timing, understood)

    result = run_or_exit(job)
    if isinstance(result, str):
        print(result)
        return None
    print(encodable(result.text, getattr(sys.stdout, "encoding", None)))
    if result.verdict is Verdict.INCONCLUSIVE and by_command():
        sys.exit(STATUS_INCONCLUSIVE)
    return result


def _check_output(items: Mapping[str, Sequence[Item]], output_dir: Path) -> None:
    """Raise ValueError where a cached embedding or picture would be an input of the next run."""
    output = os.path.realpath(output_dir)
    for name, files in items.items():
        for item in files:
            if Path(os.path.realpath(file_of(item["image"]))).is_relative_to(output):
                raise ValueError(
                    f"{output_dir}: expected an output_dir that holds no input, found the {name} image {item['id']} in "
                    "it; choose another output_dir"
                )


def _refuse_links(output_dir: Path) -> None:
    """Raise ValueError where someone has put a link in the place of a file or folder that the audit writes."""
    for name in (".lock", "embeddings", *OUTPUTS):
        if (path := output_dir / name).is_symlink():
            raise ValueError(
                f"{path}: expected a file or folder of an audit, found a link to {os.readlink(path)}; remove the link, "
                "or choose another output_dir"
            )
