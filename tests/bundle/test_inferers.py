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
from monai.networks.schedulers import DDPMScheduler
from scripts.bundle import inferers
from scripts.bundle.inferers import AutocastDiffusionInferer, AutocastInferer, computes_bfloat16
from scripts.embedder.networks import DeepSSIM


@pytest.fixture
def with_bfloat16(monkeypatch):
    """Autocast as on a processor that has the arithmetic; others emulate it, slowly, with the same results."""
    monkeypatch.setattr(inferers, "computes_bfloat16", lambda device: True)


def test_autocast_computes_in_bfloat16_and_stays_close(with_bfloat16):
    torch.manual_seed(0)
    network = DeepSSIM((32, 28), 8, channels=(4, 4, 4), hidden=8, orientations=4).eval()
    x = torch.rand(2, 1, 32, 28)
    with torch.no_grad():
        exact = network(x)
        torch.testing.assert_close(AutocastInferer(enabled=False)(x, network), exact, atol=1e-6, rtol=0)
        assert 0 < (AutocastInferer()(x, network) - exact).abs().max() < 0.05


def test_autocast_reaches_the_layers_in_the_given_type(with_bfloat16):
    x, network = torch.rand(1, 1, 8, 8), torch.nn.Conv2d(1, 1, 3)
    types = [AutocastInferer(**more)(x, network).dtype for more in ({}, {"dtype": torch.float16}, {"enabled": False})]
    assert types == [torch.bfloat16, torch.float16, torch.float32]
    torch.testing.assert_close(AutocastInferer(enabled=False)(x, torch.add, x, alpha=2), 3 * x)


def test_a_processor_without_bfloat16_keeps_float32(monkeypatch):
    """There it would be emulated: embedding 9 times and training 6 times slower, by default."""
    monkeypatch.setattr(inferers, "computes_bfloat16", lambda device: False)
    x, network = torch.rand(1, 1, 8, 8), torch.nn.Conv2d(1, 1, 3)
    assert AutocastInferer()(x, network).dtype == torch.float32
    assert AutocastInferer(torch.float16)(x, network).dtype == torch.float16, "asked for by name"


def test_what_a_processor_computes_is_asked_of_onednn_and_the_processor(monkeypatch):
    for onednn, machine, own, expected in [
        (False, "x86_64", True, False),
        (True, "x86_64", False, False),  # AVX-512 without BF16: oneDNN emulates
        (True, "x86_64", True, True),
        (True, "aarch64", False, True),
    ]:
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda answer=onednn: answer)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda answer=own: answer)
        monkeypatch.setattr(inferers.platform, "machine", lambda name=machine: name)
        assert computes_bfloat16("cpu") is expected, (onednn, machine, own)
    assert not computes_bfloat16("mps") and not computes_bfloat16("meta")


def test_diffusion_runs_under_autocast_and_returns_float32(with_bfloat16):
    seen = []

    class Spy(torch.nn.Linear):
        def forward(self, x, timesteps, context=None):
            seen.append(super().forward(x).dtype)
            return super().forward(x)

    scheduler, images = DDPMScheduler(num_train_timesteps=10), torch.rand(2, 1, 4, 4)
    scheduler.set_timesteps(1)
    for enabled in (True, False):
        inferer = AutocastDiffusionInferer(scheduler, enabled=enabled)
        out = inferer(images, Spy(4, 4), noise=torch.randn_like(images), timesteps=torch.tensor([1, 2]))
        assert out.dtype == torch.float32
        inferer.sample(images, Spy(4, 4), scheduler, verbose=False)
    assert seen == [torch.bfloat16] * 2 + [torch.float32] * 2
