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

"""Watch a generative model for memorization while it trains."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.handlers import IgniteMetricHandler, MetricsSaver, ValidationHandler, from_engine
from monai.utils import CommonKeys, string_list_all_gather
from numpy.typing import NDArray
from PIL import Image

from .bundle.files import write_table
from .bundle.text import spreadsheet_cell
from .metrics import MemorizationMetric, MemorizationSummary

__all__ = ["MemorizationHandler", "MemorizationMetricHandler", "MemorizationMetricsSaver"]

NUMBERS = ("memorized", "q_value", "p_value", "score", "reference")  # of an image, for MONAI's MetricsSaver
ROW = ("memorized", "subject", "score", "p_value", "q_value", "reference")  # for our own


def predictions(output: Any) -> Any:
    """Return `pred` of an evaluator's output, a dict or a decollated list of dicts; another output as it is."""
    first = output[0] if isinstance(output, list) and output else output
    return from_engine(CommonKeys.PRED)(output) if isinstance(first, dict) else output


def no_files(batch: Any) -> Sequence[dict[str, str]]:
    """Return no metadata: what is drawn from noise comes from no file."""
    return ()


def _generated(output: Any) -> Any:
    """Return the images of what MONAI's engines hand over: those of a pair or a tuple of one, else all of it."""
    return output[0] if isinstance(output, tuple) and len(output) in (1, 2) else output


class MemorizationMetricHandler(IgniteMetricHandler):
    """Records the share of an evaluator's generated images that are copies, in ``state.metrics`` under its own name.

    It is to :class:`MemorizationMetric` what MONAI's ``MeanDice`` is to ``DiceMetric``. The evaluator needs `pred`
    only, a batch or a decollated one; labels are not looked at. Fewer copies are better: an evaluator that keeps the
    best model by it needs ``metric_cmp_fn=lambda current, best: current < best``.

    After an epoch ``state.memorization[name]`` is the :class:`MemorizationSummary`, and ``state.metric_details[name]``
    a tensor (N, 5), which ``MetricsSaver(folder, metric_details="*")`` writes as NAME_raw.csv, a row an image. MONAI
    names its columns class0 to class4; they are `memorized` (1 or 0), `q_value`, `p_value`, `score` and `reference`,
    and their `mean` means nothing. :class:`MemorizationMetricsSaver` names them.

    Args:
        metric: knows the training images; None: one of the `arguments`.
        output_transform: takes the generated images from ``state.output``: a batch, a list of images, or a tuple of
            either and labels. By default `pred`, or all of an output that is no dict.
        save_details: give the summary and the details.
        arguments: those of :class:`MemorizationMetric`.

    Raises:
        ValueError: without a metric and arguments, or with both.

    Example::

        SupervisedEvaluator(..., key_val_metric={"memorized_rate": MemorizationMetricHandler(metric)},
                            val_handlers=[MemorizationMetricsSaver("audit")])
    """

    def __init__(
        self,
        metric: MemorizationMetric | None = None,
        output_transform: Callable = predictions,
        save_details: bool = True,
        **arguments: Any,
    ) -> None:
        if (metric is None) == (not arguments):
            raise ValueError(
                "expected a metric or the arguments of one, as reference and embedder, found "
                f"{'neither' if metric is None else 'both'}"
            )
        self.metric = MemorizationMetric(**arguments) if metric is None else metric
        super().__init__(
            metric_fn=self.metric,
            output_transform=lambda output: (_generated(output_transform(output)), None),
            save_details=save_details,
        )

    def compute(self) -> float:
        """Return the rate, and leave the details in the engine's state."""
        rate = super().compute()
        if self.save_details and self._engine is not None and self._name is not None:
            summary = self.metric.summary()
            state: Any = self._engine.state  # MONAI's and our own attributes
            numbers = [torch.as_tensor(getattr(summary, name)).double() for name in NUMBERS]
            state.metric_details[self._name] = torch.stack(numbers, dim=1)
            state.memorization = {**getattr(state, "memorization", {}), self._name: summary}
        return rate


