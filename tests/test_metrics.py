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

from scripts.metrics import MemorizationMetric, similarity_to_nearest


def unit_vectors(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 6, generator=generator))


@pytest.fixture
def query() -> torch.Tensor:
    return unit_vectors(9, seed=0)


@pytest.fixture
def reference() -> torch.Tensor:
    return unit_vectors(31, seed=1)


class Embedder(torch.nn.Module):
    """Unit vectors that differ between training and evaluation mode, as dropout makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(16, 6)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(self.dropout(self.linear(images.flatten(1))))


def test_similarity_equals_a_loop(query, reference):
    expected = [[max(float(np.dot(q, r)) for r in reference.numpy())] for q in query.numpy()]
    np.testing.assert_allclose(similarity_to_nearest(query, reference), expected, atol=1e-6)


@pytest.mark.parametrize("block", [1, 4, 30, 31, 32])
def test_similarity_does_not_depend_on_block(query, reference, block):
    torch.testing.assert_close(similarity_to_nearest(query, reference, block), similarity_to_nearest(query, reference))


def test_references_are_their_own_nearest_and_more_references_never_lower_it(query, reference):
    torch.testing.assert_close(similarity_to_nearest(reference, reference), torch.ones(31, 1))
    fewer = similarity_to_nearest(query, reference[:10])
    assert (similarity_to_nearest(query, reference) >= fewer - 1e-6).all()
    torch.testing.assert_close(
        similarity_to_nearest(query, torch.cat([reference, -reference, query])), torch.ones(9, 1)
    )


def test_one_reference_and_no_query(query, reference):
    torch.testing.assert_close(similarity_to_nearest(query[:1], -query[:1]), torch.full((1, 1), -1.0))
    assert similarity_to_nearest(query[:0], reference).shape == (0, 1)


@pytest.mark.parametrize("given", [(9, 5), (9, 6, 1), (6,)])
def test_errors_name_the_shapes(reference, given):
    with pytest.raises(ValueError, match=r"must be \(Q, D\) and \(R, D\).*" + str(given[-1])):
        similarity_to_nearest(torch.zeros(given), reference)
    with pytest.raises(ValueError, match=r"R > 0, got .* \(0, 6\)"):
        similarity_to_nearest(torch.zeros(2, 6), reference[:0])


def test_metric_over_batches_is_that_of_all_images_and_reset_forgets(query, reference):
    expected = similarity_to_nearest(query, reference)
    metric = MemorizationMetric(reference)
    for part in query.split(4):
        metric(part)
    torch.testing.assert_close(metric.aggregate(), expected.mean(0))
    torch.testing.assert_close(metric.aggregate("none"), expected)
    torch.testing.assert_close(metric.aggregate("sum"), expected.sum())
    metric.reset()
    metric(query[:1])
    torch.testing.assert_close(metric.aggregate(), expected[0])


def test_reduction_is_an_argument_and_one_batch_returns_each_image(query, reference):
    metric = MemorizationMetric(reference, reduction="none")
    torch.testing.assert_close(metric(query), similarity_to_nearest(query, reference))
    assert metric.aggregate().shape == (9, 1)


def test_images_go_through_the_embedder_in_evaluation_mode_without_a_gradient():
    torch.manual_seed(0)
    embedder = Embedder().train()
    images = torch.rand(5, 1, 4, 4)
    metric = MemorizationMetric(images, embedder)
    assert embedder.training and not metric.reference.requires_grad
    copies = metric(torch.cat([images[2:3], 1 - images[2:3]]))
    assert embedder.training and not copies.requires_grad
    assert copies[0].item() == pytest.approx(1, abs=1e-6) and copies[1].item() < 0.999
    with torch.no_grad():
        expected = similarity_to_nearest(embedder.eval()(1 - images[2:3]), embedder(images))
    torch.testing.assert_close(copies[1:], expected)


def test_embedder_in_evaluation_mode_stays_there():
    embedder = Embedder().eval()
    MemorizationMetric(torch.rand(3, 1, 4, 4), embedder)(torch.rand(2, 1, 4, 4))
    assert not embedder.training


def test_aggregate_without_images_is_an_error(query, reference):
    metric = MemorizationMetric(reference)
    with pytest.raises(ValueError, match="none since the last reset"):
        metric.aggregate()
    metric(query)
    metric.reset()
    with pytest.raises(ValueError, match="none since the last reset"):
        metric.aggregate()
