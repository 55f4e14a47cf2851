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

"""Does a GPU give what the processor gives, how fast is it, and do the trainings run on it?

python benchmarks/gpu.py [--device cuda] [--parts embedder search alignment ssim audit rate train ldm volumes]

Each part prints its numbers; the exit status is 1 where a part differs from the processor or fails.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import torch
from bundle_root import ROOT
from phantoms import phantom, phantom_head, write_phantoms
from scripts import AutocastInferer, Embedder, Verifier, component, find_images, load_weights, ssim_matrix
from scripts.auditing.neighbors import nearest_subjects

# cosines of bfloat16 and of another processor's float32 differ from float32's by no more
COSINE_ERROR = 0.03
SSIM_ERROR = 1e-5
SHAPE = (96, 112)
BATCHES = (64, 256, 1024)  # images a forward pass whose speed is measured
PAIRED = 256  # images of which all pairs are compared
SEARCHED = 16384, 131072, 384  # queries, references, dimensions
COMPARED = 1024  # queries that the processor searches too
ALIGNED, OTHERS = 64, 32  # phantoms, each laid on so many others and on a moved copy
ALIGNMENT_ERROR = 1e-3  # of the aligned SSIM of copies, and on average of others, whose best fit is less sharp
BLOCKS = (512, 2048, 4096)  # pairs aligned at a time
GENERATED = (500, 2500)  # phantoms that are audited; the difference is free of what an audit costs in any case


def seconds(function: Callable[[], object], repeats: int = 5) -> float:
    """Return the mean time of a call after two that are not counted, the device idle before and after."""
    for _ in range(2):
        function()
    _wait()
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    _wait()
    return (time.perf_counter() - start) / repeats


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def check_embedder(device: str) -> bool:
    """Print how far the demo's cosines lie from the processor's, and images a second; return whether all is near."""
    definition, preprocessing = (
        component(ROOT / "configs/inference.yaml", key) for key in ("network_def", "preprocessing")
    )
    network = load_weights(definition.to(memory_format=torch.channels_last), ROOT / "models/model.pt")

    def cosines(where: str, amp: bool) -> torch.Tensor:
        embedder = Embedder(network.to(where), preprocessing, AutocastInferer(enabled=amp), torch.device(where))
        sets = [find_images(ROOT / "demo" / folder, warn=False) for folder in ("generated", "train")]
        generated, train = (torch.from_numpy(embedder.embed_files(items).vectors) for items in sets)
        return generated @ train.T

    exact, near = cosines("cpu", False), True
    for amp in (False, True):
        found = cosines(device, amp)
        chosen = found.argmax(1)
        lost = (exact.amax(1) - exact.gather(1, chosen[:, None])[:, 0]).max().item()
        error = (found - exact).abs().max().item()
        near &= error < COSINE_ERROR
        print(f"embedder, amp {amp}: cosines differ by {error:.1e} at most; a nearest image is worse by {lost:.1e}")
    network = network.to(device)
    with torch.no_grad():
        for batch in BATCHES:
            images = torch.rand(batch, 1, *SHAPE, device=device).to(memory_format=torch.channels_last)
            for amp in (False, True):
                inferer = AutocastInferer(enabled=amp)
                took = seconds(lambda: inferer(images, network))  # noqa: B023  called at once
                print(f"embedder, amp {amp}, batches of {batch}: {batch / took:.0f} images a second")
    return near


def check_search(device: str) -> bool:
    """Print whether random embeddings find the subjects that they find on the processor, and queries a second."""
    generator = torch.Generator().manual_seed(0)
    count, references, width = SEARCHED
    queries, known = (
        torch.nn.functional.normalize(torch.randn(n, width, generator=generator)) for n in (count, references)
    )
    subjects = np.arange(references) // 2
    arrays = queries.numpy(), known.numpy(), subjects, 6
    exact = nearest_subjects(arrays[0][:COMPARED], *arrays[1:])
    found = nearest_subjects(arrays[0][:COMPARED], *arrays[1:], device=device)
    other = int((exact.subject != found.subject).sum())
    search = seconds(lambda: nearest_subjects(*arrays, device=device), 2)
    there, large = queries.to(device), known.to(device)
    parts = there.split(8192)
    product = seconds(lambda: [part @ some.T for part in parts for some in large.split(8192)], 2)
    print(
        f"search among {references}: {other} of {exact.subject.size} candidates differ; {count / search:.0f} queries a "
        f"second, the product alone {count / product:.0f}"
    )
    return other <= exact.subject.size // 1000  # of nearly equal ones, whose order rounding decides


def check_alignment(device: str) -> bool:
    """Print how far the aligned SSIM of phantoms lies from the processor's, and pairs a second of both."""
    people = np.stack([phantom(number) for number in range(ALIGNED)])
    rng = np.random.default_rng(0)
    turned = np.stack([np.roll(image[::-1], rng.integers(-4, 5, 2), (0, 1)) for image in people])
    queries, second = np.repeat(np.arange(ALIGNED), OTHERS + 1), np.tile(np.arange(OTHERS + 1), ALIGNED)
    second = (queries + second) % ALIGNED
    scores = {}
    for where in ("cpu", device):
        verifier = Verifier(device=where)
        scores[where] = verifier.align(turned, people, (queries, second)).aligned_ssim
        took = seconds(lambda: verifier.align(turned, people, (queries, second)), 2)  # noqa: B023  called at once
        print(f"alignment, {where}: {len(queries) / took:.0f} pairs a second")
    for block in BLOCKS:
        verifier, times = Verifier(device=device, block=block), 8
        many = np.tile(queries, times), np.tile(second, times)
        took = seconds(lambda: verifier.align(turned, people, many), 2)  # noqa: B023  called at once
        print(f"alignment, {device}, {block} at a time: {len(many[0]) / took:.0f} pairs a second")
    error = np.abs(scores["cpu"] - scores[device])
    copies, others = error[second == queries].max(), error[second != queries]
    print(
        f"aligned SSIM differs by {copies:.1e} at most for copies; for others by {others.mean():.1e} on average, by "
        f"{np.quantile(others, 0.99):.1e} in 99 of 100 pairs, by {others.max():.1e} at most"
    )
    return bool(copies < ALIGNMENT_ERROR and others.mean() < ALIGNMENT_ERROR)


