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

import subprocess
import sys

import numpy as np
import pytest
import torch
from heads import copy, head
from helpers import ROOT, TinyEmbedder, blobs, near, read, unit_vectors
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.handlers import IgniteMetricHandler
from scripts.decision.rates import benjamini_hochberg
from scripts.handlers import MemorizationHandler
from scripts.metrics import MemorizationMetric
from scripts.similarity.verification import Verifier


@pytest.fixture
def reference() -> torch.Tensor:
    return unit_vectors(60, seed=9)


@pytest.fixture
def new() -> torch.Tensor:
    return unit_vectors(30, seed=4)


def test_copies_are_counted_and_new_ones_are_not(reference, new):
    metric = MemorizationMetric(reference)
    copies = torch.tensor([3, 17, 40, 41])
    metric(torch.cat([new, near(reference[copies])]))
    found = metric.summary()
    assert found.memorized.tolist() == [False] * 30 + [True] * 4
    assert found.reference[30:].tolist() == copies.tolist() and found.subject[30:].tolist() == ["3", "17", "40", "41"]
    assert metric.aggregate().item() == pytest.approx(4 / 34) and found.ci95[0] < 4 / 34 < found.ci95[1]
    assert sorted(found.leaked) == ["17", "3", "40", "41"]
    np.testing.assert_allclose(found.q_value, benjamini_hochberg(found.p_value))
    assert (found.memorized == (found.q_value <= 0.05)).all()


def test_score_is_that_of_a_loop(reference, new):
    metric = MemorizationMetric(reference)
    metric(new)
    expected = [max(float(np.dot(q, r)) for r in reference.numpy()) for q in new.numpy()]
    np.testing.assert_allclose(metric.summary().score, expected, atol=1e-6)


def test_batches_make_no_difference_and_reset_forgets(reference, new):
    data = torch.cat([new, near(reference[:5])])
    metric = MemorizationMetric(reference)
    metric(data)
    whole = metric.summary()
    metric.reset()
    for part in data.split(4):
        metric(part)
    np.testing.assert_allclose(metric.summary().p_value, whole.p_value, rtol=1e-9)
    metric.reset()
    metric(new)
    assert metric.aggregate() == 0
    metric.reset()
    with pytest.raises(ValueError, match="none since the last reset"):
        metric.aggregate()


def test_images_of_one_subject_are_one_candidate(reference, new):
    """Two scans of each person: a copy has two near images and yet one best subject, so it is still called."""
    twice = torch.cat([reference, near(reference, seed=8, distance=0.01)])
    ids = [f"s{i:02d}" for i in range(60)] * 2
    copies = near(reference[:4])
    metric = MemorizationMetric(twice, subject_ids=ids)
    metric(torch.cat([new, copies]))
    found = metric.summary()
    assert found.memorized[30:].all() and found.leaked == ids[:4]
    blind = MemorizationMetric(twice)
    blind(torch.cat([new, copies]))
    assert not blind.summary().memorized.any()


def test_a_holdout_is_the_null_where_it_is_given(reference, new):
    metric = MemorizationMetric(reference, holdout=unit_vectors(40, seed=3))
    assert metric.null.correction == 1 and len(metric.null.statistic) == 40
    metric(torch.cat([new, near(reference[:2])]))
    assert metric.summary().memorized.tolist() == [False] * 30 + [True] * 2


def test_whole_set_that_is_nearer_has_a_higher_auc_without_a_single_copy(reference, new):
    metric = MemorizationMetric(reference)
    metric(new)
    level = metric.summary().auc
    metric.reset()
    metric(near(reference[:30], distance=0.2))
    nearer = metric.summary()
    assert level is not None and nearer.auc is not None
    assert 0.3 < level < 0.7 < nearer.auc and nearer.auc_ci95[0] > 0.5


def test_too_few_subjects_leave_no_null(reference):
    metric = MemorizationMetric(reference[:4])
    metric(reference[:3])
    found = metric.summary()
    assert found.p_value.tolist() == [1, 1, 1] and found.rate == 0 and found.auc is None


def test_moved_copies_are_aligned_where_there_are_images():
    torch.manual_seed(0)
    train, embedder = blobs(30, seed=0), TinyEmbedder().train()
    metric = MemorizationMetric(train, embedder, verifier=Verifier())
    copies = torch.flip(train[[4, 9]], dims=[3]).roll(1, 2)
    metric(torch.cat([blobs(8, seed=1), train[[20]], copies]))
    found = metric.summary()
    assert embedder.training, "the embedder's mode is the caller's"
    assert found.memorized[8] and found.subject[8] == "20" and not found.memorized[:8].any()
    assert metric.images is not None and metric.images.shape == (30, 32, 40)


@pytest.mark.parametrize("scale", [lambda x: 2 * x - 1, lambda x: 255 * x, lambda x: x.where(x > 0.2, torch.nan)])
def test_images_of_another_range_are_refused(scale):
    """The commonest slip in a training loop; the rate would be a quiet wrong one."""
    train, embedder = blobs(12, seed=0), TinyEmbedder()
    with pytest.raises(ValueError, match=r"reference: expected images in \[0, 1\], found (-1|0|nan) to"):
        MemorizationMetric(scale(train), embedder)
    metric = MemorizationMetric(train, embedder)
    with pytest.raises(ValueError, match=r"generated: expected images in \[0, 1\], found"):
        metric(scale(blobs(3, seed=1)))


