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

from scripts.networks import DeepSSIM, GeM


def tiny(**more) -> DeepSSIM:
    torch.manual_seed(0)
    return DeepSSIM(**{"channels": (4, 6, 8, 10), "hidden": 12, "embedding_dim": 16, **more}).eval()


@pytest.mark.parametrize(
    ("dims", "shape"), [(2, (3, 1, 96, 112)), (2, (1, 1, 33, 47)), (2, (2, 1, 7, 7)), (3, (2, 1, 24, 33, 20))]
)
def test_embeddings_are_unit_vectors_for_any_field(dims, shape):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        got = tiny(spatial_dims=dims)(x)
    assert got.shape == (shape[0], 16) and got.dtype == torch.float32
    np.testing.assert_allclose(got.norm(dim=1), 1, atol=1e-6)


def test_an_embedding_depends_on_its_image_alone():
    x = torch.rand((4, 1, 40, 33), generator=torch.Generator().manual_seed(2))
    network = tiny()
    with torch.no_grad():
        together, alone = network(x), torch.cat([network(image[None]) for image in x])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-4


def test_constant_and_black_images_have_a_finite_embedding():
    with torch.no_grad():
        got = tiny()(torch.stack([torch.zeros(1, 20, 20), torch.ones(1, 20, 20), torch.full((1, 20, 20), 1e4)]))
    np.testing.assert_allclose(got.norm(dim=1), 1, atol=1e-6)


def test_bfloat16_images_still_give_float32_unit_vectors():
    x = torch.rand((2, 1, 32, 32), generator=torch.Generator().manual_seed(3))
    network = tiny()
    with torch.no_grad():
        exact = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            got = network(x)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.norm(dim=1), 1, atol=1e-6)
    assert 0 < (got - exact).abs().max() < 0.05


@pytest.mark.parametrize("dims", [2, 3])
# torch 2.13 deprecates TorchScript; MONAI's ckpt_export still uses it
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_gives_the_same_embeddings(dims):
    network = tiny(spatial_dims=dims)
    x = torch.rand((2, 1, 24, 30, 20)[: dims + 2], generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(network)(x), network(x))


def test_every_parameter_learns():
    network = tiny(dropout=0.1).train()
    network(torch.rand(4, 1, 40, 40))[:, 0].sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not idle


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 3, 5, 4, 2)])
def test_gem_equals_the_generalised_mean(shape, p):
    x = np.random.default_rng(0).uniform(0.1, 2, shape)
    expected = (x**p).mean(tuple(range(2, x.ndim))) ** (1 / p)
    np.testing.assert_allclose(GeM(p)(torch.from_numpy(x)).detach(), expected, rtol=1e-5)


def test_gem_goes_from_the_mean_to_the_maximum():
    x = torch.rand((2, 3, 6, 5), generator=torch.Generator().manual_seed(5)) + 0.5
    pooled = torch.stack([GeM(p)(x) for p in (1.0, 2.0, 5.0, 20.0, 100.0)]).detach()
    torch.testing.assert_close(pooled[0], x.mean((2, 3)))
    assert (pooled[1:] > pooled[:-1]).all()
    torch.testing.assert_close(pooled[-1], x.amax((2, 3)), rtol=0.04, atol=0)
    assert (pooled[-1] <= x.amax((2, 3))).all()
    torch.testing.assert_close(GeM(3.0)(torch.full((1, 1, 4, 4), 0.7)).detach(), torch.tensor([[0.7]]))  # a constant
    torch.testing.assert_close(GeM(3.0)(torch.full((1, 1, 4, 4), -5.0)).detach(), torch.tensor([[1e-4]]))  # eps


def test_gem_computes_in_float32():
    x = torch.full((1, 1, 8, 8), 0.01, dtype=torch.bfloat16)
    got = GeM(3.0)(x)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.detach(), x[..., 0, 0].float())


@pytest.mark.parametrize(
    ("shape", "sentence"), [((1, 1, 8, 8, 8), "to conv2d"), ((1, 3, 32, 32), r"to have 1 channels, but got 3 channels")]
)
def test_images_of_another_kind_are_an_error(shape, sentence):
    with pytest.raises(RuntimeError, match=sentence):
        tiny()(torch.zeros(shape))
