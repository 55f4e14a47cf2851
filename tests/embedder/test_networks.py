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
from heads import head
from scipy.spatial.transform import Rotation
from scripts import component, load_weights
from scripts.embedder.networks import DeepSSIM, Posed, _similarity, local_normalize
from skimage.metrics import structural_similarity

SIZE = (32, 40)


def tiny(**more) -> DeepSSIM:
    torch.manual_seed(0)
    return DeepSSIM(**{"spatial_size": SIZE, "channels": (4, 6, 8), "hidden": 12, "embedding_dim": 16, **more}).eval()


def pictures(number: int, seed: int = 0, size: tuple[int, int] = SIZE) -> torch.Tensor:
    """Smooth random images (N, 1, H, W) in [0, 1] that are black at the border."""
    noise = torch.rand((number, 1, 6, 7), generator=torch.Generator().manual_seed(seed))
    inner = torch.nn.functional.interpolate(noise, [n - 12 for n in size], mode="bicubic").clamp(0, 1)
    return torch.nn.functional.pad(inner, [6] * 4)


def test_the_inner_product_of_normalised_images_follows_ssim():
    """Not equal to it, but of one order: against scikit-image, over images that differ more and more."""
    base, other = pictures(2, 3, (64, 72)).double().numpy()[:, 0]
    found, expected = [], []
    for share in np.linspace(0, 1, 8):
        mixed = (1 - share) * base + share * other
        pair = torch.from_numpy(np.stack([base, mixed])[:, None]).float()
        a, b = local_normalize(pair, torch.tensor(0.03**2))[:, 0, 3:-3, 3:-3].flatten(1)
        found.append(float(torch.nn.functional.cosine_similarity(a, b, dim=0)))
        expected.append(structural_similarity(base, mixed, data_range=1.0))
    assert found[0] == pytest.approx(1) and (np.diff(found) < 0).all() and (np.diff(expected) < 0).all()
    assert np.corrcoef(found, expected)[0, 1] > 0.98


def test_local_normalisation_is_of_mean_0_and_variance_1_and_ignores_gain_and_offset():
    image = torch.rand((1, 1, 30, 25), generator=torch.Generator().manual_seed(2))
    got = local_normalize(image, torch.tensor(1e-9), window=5)
    y, x = 11, 9
    window = image[0, 0, y - 2 : y + 3, x - 2 : x + 3]
    expected = (image[0, 0, y, x] - window.mean()) / window.std(correction=0)
    assert float(got[0, 0, y, x]) == pytest.approx(float(expected), rel=1e-4)
    inner = (..., slice(2, -2), slice(2, -2))
    again = local_normalize(0.3 * image + 0.4, torch.tensor(1e-9), window=5)
    torch.testing.assert_close(again[inner], got[inner], atol=1e-3, rtol=0)
    assert (local_normalize(torch.full((1, 1, 9, 9), 0.5), torch.tensor(1e-3), 3)[0, 0, 1:-1, 1:-1].abs() < 1e-3).all()


@pytest.mark.parametrize("size", [(96, 112), (32, 40), (10, 14)])
def test_embeddings_are_unit_vectors(size):
    x = torch.rand((3, 1, *size), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        got = tiny(spatial_size=size)(x)
    assert got.shape == (3, 16) and got.dtype == torch.float32
    np.testing.assert_allclose(got.norm(dim=1), 1, atol=1e-6)


@pytest.mark.parametrize("orientations", [1, 2, 4])
def test_a_mirrored_image_has_the_same_embedding(orientations):
    network, x = tiny(orientations=orientations), pictures(5)
    with torch.no_grad():
        upright = network(x)
        for axes in ((2,), (3,), (2, 3)):
            torch.testing.assert_close(network(x.flip(axes)), upright, atol=1e-5, rtol=0)
    assert (upright @ upright.T - torch.eye(5)).abs().max() < 0.999  # and other images have others


def test_an_embedding_depends_on_its_image_alone():
    x, network = pictures(4, 2), tiny()
    with torch.no_grad():
        together, alone = network(x), torch.cat([network(image[None]) for image in x])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-4


def test_constant_and_black_images_have_a_finite_embedding():
    with torch.no_grad():
        got = tiny()(torch.stack([torch.zeros(1, *SIZE), torch.ones(1, *SIZE), torch.full((1, *SIZE), 1e4)]))
    np.testing.assert_allclose(got.norm(dim=1), 1, atol=1e-6)


def test_bfloat16_images_still_give_float32_unit_vectors():
    x, network = pictures(6, 3), tiny(orientations=4)  # untrained, all orientations are about equally likely
    with torch.no_grad():
        exact = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            got = network(x)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.norm(dim=1), 1, atol=1e-6)
    assert 0 < (got - exact).abs().max() < 0.05


