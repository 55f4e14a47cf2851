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
from helpers import ROOT, TinyEmbedder, blobs, near, unit_vectors
from ignite.engine import Engine
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
from scripts.metrics import MemorizationMetric

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
    print("agrees", rank, flush=True)

if __name__ == "__main__":
    with idist.Parallel(backend="gloo", nproc_per_node=2) as parallel:
        parallel.run(job)
"""


def test_two_processes_decide_as_one(tmp_path):
    text = TWO_PROCESSES.format(tests=str(ROOT / "tests"), root=str(ROOT))
    script = tmp_path / "two.py"
    script.write_text(text)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("agrees") == 2


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
