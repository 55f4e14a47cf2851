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

"""How an audit grows: the search against its products, memory and time of audits of many images, open files.

python benchmarks/scale.py [--rows search ssim files png audit] [--images 100000x100000 1000000x100000]
    [--baseline CHECKOUT] [--output_dir eval/scale] [--figure memory.png]

Embeddings are random, and so is what an alignment would find: one image in a hundred is a copy. What is measured is
the search, the decisions and the files that are written. Each audit is a process of its own, whose greatest memory is
read at the end of each stage. The row `png` audits 1,000 + 1,000 phantoms from files, in this checkout and in another
one, as of an older version. A row that is finished is kept in results.jsonl, and is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from bundle_root import ROOT
from matplotlib.figure import Figure
from monai.transforms import Compose
from phantoms import PHANTOMS, write_phantoms
from random_sets import COPIES, DIMENSION, SHAPE, RandomEmbedder, RandomVerifier, random_set, unit_vectors
from scripts import LocalStatistic, ssim_pairs
from scripts.auditing.audit import Audit
from scripts.auditing.neighbors import nearest_subjects
from scripts.bundle.files import read_table
from scripts.embedder import cache as embedding_cache
from scripts.embedder.file_loader import LoadedImage
from scripts.report.report import Report
from scripts.report.summary import Timing
from skimage.metrics import structural_similarity

CACHED, IN_SHARD = 1_000_000, 64
REFERENCES, SUBJECTS, QUERIES = 100_000, (10_000, 100_000), 4096
ROWS = ("search", "ssim", "files", "png", "audit")
AUDITS = ("100000x100000", "1000000x100000")  # generated and training images


def median_seconds(calls: list[Callable[[], object]], repeats: int) -> list[float]:
    """Return the median time of each call; they take turns, so that what else the machine does befalls all of them."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats + 1):
        for call, own in zip(calls, times):
            start = time.perf_counter()
            call()
            own.append(time.perf_counter() - start)
    return [float(np.median(own[1:])) for own in times]  # the first compiles


def search(repeats: int) -> dict[str, Any]:
    """Return how fast six subjects are found, as a share of the product of matrices alone, and of FAISS."""
    import faiss  # not among the requirements: the rival of this row

    references, queries = unit_vectors(REFERENCES, 0), unit_vectors(QUERIES, 1)
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(references)
    faiss.omp_set_num_threads(os.cpu_count() or 1)

    def product() -> None:
        for start in range(0, QUERIES, 2048):
            for first in range(0, REFERENCES, 2048):
                queries[start : start + 2048] @ references[first : first + 2048].T

    row: dict[str, Any] = {}
    for subjects in SUBJECTS:
        number = np.random.default_rng(2).permutation(np.arange(REFERENCES) % subjects)
        ours, alone, theirs = median_seconds(
            [
                lambda: nearest_subjects(queries, references, number, 6),  # noqa: B023  called at once
                product,
                lambda: index.search(queries, 6),
            ],
            repeats,
        )
        row[f"{subjects} subjects"] = {
            "queries_a_second": round(QUERIES / ours),
            "share_of_product": round(alone / ours, 2),
            "times_faiss": round(theirs / ours, 2),
        }
    return row


def ssim(repeats: int) -> dict[str, Any]:
    """Return how many times as fast as scikit-image the SSIM of an explicit list of pairs is."""
    x, y = np.random.default_rng(0).random((2, 512, *SHAPE), np.float32)
    ours, theirs = median_seconds(
        [
            lambda: ssim_pairs(x, y, data_range=1.0),
            lambda: [structural_similarity(a, b, data_range=1.0) for a, b in zip(x, y)],
        ],
        repeats,
    )
    return {"ms_a_pair": round(ours / len(x) * 1e3, 4), "times_scikit_image": round(theirs / ours, 1)}