def test_integers_are_no_images_in_0_to_1_even_where_their_values_are():
    train, embedder = (blobs(12, seed=0) > 0.5).to(torch.uint8), TinyEmbedder()
    with pytest.raises(ValueError, match=r"reference: .*found torch.uint8; .* value_range=\(0, 255\)"):
        MemorizationMetric(train, embedder)
    metric = MemorizationMetric(train.float(), embedder)
    with pytest.raises(ValueError, match="generated: .*found torch.uint8"):
        metric(train[:2])


@pytest.mark.parametrize(
    ("value_range", "given"),
    [((-1, 1), lambda x: 2 * x - 1), ((0, 255), lambda x: (255 * x).to(torch.uint8)), ([0, 1000], lambda x: 1000 * x)],
)
def test_a_range_scales_all_images_alike(value_range, given):
    torch.manual_seed(0)
    train, real, new, embedder = blobs(30, seed=0), blobs(8, seed=2), blobs(8, seed=1), TinyEmbedder()
    low, high = value_range
    metric = MemorizationMetric(given(train), embedder, holdout=given(real), value_range=value_range)
    metric(given(torch.cat([new, train[:3]])))
    by_hand = [(given(x).double() - low) / (high - low) for x in (train, real, torch.cat([new, train[:3]]))]
    expected = MemorizationMetric(by_hand[0], embedder, holdout=by_hand[1])
    expected(by_hand[2])
    np.testing.assert_allclose(metric.summary().score, expected.summary().score, atol=2e-3)  # kept as float16
    np.testing.assert_allclose(metric.null.statistic, expected.null.statistic, atol=2e-3)
    assert metric.summary().reference.tolist()[8:] == [0, 1, 2] and metric.images.max() <= 1


def test_images_outside_of_their_range_or_in_a_corner_of_it_are_refused():
    train, embedder = 255 * blobs(12, seed=0), TinyEmbedder()
    with pytest.raises(
        ValueError, match=r"reference: expected images in \[-1, 1\], found 0 to 2\d\d; give .* value_range"
    ):
        MemorizationMetric(train, embedder, value_range=(-1, 1))
    with pytest.raises(ValueError, match=r"reference: .* in \[0, 255\], found 0 to .*, next to nothing of it; give"):
        MemorizationMetric(train / 255, embedder, value_range=(0, 255))
    metric = MemorizationMetric(train, embedder, value_range=(0, 255))
    with pytest.raises(ValueError, match="generated: .* next to nothing of it"):
        metric(train[:2] / 255)
    metric(torch.zeros(2, 1, 32, 40))  # a model that gives nothing copies nobody
    assert metric.aggregate() == 0


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("labels", [None, [None] * 11, [torch.zeros(1)] * 11])
def test_a_list_of_images_is_a_batch_and_one_search(kind, labels):
    """As MONAI's engines hand over what they decollated; with labels, without, or with those that are missing."""
    torch.manual_seed(0)
    train, embedder = blobs(30, seed=0), TinyEmbedder()
    data = torch.cat([blobs(8, seed=1), train[:3]])
    calls: list[int] = []
    embedder.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    metric = MemorizationMetric(train, embedder)
    metric(data)
    expected, before = metric.summary(), len(calls)
    metric.reset()
    metric(kind([MetaTensor(data[0]), data[1].numpy(), *data[2:]]), labels)
    assert calls[before:] == [11]
    for name in ("score", "p_value", "reference"):
        np.testing.assert_array_equal(getattr(metric.summary(), name), getattr(expected, name))
    metric.reset()
    metric(MetaTensor(data), labels)
    np.testing.assert_array_equal(metric.summary().p_value, expected.p_value)


def test_a_list_of_different_shapes_or_of_nothing_is_an_error(reference):
    metric = MemorizationMetric(reference)
    with pytest.raises(ValueError, match=r"a list of images of one shape, found \[\(3,\), \(12,\)\]"):
        metric([reference[0], reference[0, :3]])
    with pytest.raises(ValueError, match="found none"):
        metric([])


def test_a_summary_is_made_once_and_anew_for_other_images(reference, new):
    metric = MemorizationMetric(reference)
    metric(new)
    first = metric.summary()
    assert metric.summary() is first
    metric(near(reference[:4]))
    assert metric.summary().rate == pytest.approx(4 / 34) and first.rate == 0


def test_embedder_is_in_evaluation_mode_and_gives_no_gradient():
    torch.manual_seed(0)
    embedder = TinyEmbedder().train()
    train = blobs(12, seed=0)
    metric = MemorizationMetric(train, embedder)
    with torch.no_grad():
        np.testing.assert_allclose(metric.vectors, embedder.eval()(train), atol=1e-6)