def check_ssim(device: str) -> bool:
    """Print how far the SSIM of all pairs lies from the processor's, and pairs a second of both."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(PAIRED, *SHAPE, generator=generator)
    foreground = torch.rand(PAIRED, *SHAPE, generator=generator) > 0.3
    near, pairs = True, len(images) * (len(images) - 1) // 2
    for form, masks in (("symmetric", None), ("foreground", foreground)):

        def matrix(where: str) -> torch.Tensor:
            mask = None if masks is None else masks.to(where)  # noqa: B023  called at once
            return ssim_matrix(images.to(where), form=form, data_range=1.0, foreground=mask)  # noqa: B023

        error = (matrix("cpu") - matrix(device).cpu()).abs().max().item()
        near &= error < SSIM_ERROR
        rates = [pairs / seconds(partial(matrix, where), 3) for where in ("cpu", device)]
        print(
            f"SSIM, {form}: differs by at most {error:.1e}; pairs a second: cpu {rates[0]:.0f}, {device} {rates[1]:.0f}"
        )
    return near


def check_audit(device: str) -> bool:
    """Print whether the demo's audit makes the same calls as on the processor, and what both took."""
    rows, took = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for where in ("cpu", device):
            output = Path(folder, where.replace(":", "_"))
            start = time.perf_counter()
            _run("detect.yaml", "--device", f"$torch.device('{where}')", "--output_dir", str(output))
            took[where] = time.perf_counter() - start
            with (output / "matches.csv").open(newline="") as file:
                rows[where] = [
                    (row["generated_id"], row["train_subject"], row["memorized"]) for row in csv.DictReader(file)
                ]
    called = [row for row in rows["cpu"] if row[2] == "1"]
    same = [row for row in rows[device] if row[2] == "1"] == called
    print(f"audit of the demo: {len(called)} calls, {'the same' if same else 'others'} on {device}; seconds: {took}")
    return same


def check_rate(device: str) -> bool:
    """Print how many images a second an audit takes from files to tables; return whether the calls are the same."""
    few, many = GENERATED
    with tempfile.TemporaryDirectory() as folder:
        write_phantoms(Path(folder), many)
        generated = sorted(Path(folder, "generated").iterdir())
        (part := Path(folder, "few")).mkdir()
        for file in generated[:few]:
            (part / file.name).symlink_to(file)
        _audited(Path(folder), "few", device)  # compiles
        _, expected = _audited(Path(folder), "few", "cpu")
        took, found = _audited(Path(folder), "few", device)
        longer, _ = _audited(Path(folder), "generated", device)
    rate = (many - few) / (longer - took)
    print(f"audit of {few} phantoms {took:.1f} s, of {many} {longer:.1f} s: {rate:.0f} a second")
    print(f"called on cpu {len(expected)}, on {device} {len(found)}, on both {len(expected & found)}")
    return len(expected & found) >= 0.99 * max(len(expected), len(found))


def _audited(folder: Path, generated: str, device: str) -> tuple[float, set[str]]:
    """Return the seconds of an audit of a folder's phantoms, and which are called."""
    sets = ("--train_dir", f"{folder}/train", "--generated_dir", f"{folder}/{generated}")
    with tempfile.TemporaryDirectory() as output:
        start = time.perf_counter()
        _run("detect.yaml", "--device", f"$torch.device('{device}')", *sets, "--output_dir", output)
        took = time.perf_counter() - start
        with Path(output, "matches.csv").open(newline="") as file:
            return took, {row["generated_id"] for row in csv.DictReader(file) if row["memorized"] == "1"}


