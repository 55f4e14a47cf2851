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

import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.transforms import RandGaussianNoise
from scripts.bundle.training import (
    BestModelSaver,
    ClipGradients,
    SameWeights,
    SeededEpochs,
    TrainingProgress,
    train_or_exit,
)


def drawn(first: int, seed: int = 1, rank: int = 0, draws: int = 1) -> list[tuple[float, ...]]:
    """What is drawn in epochs `first` to 4 of two steps."""
    noises = [RandGaussianNoise(prob=1.0) for _ in range(draws)]
    found: list[tuple[float, ...]] = []

    def step(*_) -> None:
        values = [noise(torch.zeros(1)).item() for noise in noises]
        found.append((random.random(), np.random.rand(), torch.rand(1).item(), *values))

    engine = Engine(step)
    SeededEpochs(seed, noises, rank).attach(engine)
    if first > 1:
        engine.load_state_dict({"epoch": first - 1, "max_epochs": 4, "epoch_length": 2})
    engine.run(range(2), max_epochs=4)
    return found


def test_a_resumed_training_draws_as_an_uninterrupted_one():
    assert drawn(3) == drawn(1)[4:]


def test_epochs_seeds_processes_and_data_sets_draw_apart():
    values = {value for given in ({}, {"seed": 2}, {"rank": 1}) for row in drawn(1, **given, draws=2) for value in row}
    assert len(values) == 3 * 8 * 5


class Evaluation:
    """An evaluator whose key metric is set by hand, with its saver, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.network = torch.nn.Linear(1, 1)
        self.saver = BestModelSaver(
            str(folder), {"model": self.network}, save_key_metric=True, key_metric_filename="model.pt",
            key_metric_negative_sign=True,
        )  # fmt: skip
        self.engine = SupervisedEvaluator(torch.device("cpu"), [0], self.network, val_handlers=[self.saver])
        self.engine.state.key_metric_name = "error"

    def finds(self, error: float, weight: float) -> None:
        torch.nn.init.constant_(self.network.weight, weight)
        self.engine.state.metrics["error"] = error
        self.saver.metrics_completed(self.engine)


def kept(folder: Path) -> float:
    return torch.load(folder / "model.pt", weights_only=True)["weight"].item()


def test_a_worse_model_does_not_replace_a_better_one_after_a_resume(tmp_path):
    before = Evaluation(tmp_path)
    before.finds(0.2, weight=1.0)
    before.engine.state.best_metric, before.engine.state.best_metric_epoch = 0.2, 4
    torch.save({"best": before.saver.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)["best"]
    after = Evaluation(tmp_path)
    after.saver.load_state_dict(state)
    assert (after.engine.state.best_metric, after.engine.state.best_metric_epoch) == (0.2, 4)
    after.finds(0.3, weight=2.0)
    assert kept(tmp_path) == 1.0
    after.finds(0.1, weight=3.0)
    assert kept(tmp_path) == 3.0


def test_a_best_model_that_is_gone_is_not_waited_for(tmp_path):
    before = Evaluation(tmp_path)
    before.finds(0.2, weight=1.0)
    (tmp_path / "model.pt").unlink()
    after = Evaluation(tmp_path)
    after.saver.load_state_dict(before.saver.state_dict())
    after.finds(0.3, weight=2.0)
    assert kept(tmp_path) == 2.0


def test_a_save_that_is_cut_off_leaves_the_model_before(tmp_path, monkeypatch):
    evaluation = Evaluation(tmp_path)
    evaluation.finds(0.2, weight=1.0)

    def cut_off(content, path) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", cut_off)
        with pytest.raises(KeyboardInterrupt):
            evaluation.finds(0.1, weight=2.0)
    assert kept(tmp_path) == 1.0 and [path.name for path in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("done", [0, 12])
def test_progress_says_how_long_it_takes_and_where_it_stands(caplog, done):
    now = 0.0

    def step(*_) -> float:
        nonlocal now
        now += 20.0
        return 0.5

    engine = Engine(step)
    caplog.set_level(logging.INFO, engine.logger.name)
    TrainingProgress(loss=float, interval=30.0, clock=lambda: now).attach(engine)
    if done:
        engine.load_state_dict({"iteration": done, "max_epochs": 5, "epoch_length": 6})
    engine.run(range(6), max_epochs=5)
    lines = [line for line in caplog.messages if line.startswith("training:")]
    steps = 30 - done
    assert f"training: {steps} steps, about {round(20 * steps / 60)} minutes on this machine" in lines
    where = f"epoch {1 + (done + 1) // 6} of 5, step {(done + 1) % 6 + 1} of 6, loss 0.5000"
    assert f"training: {where}, about {round(20 * (steps - 2) / 60)} minutes left" == lines[0]
    assert len(lines) == 1 + steps // 2 and lines[-1].endswith("step 6 of 6, loss 0.5000, about 0 seconds left")


def test_ctrl_c_names_the_checkpoint_to_go_on_from(tmp_path, as_command):
    for said in ("before the first epoch ended; nothing is kept, start again", "add --resume '"):
        with pytest.raises(SystemExit) as end:
            train_or_exit(_Stopped(), tmp_path)
        assert said in str(end.value.code)
        (tmp_path / "checkpoint_epoch=3.pt").touch()


class _Stopped:
    def run(self) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("most", [0.5, 1e9])
def test_a_step_takes_the_gradient_shortened(most):
    network = torch.nn.Linear(3, 1, bias=False)
    start, image = network.weight.detach().clone(), torch.tensor([[3.0, 4.0, 0.0]])
    trainer = SupervisedTrainer(
        device=torch.device("cpu"), max_epochs=1, train_data_loader=[{"image": image, "label": torch.zeros(1, 1)}],
        network=network, optimizer=torch.optim.SGD(network.parameters(), 1.0),
        loss_function=lambda found, label: found.sum(), train_handlers=[ClipGradients(network, most)], decollate=False,
    )  # fmt: skip
    trainer.run()
    # the gradient is the image, of norm 5
    torch.testing.assert_close(start - network.weight.detach(), image * min(1, most / 5))


def test_one_process_shares_its_weights_with_nobody():
    network = torch.nn.Linear(2, 1)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    SameWeights(network)()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