def test_it_is_the_key_metric_of_an_evaluator(reference, new):
    engine = Engine(lambda engine, batch: batch)
    engine.state.metric_details = {}
    handler = IgniteMetricHandler(MemorizationMetric(reference), output_transform=lambda batch: (batch, None))
    handler.attach(engine, "memorized_rate")
    engine.run([new, near(reference[:10])], max_epochs=2)
    assert engine.state.metrics["memorized_rate"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 4}, "k must be at least 5, got 4"),
        ({"fdr": 1.0}, r"fdr must be in \(0, 1\), got 1.0"),
        ({"p_value": "exact"}, "p_value must be tail or rank, got 'exact'"),
        ({"subject_ids": ["a"]}, "one subject id for each of the 60 images of reference, got 1"),
        ({"holdout": torch.zeros(0, 12)}, "holdout must hold at least one image"),
        ({"verifier": Verifier()}, "needs an embedder"),
        ({"value_range": (0, 1)}, r"value_range: .* and no embedder; leave it out for embeddings"),
        ({"embedder": TinyEmbedder(), "value_range": (1, 1)}, r"value_range: .* the highest .*found \(1, 1\)"),
        ({"embedder": TinyEmbedder()}, r"volumes \(N, 1, X, Y, Z\), got \(60, 12\)"),
    ],
)
def test_errors_say_what_was_expected(reference, arguments, message):
    with pytest.raises(ValueError, match=message):
        MemorizationMetric(reference, **arguments)


def test_images_for_a_metric_of_embeddings_are_an_error(reference):
    with pytest.raises(ValueError, match="no embedder is given, got"):
        MemorizationMetric(reference)(torch.zeros(2, 1, 32, 40))


TWO_PROCESSES = """
import sys, torch, ignite.distributed as idist
sys.path.insert(0, {tests!r}); sys.path.insert(0, {root!r})
from helpers import near, unit_vectors
from ignite.engine import Engine
from scripts import MemorizationMetric, MemorizationMetricHandler, MemorizationMetricsSaver

def job(local_rank):
    rank = idist.get_rank()
    reference = unit_vectors(60, seed=9)
    data = torch.cat([unit_vectors(30, seed=4), near(reference[:7])])
    alone = MemorizationMetric(reference)
    metric = MemorizationMetric(reference)
    metric(data[:20] if rank == 0 else data[20:])   # unequal shares
    found = metric.summary()
    alone.get_buffer = lambda: alone._compute_tensor(data)
    expected = alone.summary()
    torch.testing.assert_close(found.p_value, expected.p_value, rtol=1e-9, atol=0)
    assert found.rate == expected.rate == 7 / 37 and found.leaked == expected.leaked, found
    torch.testing.assert_close(found.ci95, expected.ci95, rtol=1e-9, atol=0)
    engine = Engine(lambda engine, batch: batch)
    MemorizationMetricHandler(metric).attach(engine, "rate")
    MemorizationMetricsSaver(sys.argv[1]).attach(engine)
    engine.run([list(data[:20] if rank == 0 else data[20:])], max_epochs=1)
    assert abs(engine.state.metrics["rate"] - expected.rate) < 1e-6
    print("agrees", rank, flush=True)

if __name__ == "__main__":
    with idist.Parallel(backend="gloo", nproc_per_node=2) as parallel:
        parallel.run(job)
"""


def test_two_processes_decide_as_one(tmp_path):
    text = TWO_PROCESSES.format(tests=str(ROOT / "tests"), root=str(ROOT))
    script = tmp_path / "two.py"
    script.write_text(text)
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("agrees") == 2
    rows = read(tmp_path / "rate_raw.csv")
    assert [row["memorized"] for row in rows] == ["False"] * 30 + ["True"] * 7
    assert [row["reference"] for row in rows[30:]] == [str(number) for number in range(7)]


def test_copies_of_volumes_are_counted_and_shown():
    class Pooled(torch.nn.Module):
        def forward(self, volumes: torch.Tensor) -> torch.Tensor:
            small = torch.nn.functional.avg_pool3d(volumes.float(), 8).flatten(1)
            return torch.nn.functional.normalize(small - small.mean(1, keepdim=True))

    train = torch.from_numpy(np.stack([head(seed) for seed in range(14)]))[:, None]
    metric = MemorizationMetric(train, Pooled(), k=5)
    made = [copy(head(3), 2, turn=3.0), head(100), copy(head(8), 4, turn=3.0)]
    generated = torch.from_numpy(np.stack(made))[:, None]
    handler = MemorizationHandler(metric, lambda: generated, pairs=2)
    trainer = Engine(lambda engine, batch: 0.0)
    handler.attach(trainer)
    trainer.run([0], max_epochs=1)
    found = handler.summary
    assert found.reference[[0, 2]].tolist() == [3, 8] and found.score[[0, 2]].min() > 0.9 > found.score[1]
    assert found.p_value[[0, 2]].max() < found.p_value[1]
    # a row: generated, training volume and difference, the axial slice in the middle
    assert handler._worst_pairs(found).shape == (2 * 56, 3 * 48)
