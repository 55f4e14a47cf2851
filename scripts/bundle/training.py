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

"""What a training needs beside MONAI's engines: draws that survive a resume, the best model kept, time left."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from ignite import distributed as idist
from ignite.engine import Engine, Events
from ignite.handlers.checkpoint import BaseSaveHandler
from monai.engines.utils import IterationEvents
from monai.handlers import CheckpointSaver

from .errors import by_command, run_or_exit
from .files import replacing
from .memory import keep_freed_memory

__all__ = ["BestModelSaver", "ClipGradients", "SeededEpochs", "TrainingProgress", "WholeFileSaver", "train_or_exit"]

ESTIMATED_AFTER = 8  # steps; the first ones compile and fill caches


class Draws(Protocol):
    """A data set or transform that draws, as MONAI's Randomizable."""

    def set_random_state(self, seed: int | None = None, /) -> object:
        """Begin its draws at a seed."""


class WholeFileSaver(CheckpointSaver):
    """MONAI's saver, but a file has its name only once it is whole: a process that is killed leaves the one before."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for checkpoint in (self._final_checkpoint, self._key_metric_checkpoint, self._interval_checkpoint):
            if checkpoint is not None:
                checkpoint.save_handler = _WholeFiles(checkpoint.save_handler)  # type: ignore[assignment]


class _WholeFiles(BaseSaveHandler):
    def __init__(self, disk: Any) -> None:
        self.disk = disk

    def __call__(self, checkpoint: Mapping, filename: str, metadata: Mapping | None = None) -> None:
        if idist.get_rank() == self.disk.save_on_rank:
            with replacing(Path(self.disk.dirname, self.disk.filename or filename)) as temporary:
                torch.save(checkpoint, temporary)

    def remove(self, filename: str) -> None:
        if not self.disk.filename:  # a fixed name is written over, not removed before the next one is whole
            self.disk.remove(filename)


class SeededEpochs:
    """Seeds all draws of an epoch by seed, epoch and process, so that a resumed training draws the same.

    For a trainer's `train_handlers`. The data loader must not have persistent workers, whose draws go on.

    Args:
        seed: of the training.
        draws: data sets that draw in this process.
        rank: of this process, where several train.
    """

    def __init__(self, seed: int, draws: Sequence[Draws] = (), rank: int = 0) -> None:
        self.seed, self.draws, self.rank = seed, list(draws), rank

    def attach(self, engine: Engine) -> None:
        """Seed at each EPOCH_STARTED of the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed Python, NumPy, torch and the data sets."""
        sequence = np.random.SeedSequence([abs(self.seed), self.rank, engine.state.epoch])
        seeds = [int(number) for number in sequence.generate_state(3 + len(self.draws))]
        random.seed(seeds[0])
        np.random.seed(seeds[1])
        torch.manual_seed(seeds[2])
        for data, seed in zip(self.draws, seeds[3:]):
            data.set_random_state(seed)


class BestModelSaver(WholeFileSaver):
    """Keeps the weights with the best key metric, across a resume too: it belongs to the trainer's checkpoint.

    MONAI's saver starts anew with every process, so that the first validation after a resume replaces the best model,
    whatever its metric.
    """

    engine: Engine | None = None

    def attach(self, engine: Engine) -> None:
        """Save after each validation of the evaluator."""
        self.engine = engine
        super().attach(engine)

    def state_dict(self) -> dict[str, object]:
        """Return which weights are the best, and their metric."""
        state = getattr(self.engine, "state", None)
        checkpoint = self._key_metric_checkpoint
        kept = checkpoint.state_dict()["_saved"] if checkpoint is not None else []
        saved = [[float(priority), filename] for priority, filename in kept]
        metric = getattr(state, "best_metric", -1)
        return {
            "saved": saved,
            "best_metric": float(metric),
            "best_metric_epoch": int(getattr(state, "best_metric_epoch", -1)),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up the best weights of an earlier process, if the file is still there."""
        handler = getattr(self._key_metric_checkpoint, "save_handler", None)
        fixed = handler.disk.filename if isinstance(handler, _WholeFiles) else None
        kept = [tuple(item) for item in state_dict["saved"] if Path(self.save_dir, fixed or item[1]).is_file()]
        super().load_state_dict({"_saved": kept})
        if kept and self.engine is not None:
            for name in ("best_metric", "best_metric_epoch"):
                setattr(self.engine.state, name, state_dict[name])