# torch 2.13 deprecates TorchScript; MONAI's ckpt_export still uses it
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_gives_the_same_embeddings():
    network, x = tiny(), pictures(2, 4)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(network)(x), network(x))
        torch.testing.assert_close(torch.jit.script(tiny_3d())(volumes(2)), tiny_3d()(volumes(2)))


def test_every_parameter_learns():
    network = tiny().train()
    embedding, estimate = network.embed(pictures(6))
    # the filter starts at zero: its earlier layers learn once its last one has moved
    torch.nn.init.ones_(network.filter[-2].weight)
    embedding, estimate = Posed(network)(pictures(6))
    (embedding[:, 0].sum() + estimate.coarse.sum() + estimate.scores[:, 0].sum()).backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not idle


def test_the_estimate_describes_what_was_followed():
    network, x = tiny(orientations=3), pictures(5)
    with torch.no_grad():
        embedding, estimate = network.embed(x)
        torch.testing.assert_close(embedding, network(x))
    assert estimate.scores.shape == (5, 4) and estimate.coarse.shape == (5, 4, 2, 3)
    assert estimate.chosen.shape == (5, 3) and estimate.refined.shape == (5, 3, 2, 3)
    torch.testing.assert_close(estimate.chosen, estimate.scores.argsort(1, descending=True)[:, :3])
    linear = estimate.coarse[..., :2].flatten(0, 1)  # a rotation times a scale
    scale = linear.det().sqrt()[:, None, None]
    torch.testing.assert_close(linear @ linear.mT, scale**2 * torch.eye(2), atol=1e-5, rtol=0)


def test_the_projection_becomes_the_principal_components():
    network, x = tiny(), pictures(40, 5)
    network.fit_projection(x)
    features = local_normalize(x, torch.tensor(0.03**2)).flatten(1)
    most = torch.linalg.svdvals(features)[:15].square().sum()  # 15 rows: the last number is the constant
    rows = network.projection.weight.detach()
    torch.testing.assert_close(rows @ rows.T, torch.eye(15), atol=1e-4, rtol=0)
    assert 0.97 * most < (features @ rows.T).square().sum() < 1.0001 * most  # the method is a randomised one
    before = tiny().projection.weight
    network = tiny()
    network.fit_projection(x[:4])  # fewer images than rows: the others stay
    torch.testing.assert_close(network.projection.weight[4:], before[4:])
    assert (network.projection.weight[:4] - before[:4]).abs().max() > 0.01


def test_the_constant_raises_all_cosines_alike():
    network, x = tiny(), pictures(4)
    with torch.no_grad():
        network.constant.fill_(0.0)
        plain = network(x)
        network.constant.fill_(0.5)
        raised = network(x)
    torch.testing.assert_close(raised @ raised.T, (plain @ plain.T + 0.25) / 1.25, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (1, 3, 32, 40), (2, 1, 40, 32)])
def test_images_of_another_kind_are_an_error(shape):
    with pytest.raises(ValueError, match=r"images: expected \(N, 1\) times \[32, 40\], found \[\d"):
        tiny()(torch.zeros(shape))


@pytest.mark.parametrize("size", [(31, 40), (32,), (32, 31, 32)])
def test_a_field_of_odd_size_is_an_error(size):
    with pytest.raises(ValueError, match="spatial_size: expected two or three even numbers, multiples of patch, found"):
        tiny(spatial_size=size)


def test_a_network_that_estimates_no_pose_is_an_error():
    with pytest.raises(ValueError, match="network_def Flatten: expected a network that estimates .*train_plain.yaml"):
        Posed(torch.nn.Flatten())


VOLUME = (24, 28, 20)


