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

"""Inferers that run a network in bfloat16 where the machine computes in it; MONAI's engines autocast on CUDA alone."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import DiffusionInferer, LatentDiffusionInferer, SimpleInferer
from monai.networks.schedulers import Scheduler

__all__ = ["AutocastDiffusionInferer", "AutocastInferer", "AutocastLatentInferer", "autocast", "computes_bfloat16"]


def computes_bfloat16(device: torch.device | str) -> bool:
    """Return whether a device has bfloat16 arithmetic; where it is emulated, it is slower than float32, up to 9 times.

    On a processor, oneDNN has to use it (`ONEDNN_MAX_CPU_ISA` can forbid it) and, on x86, AVX512_BF16 has to exist:
    oneDNN says yes to any AVX-512.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return platform.machine().lower() not in ("x86_64", "amd64") or torch.cpu._is_avx512_bf16_supported()


def autocast(
    tensor: torch.Tensor, dtype: torch.dtype = torch.bfloat16, enabled: bool = True
) -> contextlib.AbstractContextManager[object]:
    """Return the context of a pass on the tensor's device; bfloat16 is left out where the device has not got it."""
    usable = enabled and (dtype is not torch.bfloat16 or computes_bfloat16(tensor.device))
    return torch.autocast(tensor.device.type, dtype, usable)


class AutocastInferer(SimpleInferer):
    """MONAI's ``SimpleInferer`` under autocast, with the input in channels-last order.

    Args:
        dtype: a torch dtype; bfloat16 needs no loss scaling, doubles the speed of processors that have it, and is left
            out on those that have not.
        enabled: false computes in the network's own dtype.
    """

    def __init__(self, dtype: torch.dtype = torch.bfloat16, enabled: bool = True) -> None:
        super().__init__()
        self.dtype, self.enabled = dtype, enabled

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the network's output for inputs (B, C, H, W) or (B, C, D, H, W)."""
        layout = torch.channels_last if inputs.ndim == 4 else torch.channels_last_3d
        with autocast(inputs, self.dtype, self.enabled):
            return super().__call__(inputs.contiguous(memory_format=layout), network, *args, **kwargs)


class _AutocastSampling(DiffusionInferer):
    """Before a diffusion inferer of MONAI in the order of bases: its training passes and sampling under autocast."""

    enabled: bool

    def __call__(self, inputs: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        with autocast(inputs, enabled=self.enabled):
            return super().__call__(inputs, *args, **kwargs).float()

    def sample(self, input_noise: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return what MONAI's inferer samples from noise (B, C, h, w)."""
        with autocast(input_noise, enabled=self.enabled):
            return super().sample(input_noise, *args, **kwargs)


class AutocastDiffusionInferer(_AutocastSampling):
    """MONAI's ``DiffusionInferer`` in bfloat16; `enabled=False` leaves the network's own dtype."""

    def __init__(self, scheduler: Scheduler, enabled: bool = True) -> None:
        super().__init__(scheduler)
        self.enabled = enabled


class AutocastLatentInferer(_AutocastSampling, LatentDiffusionInferer):
    """MONAI's ``LatentDiffusionInferer`` in bfloat16; `enabled=False` leaves the networks' own dtype."""

    def __init__(self, scheduler: Scheduler, scale_factor: float = 1.0, enabled: bool = True) -> None:
        LatentDiffusionInferer.__init__(self, scheduler, scale_factor)
        self.enabled = enabled