class ClipGradients:
    """Shortens a step's gradient to at most `most`, before the optimizer takes it. For a trainer's `train_handlers`.

    Args:
        network: whose gradients.
        most: largest Euclidean norm of all of them together.
    """

    def __init__(self, network: torch.nn.Module, most: float) -> None:
        self.network, self.most = network, most

    def attach(self, engine: Engine) -> None:
        """Clip once the gradients are there, each step of MONAI's trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Clip the gradients."""
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.most)


class SameWeights:
    """Gives a network in every process what it has in the first one, before the training and at each epoch's end.

    For a trainer's `train_handlers`, before validation. DistributedDataParallel shares gradients; a projection from
    data is computed in each process, and GPUs need not round alike; batch norm's statistics are of each process's last
    batch. Where one process trains, nothing is done.

    Args:
        network: whose parameters and buffers.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Share at STARTED and at each EPOCH_COMPLETED of the trainer."""
        for event in (Events.STARTED, Events.EPOCH_COMPLETED):
            engine.add_event_handler(event, self)

    @torch.no_grad()
    def __call__(self, engine: Engine | None = None) -> None:
        """Share the weights."""
        if idist.get_world_size() > 1:
            for values in self.network.state_dict().values():
                # channels-last weights are not contiguous, which gloo wants
                values.copy_(idist.broadcast(values.contiguous(), src=0))


class TrainingProgress:
    """Says how long a training will take, after its first steps, and every `interval` seconds where it stands.

    Lines of the trainer's log, for a terminal and for a file alike.

    Args:
        loss: the number to show of the trainer's output.
        interval: seconds between two lines.
        clock: of seconds.
    """

    def __init__(
        self, loss: Callable[[Any], float], interval: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.loss, self.interval, self.clock = loss, interval, clock
        self.start, self.first, self.said = 0.0, 0, 0.0

    def attach(self, engine: Engine) -> None:
        """Speak after steps of the trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _begin(self, engine: Engine) -> None:
        if not self.first:
            self.first, self.start = engine.state.iteration, self.clock()
            self.said = self.start

    def __call__(self, engine: Engine) -> None:
        """Say how long it will take, once, or where it stands, if it is time."""
        state, now = engine.state, self.clock()
        steps, epochs = int(state.epoch_length or 1), int(state.max_epochs or 1)
        total, done = epochs * steps, state.iteration - self.first + 1
        step = (now - self.start) / done
        left = _minutes((total - state.iteration) * step)
        if done == ESTIMATED_AFTER:
            steps_left = total - self.first + 1
            engine.logger.info("training: %d steps, about %s on this machine", steps_left, _minutes(steps_left * step))
        if now - self.said >= self.interval and done > 1:
            self.said = now
            engine.logger.info(
                "training: epoch %d of %d, step %d of %d, loss %.4f, about %s left",
                state.epoch,
                epochs,
                (state.iteration - 1) % steps + 1,
                steps,
                self.loss(state.output),
                left,
            )


def _minutes(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes > 1 else f"{round(seconds)} seconds" if seconds < 60 else "a minute"


def train_or_exit(trainer: Engine, output_dir: str | os.PathLike) -> None:
    """Run a trainer as :func:`~scripts.bundle.errors.run_or_exit` does; Ctrl-C says which checkpoint to resume.

    The process keeps its memory from then on, as :func:`~scripts.bundle.memory.keep_freed_memory` says.
    """

    def job() -> None:
        keep_freed_memory()
        try:
            trainer.run()
        except KeyboardInterrupt:
            if not by_command():
                raise
            checkpoints = sorted(Path(output_dir).glob("checkpoint_epoch=*.pt"), key=lambda path: path.stat().st_mtime)
            if not checkpoints:
                sys.exit("error: stopped by the user before the first epoch ended; nothing is kept, start again")
            sys.exit(f"error: stopped by the user; add --resume '{checkpoints[-1]}' to go on from there")

    run_or_exit(job)