class MemorizationMetricsSaver(MetricsSaver):
    """Writes metrics and their details as MONAI's MetricsSaver, those of memorization as rows that can be read.

    NAME_raw.csv of each :class:`MemorizationMetricHandler` has a row for each generated image: its `filename` or
    number, `memorized` (True or False), the nearest training `subject`, the `score` with it (aligned SSIM or cosine),
    `p_value`, `q_value`, and the `reference`, its image's row among the training images.

    Args:
        save_dir: where the tables are written; those of an earlier epoch are replaced.
        metrics, metric_details: names of what is written, "*" for all, None for nothing.
        batch_transform: takes from ``state.batch`` a list of dicts with the entry `filename_or_obj`, one for each
            generated image. By default none, and rows are numbered.
        summary_ops, save_rank: as MONAI's.

    Raises:
        ValueError: where there are file names, but not one for each image.
    """

    def __init__(
        self,
        save_dir: str,
        metrics: str | Sequence[str] | None = "*",
        metric_details: str | Sequence[str] | None = "*",
        batch_transform: Callable = no_files,
        summary_ops: str | Sequence[str] | None = None,
        save_rank: int = 0,
    ) -> None:
        super().__init__(save_dir, metrics, metric_details, batch_transform, summary_ops, save_rank)

    def __call__(self, engine: Engine) -> None:
        names = self._filenames
        if idist.get_world_size() > 1:  # of a process without names an empty text comes
            names = [name for name in string_list_all_gather(names) if name]
        wanted = self.metric_details or ()
        found: dict[str, MemorizationSummary] = getattr(engine.state, "memorization", {})
        tables = {name: summary for name, summary in found.items() if "*" in wanted or name in wanted}
        for name, summary in tables.items():
            if names and len(names) != len(summary.score):
                raise ValueError(
                    f"{name}: expected a file name for each of the {len(summary.score)} images, found {len(names)}; "
                    "check batch_transform"
                )
        names = names or [str(number) for number in range(max((len(s.score) for s in tables.values()), default=0))]
        self._filenames = names if idist.get_rank() == 0 else []  # MONAI gathers once more
        super().__call__(engine)
        if idist.get_rank() == self.save_rank:
            for name, summary in tables.items():
                write_table(Path(self.save_dir) / f"{name}_raw.csv", _rows(summary, names))


def _rows(summary: MemorizationSummary, names: Sequence[str]) -> list[dict[str, object]]:
    """Return a row for each generated image, safe for a spreadsheet."""
    cells = zip(names, *(getattr(summary, name).tolist() for name in ROW))
    rows = (dict(zip(("filename", *ROW), row)) for row in cells)
    return [{k: spreadsheet_cell(v) if isinstance(v, str) else v for k, v in row.items()} for row in rows]


class _Attachable(Protocol):
    """A MONAI or ignite handler."""

    def attach(self, engine: Engine, /) -> None:
        """Follow an engine."""


