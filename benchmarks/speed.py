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

"""Time loading, the SSIM kernel, the embedder and the alignment against their rivals, in one process on the same cores.

python benchmarks/speed.py [--repeats 1]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from bundle_root import ROOT
from monai_chain import monai_chain
from numpy.typing import NDArray
from phantoms import phantom_head
from PIL import Image
from scripts import AutocastInferer, Verifier, VolumeVerifier, component, ssim_matrix
from skimage.metrics import structural_similarity

SHAPE = (96, 112)
VOLUME = (40, 56, 48)  # a head at 4 mm


def seconds(function: Callable[[], object], repeats: int, clock: Callable[[], float] | None = None) -> float:
    """Return the median time of a call after one that is not counted; by the wall's clock, or another."""
    clock = clock or time.perf_counter
    function()
    times = []
    for _ in range(repeats):
        start = clock()
        function()
        times.append(clock() - start)
    return statistics.median(times)


def time_ssim(images: NDArray[np.float32], repeats: int) -> None:
    """Print ms a pair of the kernel's two forms over all pairs of images (N, ...), and of scikit-image."""
    foreground = np.ones((len(images), 1, *images.shape[1:]), bool)
    batch, pairs = images[:, None], len(images) * (len(images) - 1) / 2
    few = list(zip(images, images[1:]))[:100]
    ours = seconds(lambda: ssim_matrix(batch, data_range=1.0), repeats) / pairs
    masked = (
        seconds(lambda: ssim_matrix(batch, form="foreground", data_range=1.0, foreground=foreground), repeats) / pairs
    )
    theirs = seconds(lambda: [structural_similarity(a, b, data_range=1.0) for a, b in few], repeats) / len(few)
    shape = " x ".join(map(str, images.shape[1:]))
    print(f"SSIM of {shape}, ms a pair: ours {ours * 1e3:.4f}, foreground {masked * 1e3:.4f}, ", end="")
    print(f"scikit-image {theirs * 1e3:.4f}")
    print(f"  ratio {theirs / ours:.0f} (foreground {theirs / masked:.0f})")


def time_embedder(images: NDArray[np.float32], repeats: int) -> None:
    """Print images a second of the bundle's embedder and, where transformers is installed, of the published one."""
    network = component(ROOT / "configs" / "inference.yaml", "network_def").eval().to(memory_format=torch.channels_last)
    published = convnext_tiny()
    batch = torch.from_numpy(images[:, None])
    rates = {}
    inferers = {"bfloat16": AutocastInferer(), "float32": AutocastInferer(enabled=False)}
    with torch.no_grad():
        for name, inferer in inferers.items():
            rates[name] = len(batch) / seconds(lambda: inferer(batch, network), repeats)  # noqa: B023  called at once
            print(f"embedder, {name}: {rates[name]:.0f} images a second")
        if published is None:
            print("ConvNeXt-Tiny, the published embedder: pip install transformers -c constraints.txt to compare")
            return
        colour = batch.repeat(1, 3, 1, 1)
        for name, inferer in inferers.items():
            rate = len(batch) / seconds(lambda: inferer(colour, published), min(3, repeats))  # noqa: B023
            print(f"ConvNeXt-Tiny, {name}: {rate:.0f} images a second; ratio {rates[name] / rate:.1f}")


def convnext_tiny() -> torch.nn.Module | None:
    """Return the network of DeepSSIM's second version, with random weights; None without transformers."""
    try:
        from transformers import ConvNextConfig, ConvNextModel  # not among the requirements: only for this row
    except ImportError:
        return None
    # the defaults are ConvNeXt-Tiny
    return ConvNextModel(ConvNextConfig()).eval().to(memory_format=torch.channels_last)


def time_alignment(images: NDArray[np.float32], repeats: int) -> None:
    """Print ms a pair of aligning the second half of the images to the first."""
    half = len(images) // 2
    verifier = Verifier()
    took = seconds(lambda: verifier.align(images[:half], images[half:]), min(3, repeats)) / half
    print(f"alignment, ms a pair: {took * 1e3:.1f}")


def time_volumes(heads: NDArray[np.float32], repeats: int) -> None:
    """Print CPU seconds a volume of embedding it and of aligning it with five others, of heads (N, X, Y, Z)."""
    files = [ROOT / "configs" / name for name in ("inference.yaml", "inference_3d.yaml")]
    network = component(list(map(str, files)), "network_def").eval().to(memory_format=torch.channels_last_3d)
    batch, inferer, verifier = torch.from_numpy(heads[:, None]), AutocastInferer(), VolumeVerifier()
    queries = np.repeat(np.arange(len(heads)), 5)
    others = (queries + np.tile(np.arange(1, 6), len(heads))) % len(heads)
    with torch.no_grad():
        embedding = seconds(lambda: inferer(batch, network), repeats, time.process_time) / len(heads)
    alignment = seconds(lambda: verifier.align(heads, heads, (queries, others)), min(3, repeats), time.process_time)
    print(f"a volume, CPU seconds: embedded {embedding:.3f}, aligned with five {alignment / len(heads):.3f}")


def time_loading(repeats: int, sides: Sequence[int] = (128, 256), count: int = 40) -> None:
    """Print ms a PNG through the bundle's chain, through MONAI's own transforms, and of decoding alone."""
    chain, monais = component(ROOT / "configs" / "inference.yaml", "preprocessing"), monai_chain()
    with tempfile.TemporaryDirectory() as folder:
        for side in sides:
            paths = [write_png(Path(folder, f"{side}_{seed}.png"), side, seed) for seed in range(count)]

            def each(load: Callable[[Path], object], paths: Sequence[Path] = paths) -> float:
                return seconds(lambda: [load(path) for path in paths], repeats) / count * 1e3

            ours, theirs, decoding = (
                each(lambda path: chain({"image": str(path), "id": path.name})),
                each(lambda path: monais({"image": str(path), "id": path.name})),
                each(lambda path: np.asarray(Image.open(BytesIO(path.read_bytes())))),
            )
            print(f"loading a PNG of {side} x {side}, ms: ours {ours:.2f}, MONAI's transforms {theirs:.2f}, ", end="")
            print(f"decoding alone {decoding:.2f}")
            print(f"  ratio {theirs / ours:.1f}; to decoding {ours / decoding:.1f}")


def write_png(path: Path, side: int, seed: int) -> Path:
    """Write a disc of smooth texture and some noise on black, which a PNG holds in about as many bytes as an X-ray."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    waves = sum(np.sin(number * (a * x + b * y)) for number, (a, b) in enumerate(rng.normal(size=(8, 2)), 1))
    texture = 120 + 12 * waves + rng.normal(size=x.shape)
    Image.fromarray(np.where(x**2 + y**2 < 0.8, texture, 0).clip(0, 255).astype(np.uint8)).save(path)
    return path


def main() -> None:
    """Print the versions and all times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="calls of which the median is given")
    repeats = parser.parse_args().repeats
    images = np.random.default_rng(0).random((128, *SHAPE), np.float32)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {SHAPE[0]} x {SHAPE[1]} pixels")
    print(f"torch {torch.__version__}, scikit-image {version('scikit-image')}, numpy {np.__version__}")
    time_loading(repeats)
    time_ssim(images, repeats)
    time_ssim(np.random.default_rng(0).random((16, *VOLUME), np.float32), repeats)
    time_embedder(images[:64], repeats)
    time_alignment(images, repeats)
    time_volumes(np.stack([phantom_head(seed)[::2, ::2, ::2] for seed in range(12)]), repeats)


if __name__ == "__main__":
    main()