def tiny_3d(**more) -> DeepSSIM:
    return tiny(**{"spatial_size": VOLUME, "mirrored_axes": (0,), "patch": 4, "patch_features": 6, **more})


def volumes(number: int, seed: int = 0) -> torch.Tensor:
    """Smooth random volumes (N, 1, D, H, W) in [0, 1] that are black at the border."""
    noise = torch.rand((number, 1, 4, 4, 4), generator=torch.Generator().manual_seed(seed))
    inner = torch.nn.functional.interpolate(noise, [n - 8 for n in VOLUME], mode="trilinear").clamp(0, 1)
    return torch.nn.functional.pad(inner, [4] * 6)


def test_a_volume_is_a_unit_vector_and_its_mirror_image_the_same_one():
    network, x = tiny_3d(), volumes(4)
    with torch.no_grad():
        got, mirrored = network(x), network(x.flip(2))
    assert got.shape == (4, 16)
    torch.testing.assert_close(got.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(mirrored, got, atol=1e-5, rtol=0)
    assert (got @ got.T - torch.eye(4)).abs().max() < 0.999


def test_local_normalisation_of_a_volume_is_of_its_windows():
    volume = torch.rand((1, 1, 12, 11, 10), generator=torch.Generator().manual_seed(2))
    got = local_normalize(volume, torch.tensor(1e-9), window=5)
    window = volume[0, 0, 4:9, 3:8, 2:7]
    expected = (volume[0, 0, 6, 5, 4] - window.mean()) / window.std(correction=0)
    assert float(got[0, 0, 6, 5, 4]) == pytest.approx(float(expected), rel=1e-3)


def test_turns_in_space_are_those_of_scipy():
    parameters = torch.tensor([[0.0] * 7, [0.5, -1.0, 0.3, 0.4, 1.0, 2.0, -1.0], [3.0, 2.0, -4.0, 0.0, 0.0, 0.0, 0.5]])
    found = _similarity(parameters).numpy()
    for row, matrix in zip(parameters.double().numpy(), found):
        turn = Rotation.from_rotvec(0.3 * row[:3]).as_matrix() * np.exp(0.1 * row[3])
        np.testing.assert_allclose(matrix, np.column_stack([turn, 6 * row[4:]]), atol=1e-5)
    still = parameters[:1].clone().requires_grad_()
    _similarity(still).sum().backward()
    assert torch.isfinite(still.grad).all()


def test_patches_and_projection_of_volumes_become_principal_components():
    network, x = tiny_3d(), volumes(30)
    network.fit_projection(x)
    basis = network.patches.weight.detach().flatten(1)
    torch.testing.assert_close(basis @ basis.T, torch.eye(6), atol=1e-4, rtol=0)
    features = local_normalize(x, torch.tensor(0.03**2))
    cut = features.reshape(30, 6, 4, 7, 4, 5, 4).permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, 64)
    kept = (cut @ basis.T).square().sum()
    assert kept == pytest.approx(float(torch.linalg.svdvals(cut)[:6].square().sum()), rel=1e-3)
    rows = network.projection.weight.detach()
    torch.testing.assert_close(rows @ rows.T, torch.eye(15), atol=1e-3, rtol=0)


def test_the_shipped_volume_network_is_small_and_finds_mirrored_volumes_alike(in_root):
    network = component(["configs/inference.yaml", "configs/inference_3d.yaml"], "network_def")
    load_weights(network, "models/model_3d.pt").eval()
    assert sum(p.numel() for p in network.state_dict().values()) * 4 < 25e6
    x = torch.from_numpy(np.stack([head(1), head(2)]))[:, None]
    with torch.no_grad():
        own, mirrored = network(x), network(x.flip(2))
    torch.testing.assert_close(own, mirrored, atol=1e-4, rtol=0)
    assert float(own[0] @ own[1]) < 0.9


@pytest.mark.parametrize("size, patch", [((24, 28, 18), 4), ((24, 28), 8), ((8, 8, 8, 8), 1)])
def test_a_field_that_patches_do_not_divide_is_an_error(size, patch):
    with pytest.raises(ValueError, match="spatial_size: expected two or three even numbers, multiples of patch, found"):
        tiny(spatial_size=size, patch=patch)
