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

import runpy

import numpy as np
import pytest
import scripts
import torch
from helpers import ROOT, TinyEmbedder, blobs, near, read, run_config, unit_vectors
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.handlers import MetricsSaver, MLFlowHandler, TensorBoardImageHandler, TensorBoardStatsHandler, from_engine
from PIL import Image
from scripts.handlers import MemorizationHandler, MemorizationMetricHandler, MemorizationMetricsSaver
from scripts.images.datalists import find_images
from scripts.metrics import MemorizationMetric
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


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


@pytest.mark.parametrize("decollate", [True, False])
def test_an_evaluator_without_labels_records_the_rate_and_a_row_for_each_image(tmp_path, decollate):
    """SupervisedEvaluator as MONAI documents it, with MONAI's own MetricsSaver."""
    reference = unit_vectors(60, seed=9)
    generated = torch.cat([unit_vectors(9, seed=4), near(reference[[3, 17, 40]])])
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset([{"image": image} for image in generated]), batch_size=5),
        network=torch.nn.Identity(),
        key_val_metric={"copies": MemorizationMetricHandler(MemorizationMetric(reference))},
        val_handlers=[MetricsSaver(str(tmp_path), metric_details="*")],
        decollate=decollate,
    )
    evaluator.run()
    assert evaluator.state.metrics == {"copies": pytest.approx(0.25)}
    assert sorted(evaluator.state.memorization["copies"].leaked) == ["17", "3", "40"]
    rows = read(tmp_path / "copies_raw.csv")
    assert [float(row["class0"]) for row in rows] == [0] * 9 + [1] * 3  # memorized
    assert [float(row["class4"]) for row in rows[9:]] == [3, 17, 40]  # reference
    summary = evaluator.state.memorization["copies"]
    numbers = [[float(row[f"class{k}"]) for k in (1, 2, 3)] for row in rows]
    np.testing.assert_allclose(numbers, np.transpose([summary.q_value, summary.p_value, summary.score]), atol=6e-5)


@pytest.mark.parametrize(
    ("output", "transform"),
    [
        (lambda x: {"pred": x}, from_engine("pred")),
        (lambda x: {"pred": x, "label": None}, from_engine(["pred", "label"])),
        (lambda x: [{"pred": y} for y in x], from_engine("pred")),
        (lambda x: [{"pred": y, "label": None} for y in x], from_engine(["pred", "label"])),
        (lambda x: [{"pred": y, "label": torch.zeros(1)} for y in x], from_engine(["pred", "label"])),
        (lambda x: {"pred": x}, lambda output: output["pred"]),
        (lambda x: {"pred": x}, None),
        (lambda x: [{"pred": y} for y in x], None),
        (lambda x: x, None),
        (list, None),
        (lambda x: (x, None), None),
    ],
)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_whatever_an_engine_hands_over_gives_the_same_rate(output, transform, count):
    """Two images are no pair of images and labels."""
    reference = unit_vectors(60, seed=9)
    generated = near(reference[:count])
    arguments = {} if transform is None else {"output_transform": transform}
    engine = Engine(lambda engine, batch: output(batch))
    MemorizationMetricHandler(MemorizationMetric(reference), **arguments).attach(engine, "copies")
    engine.run([generated, generated], max_epochs=1)
    assert engine.state.metrics["copies"] == 1
    assert engine.state.memorization["copies"].reference.tolist() == 2 * list(range(count))


def test_rows_have_names_and_subjects_that_no_spreadsheet_runs(tmp_path):
    reference = unit_vectors(60, seed=9)
    handler = MemorizationMetricHandler(reference=reference, subject_ids=[f"=s{number:02d}" for number in range(60)])
    engine = Engine(lambda engine, batch: batch["image"])
    handler.attach(engine, "copies")
    MemorizationMetricsSaver(str(tmp_path / "numbered")).attach(engine)
    named = MemorizationMetricsSaver(str(tmp_path / "named"), batch_transform=lambda batch: batch["meta"])
    named.attach(engine)
    MemorizationMetricsSaver(str(tmp_path / "none"), metric_details=None).attach(engine)
    images = torch.cat([unit_vectors(4, seed=4), near(reference[[3, 17]])])
    meta = [{"filename_or_obj": f"sample_{number}.png"} for number in range(6)]
    engine.run([{"image": images[:4], "meta": meta[:4]}, {"image": images[4:], "meta": meta[4:]}], max_epochs=1)
    rows = read(tmp_path / "named" / "copies_raw.csv")
    assert list(rows[0]) == ["filename", "memorized", "subject", "score", "p_value", "q_value", "reference"]
    assert [row["filename"] for row in rows] == [entry["filename_or_obj"] for entry in meta]
    assert [row["memorized"] for row in rows] == ["False"] * 4 + ["True"] * 2
    assert [row["subject"] for row in rows[4:]] == ["'=s03", "'=s17"]
    assert [float(row["q_value"]) for row in rows] == engine.state.memorization["copies"].q_value.tolist()
    assert [row["filename"] for row in read(tmp_path / "numbered" / "copies_raw.csv")] == list("012345")
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["metrics.csv"]
    with pytest.raises(ValueError, match="copies: expected a file name for each of the 6 images, found 4; check batch"):
        engine.run([{"image": images, "meta": meta[:4]}], max_epochs=1)