def png(folder: Path, baseline: Path | None) -> dict[str, Any]:
    """Return CPU seconds of the audit of phantoms, here and in another checkout in float32, and whether calls agree."""
    if not (folder / "generated" / f"generated_{PHANTOMS - 1:04d}.png").exists():
        write_phantoms(folder)
    runs = {"here": (ROOT, []), "here, amp False": (ROOT, ["--amp", "False"])}
    if baseline is not None:
        runs["baseline, amp False"] = baseline, ["--amp", "False"]
    row: dict[str, Any] = {}
    called = {}
    for name, (root, keys) in runs.items():
        output = folder / name.replace(", ", "_").replace(" ", "_")
        shutil.rmtree(output, ignore_errors=True)
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(root / "configs" / "detect.yaml")]
        command += [f"--{set_}_dir={(folder / set_).resolve()}" for set_ in ("train", "generated")]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(
            [*command, "--output_dir", str(output.resolve()), *keys], cwd=root, check=True, stdout=sys.stderr
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        row[name] = {"cpu_seconds": round(cpu, 1), "seconds": round(time.perf_counter() - start, 1)}
        called[name] = {line["generated_id"] for line in read_table(output / "matches.csv") if line["memorized"] == "1"}
        row[name]["called"] = len(called[name])
        row[name]["called_as_here"] = len(called[name] & called["here"])
    return row


def files(folder: Path) -> dict[str, Any]:
    """Return the most files that are open, or mapped, while a million cached images are read; and how long it takes.

    Images are of 8 x 8 pixels here, 64 in a shard as they are embedded, so that the disk need hold little.
    """
    shutil.rmtree(folder, ignore_errors=True)
    embedding_cache.MOST_IN_MEMORY = 0  # as if they were large
    cache = embedding_cache.EmbeddingCache(folder)
    contents = [f"{number:064d}" for number in range(CACHED)]
    image, vectors = LoadedImage(np.zeros((8, 8), np.float16), -1, float("nan")), unit_vectors(IN_SHARD, 6)[:, :16]
    start = time.perf_counter()
    for first in range(0, CACHED, IN_SHARD):
        cache.add(contents[first : first + IN_SHARD], [image] * IN_SHARD, vectors)
    row: dict[str, Any] = {"written_seconds": round(time.perf_counter() - start, 1)}
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.02):
            mapped = Path("/proc/self/maps").read_text().count(str(folder.resolve()))
            most = max(most, len(os.listdir("/proc/self/fd")) + mapped)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for name in ("first_read", "second_read"):
        start = time.perf_counter()
        reader = embedding_cache.EmbeddingCache(folder.resolve())
        found = reader.gather(reader.read(), contents)
        row[f"{name}_seconds"] = round(time.perf_counter() - start, 1)
    done.set()
    watcher.join()
    row |= {"images": len(found.images), "most_open": most, "peak_gib": round(peak(), 2)}
    shutil.rmtree(folder)
    return row