def check_train(device: str) -> bool:
    """Print the seconds that two epochs of the embedder's training take on the demo, as shipped and at GPU size."""
    for name, files in {"as shipped": ["train"], "train_gpu.yaml": ["train", "train_gpu"]}.items():
        _train(
            f"embedder, {name}",
            files,
            device,
            "--iterations",
            "20",
            "--epochs",
            "2",
            "--val_interval",
            "2",
            "--groups",
            "16",
        )
    return True


def check_ldm(device: str) -> bool:
    """Print the seconds of the latent diffusion model at its published size: both trainings, and 16 samples."""
    with tempfile.TemporaryDirectory() as folder:
        short = ("--iterations", "20", "--epochs", "2")
        autoencoder, model = Path(folder, "autoencoder"), Path(folder, "model")
        _train("autoencoder", ["ldm/train_autoencoder"], device, *short, output=autoencoder)
        weights = ("--autoencoder_file", str(autoencoder / "autoencoder.pt"))
        _train("diffusion model", ["ldm/train_diffusion"], device, *short, *weights, output=model)
        start = time.perf_counter()
        drawn = (
            "--model_dir",
            str(model),
            *weights,
            "--records",
            "16",
            "--samples_per_record",
            "1",
            "--output_dir",
            f"{folder}/samples",
        )
        _run("ldm/generate.yaml", "--device", f"$torch.device('{device}')", *drawn)
        print(f"16 samples: {time.perf_counter() - start:.1f} s, start of the process in it")
    return True


def check_volumes(device: str) -> bool:
    """Print the seconds of the latent diffusion model of whole volumes, at its size for a GPU, and of 4 samples."""
    with tempfile.TemporaryDirectory() as folder:
        heads = Path(folder, "heads")
        heads.mkdir()
        for number in range(8):
            nibabel.save(
                nibabel.Nifti1Image(phantom_head(number), np.diag([2.0, 2.0, 2.0, 1.0])),
                heads / f"sub-{number:02d}.nii.gz",
            )
        short = ("--dataset_dir", str(heads), "--iterations", "20", "--epochs", "2")
        autoencoder, model = Path(folder, "autoencoder"), Path(folder, "model")
        files = ["ldm/train_autoencoder", "ldm/autoencoder_3d"]
        _train("autoencoder of volumes", files, device, *short, output=autoencoder)
        weights = ("--autoencoder_file", str(autoencoder / "autoencoder.pt"))
        files = ["ldm/train_diffusion", "ldm/diffusion_3d"]
        _train("diffusion model of volumes", files, device, *short, *weights, output=model)
        start = time.perf_counter()
        drawn = ("--model_dir", str(model), *weights, "--output_dir", f"{folder}/samples")
        few = ("--records", "1", "--samples_per_record", "4")
        configs = str([str(ROOT / "configs/ldm" / f"{name}.yaml") for name in ("generate", "generate_3d")])
        _run(configs, "--device", f"$torch.device('{device}')", *drawn, *few)
        print(f"4 volumes: {time.perf_counter() - start:.1f} s, start of the process in it")
    return True


def _train(name: str, files: list[str], device: str, *arguments: str, output: Path | None = None) -> None:
    paths = [str(ROOT / "configs" / f"{file}.yaml") for file in files]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        _run(str(paths), "--device", f"$torch.device('{device}')", "--output_dir", str(output or folder), *arguments)
        print(f"{name}: 2 epochs of 20 steps in {time.perf_counter() - start:.1f} s, start and validation in it")


def _run(config: str, *arguments: str) -> None:
    file = config if config.startswith("[") else str(ROOT / "configs" / config)
    words = [sys.executable, "-m", "monai.bundle", "run", "--config_file", file, *arguments]
    done = subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"}, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{config} ended with status {done.returncode}: {done.stderr[-3000:]}")


PARTS = {
    "embedder": check_embedder,
    "search": check_search,
    "alignment": check_alignment,
    "ssim": check_ssim,
    "audit": check_audit,
    "rate": check_rate,
    "train": check_train,
    "ldm": check_ldm,
    "volumes": check_volumes,
}


def main(words: Sequence[str] | None = None) -> int:
    """Run the parts; return 1 where one differs or fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="what is compared with the processor")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    arguments = parser.parse_args(words)
    device = arguments.device
    if device.startswith("cuda") and not torch.cuda.is_available():
        print("not run: torch finds no GPU here")
        return 0
    name = torch.cuda.get_device_name() if device.startswith("cuda") else device
    print(f"{name}; torch {torch.__version__}, numpy {np.__version__}")
    failed = []
    for part in arguments.parts:
        try:
            if not PARTS[part](device):
                failed.append(part)
        except Exception as error:  # noqa: BLE001  the other parts still run
            print(f"{part}: {error}")
            failed.append(part)
        sys.stdout.flush()
    print(f"differ or failed: {', '.join(failed)}" if failed else "all parts agree with the processor")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