def test_a_handler_needs_a_metric_or_the_arguments_of_one(metric):
    with pytest.raises(ValueError, match="as reference and embedder, found neither"):
        MemorizationMetricHandler()
    with pytest.raises(ValueError, match="found both"):
        MemorizationMetricHandler(metric, k=6)


def test_details_are_left_out_where_nobody_wants_them(metric, images):
    engine = Engine(lambda engine, batch: batch)
    MemorizationMetricHandler(metric, save_details=False).attach(engine, "copies")
    engine.run([images.new], max_epochs=1)
    assert engine.state.metrics["copies"] == 0 and not hasattr(engine.state, "memorization")


def test_samples_in_the_models_own_range_are_measured_and_shown(images, tmp_path):
    torch.manual_seed(0)
    metric = MemorizationMetric(2 * images.train - 1, TinyEmbedder(), value_range=(-1, 1))
    handler = MemorizationHandler(
        metric, lambda: 2 * images.train[:8] - 1, handlers=[MemorizationMetricsSaver(str(tmp_path))], pairs=2
    )
    trainer = Engine(images.learn)
    handler.attach(trainer)
    trainer.run([0], max_epochs=1)
    assert handler.summary.rate == 1 and len(read(tmp_path / "memorized_rate_raw.csv")) == 8
    generated, reference, difference = np.split(handler._worst_pairs(handler.summary), 3, axis=1)
    shown = images.train[:8, 0].numpy().transpose(0, 2, 1)
    for picture in np.split(generated, 2):
        assert np.abs(shown - picture).max(axis=(1, 2)).min() < 1e-6
    assert difference.max() < 0.05


def test_the_example_watches_a_diffusion_model(tmp_path):
    """configs/watch_training.yaml, all of it but for the length."""
    small = {"epochs": 2, "iterations": 2, "interval": 1, "samples": 6, "timesteps": 20, "sampling_steps": 3}
    arguments = [word for key, value in small.items() for word in (f"--{key}", str(value))]
    result = run_config("watch_training.yaml", tmp_path, "--output_dir", str(tmp_path / "out"), *arguments)
    assert result.returncode == 0, result.stderr
    log = EventAccumulator(str(tmp_path / "out")).Reload()
    assert [event.step for event in log.Scalars("memorized_rate")] == [1, 2]
    rows = read(tmp_path / "out" / "memorized_rate_raw.csv")
    assert len(rows) == 6 and all(row["subject"].startswith("sub-") for row in rows)
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


def test_the_tutorials_loop_is_watched_and_its_samples_have_rows(tmp_path, monkeypatch):
    """docs/watch_training_ddpm.py, all of it at toy size."""
    example = runpy.run_path(str(ROOT / "docs" / "watch_training_ddpm.py"))
    monkeypatch.setattr(scripts, "find_images", lambda folder: find_images(folder)[:16])  # two a subject
    toy = {"channels": (4, 4, 4), "attention": (False, False, False), "head_channels": (0, 0, 4), "groups": 2}
    trainer = example["main"](str(tmp_path), images=12, epochs=1, interval=1, timesteps=2, samples=3, **toy)
    assert trainer.state.iteration == 1
    watched, final = (read(tmp_path / name / "memorized_rate_raw.csv") for name in ("watch", "final"))
    assert len(watched) == len(final) == 3
    assert {row["subject"] for row in watched + final} <= {f"sub-{number:02d}" for number in range(1, 7)}
    assert (tmp_path / "watch" / "worst_pairs_epoch=1.png").is_file()


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
