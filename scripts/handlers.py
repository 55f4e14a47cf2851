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
from typing import Protocol

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.handlers import IgniteMetricHandler, ValidationHandler
from numpy.typing import NDArray
from PIL import Image

from .metrics import MemorizationMetric, MemorizationSummary

__all__ = ["MemorizationHandler"]


class _Attachable(Protocol):
    """A MONAI or ignite handler."""

    def attach(self, engine: Engine, /) -> None: ...


class MemorizationHandler(ValidationHandler):
    """Draws images from a model in training every `interval` epochs and records how many are copies.

    It attaches to any ignite trainer. The drawing runs in a MONAI ``Evaluator``, so that MONAI's own handlers log it:
    give them as `handlers`. In the evaluator's ``state.metrics`` stand `memorized_rate` (its key metric), `_low` and
    `_high` (95 % interval), `leaked_subjects` and `memorization_auc`; its ``state.output`` after an epoch is a picture
    of the worst pairs, (1, 1, H, W), which ``TensorBoardImageHandler`` takes without arguments. The full
    :class:`MemorizationSummary` is the handler's attribute `summary`, None before the first measurement.

    Args:
        metric: knows the training images; it is reset before each measurement.
        sample: returns a batch of generated images (B, 1, H, W), or volumes, in [0, 1], as the metric's training
            images. The model's mode and gradients are its business.
        batches: calls of `sample` for each measurement.
        interval: epochs between measurements.
        stop_above: end training once the lower end of the rate's interval is above this share; None: never.
        handlers: attached to the evaluator, as ``TensorBoardStatsHandler`` and ``MLFlowHandler``.
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
            key_val_metric={
                "memorized_rate": IgniteMetricHandler(metric, output_transform=lambda images: (images, None))
            },
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
        images = torch.cat(self._images)[:, 0].float().numpy()  # after a gather, the first process's come first
        worst = np.lexsort((-summary.score[: len(images)], summary.p_value[: len(images)]))[: self.pairs]
        query = images[worst].clip(0, 1)
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