def peak() -> float:
    """Return the greatest memory of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@contextmanager
def stage(row: dict[str, Any], name: str) -> Iterator[None]:
    """Note what is done inside: its seconds, the greatest memory so far, and that of it which no file backs.

    Pages of a file that is read are dropped where the memory runs out; the rest must be there.
    """
    most, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal most
        ended = False
        while not ended:
            ended = done.wait(0.05)  # once more at the end, as a stage may be shorter
            status = Path("/proc/self/status").read_text()
            most = max(most, int(re.search(r"RssAnon:\s+(\d+)", status)[1]) / 2**20)  # type: ignore[index]

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    row[name] = {"seconds": round(seconds, 1), "peak_gib": round(peak(), 2), "anonymous_gib": round(most, 2)}
    print(name, row[name], flush=True)


def audit(generated: int, train: int, folder: Path) -> dict[str, Any]:
    """Return seconds and greatest memory of the stages of an audit of random embeddings."""
    row: dict[str, Any] = {}
    with stage(row, "embeddings"):
        folder.mkdir(parents=True, exist_ok=True)
        known = unit_vectors(train, 0)
        # on the disk, as those of a large set are
        file = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float32, (generated, DIMENSION))
        for start in range(0, generated, 8192):
            file[start : start + 8192] = unit_vectors(len(file[start : start + 8192]), start + 1)
        copies = np.arange(0, generated, COPIES)
        file[copies] = known[copies % train]
        del file  # and with it its pages
        made = np.asarray(np.load(folder / "vectors.npy", "r"))
        training_set, generated_set = random_set("train", train, known), random_set("new", generated, made)
    verifier = RandomVerifier(generated, train)
    auditor = Audit(RandomEmbedder(), verifier, Compose([]), statistic=LocalStatistic(), null_transform="none")
    with stage(row, "search and decide"):
        result = auditor(training_set, generated_set)
    with stage(row, "tables and page"):
        report = Report(folder, ROOT / "models" / "model.pt")
        report.write(result, Timing(0.0, 0))
    row["called"] = int(result.memorized.sum())
    row["page_mb"] = round((folder / "report.html").stat().st_size / 1e6, 1)
    row["table_mb"] = round((folder / "matches.csv").stat().st_size / 1e6, 1)
    return row


def draw_memory(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw the greatest memory of the audits against their pairs, and what a matrix of all cosines would need."""
    audits = sorted(
        (math.prod(map(int, row["row"].split()[1].split("x"))), row["row"].split()[1], row)
        for row in rows
        if row["row"].startswith("audit ")
    )
    if not audits:
        raise ValueError("expected rows of audits to draw, found none; run --rows audit first")
    pairs = np.array([count for count, _, _ in audits], float)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name in ("embeddings", "search and decide", "tables and page"):
        axes.plot(pairs, [row[name]["anonymous_gib"] for _, _, row in audits], "o-", label=name)
    axes.plot(pairs, 4 * pairs / 2**30, "--", color="grey", label="a matrix of all cosines")
    axes.set(xscale="log", yscale="log", xlabel="generated x training images", ylabel="memory, GiB", ylim=(0.1, None))
    labels = [" x ".join(f"{int(side):,}" for side in size.split("x")) for _, size, _ in audits]
    axes.set_xticks(pairs, labels, fontsize=7, rotation=20)
    axes.minorticks_off()
    axes.legend(frameon=False)
    figure.savefig(file, dpi=150)


def main() -> None:
    """Run the rows that are missing, each in a process of its own, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=ROWS)
    parser.add_argument("--images", nargs="*", default=AUDITS, help="generated x training images of the audits")
    parser.add_argument("--baseline", type=Path, help="another checkout, which audits the phantoms too")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output_dir", type=Path, default=Path("eval/scale"))
    parser.add_argument("--figure", type=Path, help="draw the memory of the audits into this file")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # the row of this process
    arguments = parser.parse_args()
    if arguments.only:
        name, _, size = arguments.only.partition(" ")
        if name == "audit":
            generated, train = map(int, size.split("x"))
            row = audit(generated, train, arguments.output_dir / size)
        elif name == "files":
            row = files(arguments.output_dir / "cache")
        elif name == "png":
            row = png(arguments.output_dir / "phantoms", arguments.baseline)
        else:
            row = {"search": search, "ssim": ssim}[name](arguments.repeats)
        print(json.dumps({"row": arguments.only, **row}))
        return
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    file = arguments.output_dir / "results.jsonl"
    known = {json.loads(line)["row"]: line for line in file.read_text().splitlines()} if file.exists() else {}
    rows = [name for name in arguments.rows if name != "audit"]
    rows += [f"audit {size}" for size in arguments.images if "audit" in arguments.rows]
    for row in rows:
        if row not in known:
            command = [sys.executable, __file__, "--only", row, "--repeats", str(arguments.repeats)]
            command += ["--output_dir", str(arguments.output_dir)]
            command += ["--baseline", str(arguments.baseline.resolve())] if arguments.baseline else []
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            known[row] = done.stdout.splitlines()[-1]
            with file.open("a") as log:
                log.write(known[row] + "\n")
        print(known[row], flush=True)
    if arguments.figure:
        draw_memory([json.loads(line) for line in known.values()], arguments.figure)


if __name__ == "__main__":
    main()
