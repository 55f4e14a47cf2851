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

import numpy as np
import pytest
import torch
from helpers import ROOT, TinyEmbedder, blobs, near, run_config, unit_vectors
from ignite.engine import Engine, Events
from monai.handlers import MLFlowHandler, TensorBoardImageHandler, TensorBoardStatsHandler
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scripts.handlers import MemorizationHandler
from scripts.metrics import MemorizationMetric


class Model:
    """A generator that copies more of its training images with every epoch: batches of eight, `epoch` copies."""

    def __init__(self, train: torch.Tensor, new: torch.Tensor) -> None:
        self.train, self.new, self.epoch, self.calls = train, new, 0, 0

    def learn(self, engine: Engine, batch: int) -> float:
        self.epoch = engine.state.epoch
        return 0.0

    def sample(self) -> torch.Tensor:
        self.calls += 1
        start = 8 * ((self.calls - 1) % 2)
        copies = self.train[start : start + min(8, self.epoch)]
        return torch.cat([copies, self.new[start : start + 8 - len(copies)]])


@pytest.fixture
def images() -> Model:
    return Model(blobs(30, seed=0), blobs(16, seed=1))


@pytest.fixture
def metric(images) -> MemorizationMetric:
    torch.manual_seed(0)
    return MemorizationMetric(images.train, TinyEmbedder())


def test_rate_rises_with_the_copies_and_is_logged(images, metric, tmp_path):
    tensorboard = [
        TensorBoardStatsHandler(log_dir=str(tmp_path), iteration_log=False),
        TensorBoardImageHandler(log_dir=str(tmp_path)),
    ]
    handler = MemorizationHandler(
        metric, images.sample, batches=2, interval=2, handlers=tensorboard, output_dir=tmp_path / "pairs", pairs=3
    )
    trainer = Engine(images.learn)
    handler.attach(trainer)
    trainer.run([0], max_epochs=8)
    assert images.calls == 8, "two batches at epochs 2, 4, 6, 8"
    found = handler.summary
    assert len(found.memorized) == 16 and found.memorized.all() and found.rate == 1
    assert len(found.leaked) == 16 and found.auc > 0.9

    log = EventAccumulator(str(tmp_path)).Reload()
    rate = [(event.step, event.value) for event in log.Scalars("memorized_rate")]
    assert [step for step, _ in rate] == [2, 4, 6, 8]
    assert [value for _, value in rate] == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=0.07)
    for low, high, (_, value) in zip(log.Scalars("memorized_rate_low"), log.Scalars("memorized_rate_high"), rate):
        assert low.value <= value <= high.value
    assert {"memorization_auc", "leaked_subjects"} <= set(log.Tags()["scalars"]) and log.Tags()["images"]
    # a row: generated, training image, difference; images are (x, y) and stand upright in a picture
    picture = np.asarray(Image.open(tmp_path / "pairs" / "worst_pairs_epoch=8.png"))
    assert picture.shape == (3 * 40, 3 * 32)
    assert np.abs(picture[:, :32].astype(int) - picture[:, 32:64]).mean() < 3 and picture[:, 64:].mean() < 3


def test_a_clean_model_trains_on_and_a_copying_one_is_stopped(images, metric, caplog):
    ended = Engine(images.learn)
    MemorizationHandler(metric, images.sample, batches=2, stop_above=0.2).attach(ended)
    ended.run([0], max_epochs=12)
    assert 3 <= ended.state.epoch <= 7 and "copies, more than 20.0%" in caplog.text
    clean = Model(images.new, images.new)
    trainer = Engine(clean.learn)
    MemorizationHandler(metric, clean.sample, batches=2, stop_above=0.2).attach(trainer)
    trainer.run([0], max_epochs=3)
    assert trainer.state.epoch == 3


def test_each_measurement_stands_for_itself(images, metric):
    """The copies of an earlier epoch must not count again."""
    handler = MemorizationHandler(metric, lambda: images.new[:8])
    trainer = Engine(lambda engine, batch: None)
    handler.attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: counts.append(len(handler.summary.score)))
    counts: list[int] = []
    trainer.run([0], max_epochs=3)
    assert counts == [8, 8, 8]


def test_embeddings_have_no_picture_and_a_rate(tmp_path):
    reference = unit_vectors(60, seed=9)
    handler = MemorizationHandler(MemorizationMetric(reference), lambda: near(reference[:10]), output_dir=tmp_path)
    trainer = Engine(lambda engine, batch: None)
    handler.attach(trainer)
    trainer.run([0], max_epochs=1)
    assert handler.validator.state.metrics["memorized_rate"] == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [{"batches": 0}, {"interval": 0}, {"pairs": 0}, {"stop_above": 1.0}])
def test_errors_name_the_argument(metric, arguments):
    with pytest.raises(ValueError, match=rf"{next(iter(arguments))}.*{next(iter(arguments.values()))}"):
        MemorizationHandler(metric, lambda: torch.zeros(1), **arguments)


def test_the_example_watches_a_diffusion_model(tmp_path):
    """configs/watch_training.yaml, all of it but for the length."""
    small = {"epochs": 2, "iterations": 2, "interval": 1, "samples": 6, "timesteps": 20, "sampling_steps": 3}
    arguments = [word for key, value in small.items() for word in (f"--{key}", str(value))]
    result = run_config("watch_training.yaml", tmp_path, "--output_dir", str(tmp_path / "out"), *arguments)
    assert result.returncode == 0, result.stderr
    log = EventAccumulator(str(tmp_path / "out")).Reload()
    assert [event.step for event in log.Scalars("memorized_rate")] == [1, 2]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [
        "worst_pairs_epoch=1.png",
        "worst_pairs_epoch=2.png",
    ]


@pytest.mark.slow
def test_the_example_in_python_runs(tmp_path):
    script = (ROOT / "docs" / "watch_training.py").read_text()
    short = script.replace("timesteps=1000", "timesteps=20").replace("set_timesteps(25)", "set_timesteps(3)")
    short = short.replace("interval=5", "interval=1").replace("16 * 40", "16")
    assert short.count("=20)") == 3
    module: dict = {"__file__": str(ROOT / "docs" / "watch_training.py"), "__name__": "example"}
    exec(compile(short, "watch_training.py", "exec"), module)  # our own file
    assert module["main"](str(tmp_path), epochs=1).state.epoch == 1
    assert (tmp_path / "worst_pairs_epoch=1.png").is_file()


@pytest.mark.filterwarnings("ignore")  # mlflow's own, of its database layer
def test_mlflow_gets_the_rates(images, metric, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    uri = f"sqlite:///{tmp_path}/runs.db"
    logger = MLFlowHandler(tracking_uri=uri, experiment_name="watch", iteration_log=False, close_on_complete=True)
    trainer = Engine(images.learn)
    MemorizationHandler(metric, images.sample, batches=2, handlers=[logger]).attach(trainer)
    trainer.run([0], max_epochs=1)
    client = mlflow.MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("watch").experiment_id])
    assert "memorized_rate" in runs[0].data.metrics and "memorization_auc" in runs[0].data.metrics
