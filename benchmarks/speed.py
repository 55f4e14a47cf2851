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

"""Time the SSIM kernel, the embedder and the alignment against their rivals, in one process on the same cores.

python benchmarks/speed.py
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import skimage
import torch
from skimage.metrics import structural_similarity

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts import AutocastInferer, Verifier, component, ssim_matrix  # noqa: E402  the bundle's own code

SHAPE = (96, 112)


def seconds(function: Callable[[], object], repeats: int = 7) -> float:
    """Return the median time of a call after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def convnext_tiny() -> torch.nn.Module | None:
    """Return the network of DeepSSIM's second version, with random weights; None without transformers."""
    try:
        from transformers import ConvNextConfig, ConvNextModel  # not among the requirements: only for this row
    except ImportError:
        return None
    # the defaults are ConvNeXt-Tiny
    return ConvNextModel(ConvNextConfig()).eval().to(memory_format=torch.channels_last)


def main() -> None:
    rng = np.random.default_rng(0)
    images = rng.random((128, *SHAPE), np.float32)
    foreground = np.ones(images.shape, bool)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {SHAPE[0]} x {SHAPE[1]} pixels")
    print(f"torch {torch.__version__}, scikit-image {skimage.__version__}, numpy {np.__version__}")

    pairs = 128 * 127 / 2
    ours = seconds(lambda: ssim_matrix(images, data_range=1.0)) / pairs
    masked = seconds(lambda: ssim_matrix(images, form="foreground", data_range=1.0, foreground=foreground)) / pairs
    theirs = (
        seconds(lambda: [structural_similarity(images[i], images[i + 1], data_range=1.0) for i in range(100)]) / 100
    )
    print(f"SSIM, ms a pair: ours {ours * 1e3:.4f}, foreground {masked * 1e3:.4f}, scikit-image {theirs * 1e3:.4f}")
    print(f"  ratio {theirs / ours:.0f} (foreground {theirs / masked:.0f})")

    network = component(ROOT / "configs" / "inference.yaml", "network_def").eval().to(memory_format=torch.channels_last)
    batch = torch.from_numpy(images[:64, None])
    rates = {}
    with torch.no_grad():
        for name, inferer in (("bfloat16", AutocastInferer()), ("float32", AutocastInferer(enabled=False))):
            rates[name] = 64 / seconds(lambda: inferer(batch, network))  # noqa: B023
            print(f"embedder, {name}: {rates[name]:.0f} images a second")
        published = convnext_tiny()
        if published is None:
            print("ConvNeXt-Tiny, the published embedder: pip install transformers -c constraints.txt to compare")
        else:
            colour = batch.repeat(1, 3, 1, 1)
            for name, inferer in (("bfloat16", AutocastInferer()), ("float32", AutocastInferer(enabled=False))):
                rate = 64 / seconds(lambda: inferer(colour, published), 3)  # noqa: B023
                print(f"ConvNeXt-Tiny, {name}: {rate:.0f} images a second; ratio {rates[name] / rate:.1f}")

    verifier = Verifier()
    print(f"alignment, ms a pair: {seconds(lambda: verifier.align(images[:64], images[64:]), 3) / 64 * 1e3:.1f}")


if __name__ == "__main__":
    main()
