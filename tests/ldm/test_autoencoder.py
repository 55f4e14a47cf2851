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

import pytest
import torch
from helpers import ROOT
from monai.networks.nets import AutoencoderKL, PatchDiscriminator
from scipy.ndimage import gaussian_filter
from scripts.bundle.components import bundle_file, component
from scripts.bundle.weights import load_weights
from scripts.images.datalists import find_images
from scripts.images.loading import SliceSet
from scripts.ldm import autoencoder
from scripts.ldm.autoencoder import AutoencoderLoss, LastOutputInferer, ReconstructionInferer, encode
from torch.distributions import Normal, kl_divergence


@pytest.fixture
def network() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        latent_channels=2,
        channels=(4, 8),
        attention_levels=(False, False),
        num_res_blocks=1,
        norm_num_groups=4,
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
    ).eval()


def test_reconstruction_comes_alone_and_the_posterior_stays(network):
    images, inferer = torch.rand(3, 1, 16, 20), ReconstructionInferer(enabled=False)
    torch.manual_seed(1)
    expected = network(images)
    torch.manual_seed(1)
    torch.testing.assert_close(inferer(images, network), expected[0])
    for kept, wanted in zip(inferer.posterior, expected[1:]):
        torch.testing.assert_close(kept, wanted)


def test_divergence_equals_torchs_distributions():
    mean, deviation = torch.randn(4, 2, 3, 5), torch.rand(4, 2, 3, 5) + 0.1
    expected = kl_divergence(Normal(mean, deviation), Normal(0, 1)).flatten(1).sum(1).mean()
    torch.testing.assert_close(autoencoder.kl_divergence(mean, deviation), expected)
    assert autoencoder.kl_divergence(torch.zeros(1, 2), torch.ones(1, 2)) == 0


def test_loss_is_the_weighted_sum_of_its_terms():
    inferer = ReconstructionInferer()
    inferer.posterior = torch.ones(1, 3), torch.ones(1, 3)  # divergence 1.5
    a, b = torch.full((1, 1, 4, 4), 0.75), torch.full((1, 1, 4, 4), 0.25)
    assert AutoencoderLoss(inferer, kl_weight=0.1)(a, b).item() == pytest.approx(0.5 + 0.15)
    with_perception = AutoencoderLoss(inferer, 0.1, perceptual_loss=torch.nn.MSELoss(), perceptual_weight=2.0)
    assert with_perception(a, b).item() == pytest.approx(0.5 + 0.15 + 2 * 0.25)


def test_loss_of_a_reconstruction_of_unknown_origin_is_an_error():
    with pytest.raises(ValueError, match="has not run yet"):
        AutoencoderLoss(ReconstructionInferer())(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))


def test_last_of_the_discriminators_outputs_is_taken():
    discriminator = PatchDiscriminator(spatial_dims=2, in_channels=1, channels=4, num_layers_d=2).eval()
    images = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(LastOutputInferer(enabled=False)(images, discriminator), discriminator(images)[-1])


def test_latents_are_the_posterior_means_whatever_the_batch(network):
    images = torch.rand(5, 1, 16, 20)
    latents = encode(network, images, 2, "cpu")
    assert latents.shape == (5, 2, 8, 10) and not latents.requires_grad
    torch.testing.assert_close(latents, network.encode(images)[0].detach())
    torch.testing.assert_close(encode(network, images, 5, "cpu"), latents)


def test_shipped_weights_reconstruct_images_that_they_never_saw():
    weights = bundle_file("models/autoencoder.pt")
    assert weights.stat().st_size < 5e6
    network = load_weights(component(bundle_file("configs/ldm/model.yaml"), "autoencoder_def", size="cpu"), weights)
    chain = component(bundle_file("configs/inference.yaml"), "preprocessing")
    images = torch.from_numpy(SliceSet.load(find_images(ROOT / "demo" / "train")[:8], chain).images)[:, None]
    with torch.no_grad():
        error = (network.decode(network.encode(images)[0]) - images).square().mean()
    blurred = gaussian_filter(images.numpy(), (0, 0, 1, 1))
    assert error < 10**-3.3 < ((blurred - images.numpy()) ** 2).mean()  # 33 dB; a blur of one pixel leaves 30