class MemorizationHandler(ValidationHandler):
    """Draws images from a model in training every `interval` epochs and records how many are copies.

    It attaches to any ignite trainer. The drawing runs in a MONAI ``Evaluator``, so that MONAI's own handlers log it:
    give them as `handlers`. In the evaluator's ``state.metrics`` stand `memorized_rate` (its key metric), `_low` and
    `_high` (95 % interval), `leaked_subjects` and `memorization_auc`; its ``state.output`` after an epoch is a picture
    of the worst pairs, (1, 1, H, W), which ``TensorBoardImageHandler`` takes without arguments. The full
    :class:`MemorizationSummary` is the handler's attribute `summary`, None before the first measurement.

    Args:
        metric: knows the training images; it is reset before each measurement.
        sample: returns a batch of generated images (B, 1, H, W), or volumes, in the range of the metric's training
            images. The model's mode and gradients are its business.
        batches: calls of `sample` for each measurement.
        interval: epochs between measurements.
        stop_above: end training once the lower end of the rate's interval is above this share; None: never.
        handlers: attached to the evaluator, as ``TensorBoardStatsHandler``, ``MLFlowHandler`` and
            :class:`MemorizationMetricsSaver`.
        output_dir: where the picture is written as `worst_pairs_epoch=N.png`; None: nowhere.
        pairs: rows of the picture.

    Example::

        trainer = SupervisedTrainer(..., train_handlers=[
            MemorizationHandler(metric, sample, batches=8, interval=5, stop_above=0.01, handlers=[
                TensorBoardStatsHandler("runs", iteration_log=False), TensorBoardImageHandler("runs")])])
    """

    def __init__(
        self,
        metric: MemorizationMetric,
        sample: Callable[[], torch.Tensor],
        batches: int = 1,
        interval: int = 1,
        stop_above: float | None = None,
        handlers: Sequence[_Attachable] = (),
        output_dir: str | os.PathLike | None = None,
        pairs: int = 4,
    ) -> None:
        if min(batches, interval, pairs) < 1 or not (stop_above is None or 0 <= stop_above < 1):
            raise ValueError(
                "batches, interval and pairs must be at least 1 and stop_above in [0, 1) or None, got "
                f"{batches}, {interval}, {pairs} and {stop_above}"
            )
        self.metric, self.sample, self.pairs, self.stop_above = metric, sample, pairs, stop_above
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.summary: MemorizationSummary | None = None
        self._images: list[torch.Tensor] = []
        evaluator = Evaluator(
            device=torch.device("cpu"),
            val_data_loader=[([None], [None])] * batches,  # what TensorBoardImageHandler reads as 'no image, no label'
            iteration_update=self._draw,
            key_val_metric={"memorized_rate": MemorizationMetricHandler(metric)},
            metric_cmp_fn=lambda current, best: current < best,
            val_handlers=[_Attached(self._record), *handlers],
            decollate=False,
        )
        evaluator.add_event_handler(Events.EPOCH_STARTED, lambda: self._images.clear())
        super().__init__(interval=interval, validator=evaluator)

    def attach(self, engine: Engine) -> None:
        super().attach(engine)
        if self.stop_above is not None:
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self._stop)

    def _draw(self, engine: Engine, batch: object) -> torch.Tensor:
        images = self.sample()
        self._images.append(images.detach().cpu())
        return images

    def _record(self, engine: Engine) -> None:
        summary = self.metric.summary()
        self.summary = summary
        low, high = summary.ci95
        engine.state.metrics |= {
            "memorized_rate_low": low,
            "memorized_rate_high": high,
            "leaked_subjects": len(summary.leaked),
        }
        if summary.auc is not None:
            engine.state.metrics["memorization_auc"] = summary.auc
        picture = self._worst_pairs(summary)
        engine.state.output = torch.from_numpy(picture)[None, None]  # type: ignore[assignment]  # ignite says int
        if self.output_dir is not None and picture.size > 1:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            path = self.output_dir / f"worst_pairs_epoch={engine.state.epoch}.png"
            Image.fromarray((picture * 255).astype(np.uint8)).save(path)

    def _stop(self, engine: Engine) -> None:
        if self.summary is None or self.stop_above is None:
            return
        low, high = self.summary.ci95
        if low > self.stop_above:
            engine.logger.warning(
                f"training ends: {low:.1%} to {high:.1%} of the generated images are copies, more than "
                f"{self.stop_above:.1%}"
            )
            engine.terminate()

    def _worst_pairs(self, summary: MemorizationSummary) -> NDArray[np.float32]:
        """Return rows of generated image, training image aligned to it and difference, the most certain copy first."""
        metric = self.metric
        if metric.images is None or metric.verifier is None:
            return np.zeros((1, 1), np.float32)  # embeddings show nothing
        images = metric.scaled(torch.cat(self._images))[:, 0].numpy()  # after a gather, the first process's come first
        worst = np.lexsort((-summary.score[: len(images)], summary.p_value[: len(images)]))[: self.pairs]
        query = images[worst]
        reference = metric.images[summary.reference[worst]].astype(np.float32)
        aligned = metric.verifier.show(query, reference, metric.verifier.align(query, reference).matrix)
        columns = [query, aligned, np.abs(query - aligned)]
        if query.ndim == 4:  # of volumes, the axial slice in the middle
            columns = [column[:, :, :, column.shape[3] // 2] for column in columns]
        # images are (x, y), pictures (row, column): 3 x (P, W, H) -> (P, H, 3 W) -> (P H, 3 W)
        rows = np.concatenate([column.transpose(0, 2, 1) for column in columns], axis=2)
        return rows.reshape(-1, rows.shape[2]).clip(0, 1)


class _Attached:
    """A function as a handler that runs at the end of each epoch, before those attached after it."""

    def __init__(self, function: Callable[[Engine], None]) -> None:
        self.function = function

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.function)
