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

"""What an audit says of sets that do not fit: known copies among generated images that were saved in another way.

python benchmarks/fit.py --dataset_dir IXI/participants.tsv [--rows rot90 inverted] [--output_dir eval/fit]

Each row changes one and the same generated set, as files, as it happens on the way from a generator to a folder. Of the
planted copies the table shows how many are called with their source, beside those of the plain row; how many
new images are called; the recall on the positive control; and what is printed. Rows that are done are not done again.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import nibabel
import numpy as np
from bundle_root import ROOT
from numpy.typing import NDArray
from PIL import Image
from planar_changes import ARRAYS, PLANAR, Change, blurred, noisy
from scripts import Embedder, component, find_images, run_audit, split_subjects
from scripts.auditing.audit import Audit
from scripts.auditing.degradation import RoundTrip
from scripts.auditing.fit import FitTest
from scripts.bundle.files import read_table, write_table
from scripts.bundle.weights import load_weights
from scripts.detect import AuditData
from scripts.images.items import Item, RandomTransform
from scripts.studies.planted import PlantedCopies
from volume_changes import VOLUMES, VolumeChange, brain


def autoencoded(image: NDArray, rng: np.random.RandomState) -> NDArray:
    """Pass the image through the autoencoder of the case study's latent diffusion models."""
    upright = image.T[None] / 255  # networks take (left-right, posterior-anterior)
    return _round_trip()(upright, rng)[0].T * 255


@functools.cache
def _round_trip() -> RoundTrip:
    network = component(ROOT / "configs" / "ldm" / "model.yaml", "autoencoder_def", size="cpu")
    load_weights(network, ROOT / "models" / "autoencoder.pt")
    return RoundTrip(network)


TWO_KINDS = "training set of two kinds"  # every second person's images, and the copies of them, have another contrast


@dataclass(frozen=True)
class Row:
    """What one audit said."""

    name: str
    copies: int
    called: int
    false: int
    new: int
    recall: float
    low: float
    verdict: str
    found: list[str]


def change_pictures(source: Path, target: Path, change: Change, suffix: str) -> None:
    """Write each picture of a folder changed, as PNG or array."""
    target.mkdir(parents=True)
    rng = np.random.RandomState(0)
    for path in sorted(source.iterdir()):
        changed = change(np.asarray(Image.open(path), np.float32), rng)
        if suffix == ".png":
            Image.fromarray(np.ascontiguousarray(changed).round().clip(0, 255).astype(np.uint8)).save(
                target / path.with_suffix(suffix).name
            )
        else:
            np.save(target / path.with_suffix(suffix).name, changed.astype(np.float32))


def other_contrast(image: NDArray) -> NDArray:
    """Return a picture with the contrast inside the object reversed, as T2 beside T1."""
    return np.where(image > 25, 268.0 - image, 0.0)


def write_two_kinds(base: Path, target: Path) -> tuple[Path, Path]:
    """Write both sets with another contrast for every second subject, and every second new image; return them."""
    rows = read_table(base / "train.csv")
    second = set(sorted({row["subject_id"] for row in rows})[::2])
    for folder in ("train", "generated"):
        (target / folder).mkdir(parents=True)

    def write(source: Path, path: Path, other: bool) -> None:
        image = np.asarray(Image.open(source), np.float32)
        changed = other_contrast(image) if other else image
        Image.fromarray(changed.clip(0, 255).astype(np.uint8)).save(path)

    for row in rows:
        source, row["image"] = base / row["image"], str(Path("train") / Path(row["image"]).name)
        write(source, target / row["image"], row["subject_id"] in second)
    write_table(target / "train.csv", rows)
    for number, row in enumerate(read_table(base / "truth.csv")):
        path = next((base / "generated").glob(f"{Path(row['generated_id']).name.split('.')[0]}.*"))
        other = row["subject_id"] in second if row["subject_id"] else number % 2 == 0
        write(path, target / "generated" / path.name, other)
    return target / "train.csv", target / "generated"


def change_volumes(source: Path, target: Path, change: VolumeChange) -> None:
    """Write each volume of a folder changed."""
    target.mkdir(parents=True)
    rng = np.random.RandomState(0)
    for path in sorted(source.iterdir()):
        volume = nibabel.Nifti1Image.from_filename(path)
        array, affine = change(volume.get_fdata(dtype=np.float32), volume.affine, rng)
        nibabel.save(nibabel.Nifti1Image(array, affine), target / path.name)


def audited(name: str, train: Path, generated: Path, truth: Path, embedder: Embedder, audit: Audit) -> Row:
    """Return what an audit of two folders says, against the planted truth."""
    result = run_audit(AuditData(train, generated), embedder, audit)
    sources = {Path(row["generated_id"]).name.split(".")[0]: row["subject_id"] for row in read_table(truth)}
    called = false = 0
    for unit in np.flatnonzero(result.memorized):
        match = result.match(int(unit))
        source = sources[Path(result.generated.items[match.file]["id"]).name.split(".")[0]]
        called += source == result.subject_names[match.subject] and bool(source)
        false += source != result.subject_names[match.subject]
    copies = sum(map(bool, sources.values()))
    return Row(
        name=name,
        copies=copies,
        called=called,
        false=false,
        new=len(sources) - copies,
        recall=result.control.recall,
        low=result.control.ci95[0],
        verdict=str(result.verdict),
        found=["kinds"] * bool(result.calibration.kinds)
        + [finding.kind for finding in result.fit.findings]
        + [doubt.split(":")[0] for doubt in result.doubts],
    )


def unseen(dataset_dir: str) -> list[Item]:
    """Return the volumes of subjects that the embedder never saw."""
    return split_subjects(find_images(dataset_dir), ROOT / "configs/splits/ixi.json", 0.1, 0)["test"]


def strengths(volumes: bool) -> dict[str, RandomTransform]:
    """Return how copies are degraded, by strength."""
    files = [ROOT / "configs" / name for name in ("planted_copies.yaml", "planted_volumes.yaml")]
    return component(files if volumes else files[0], "strengths")


def run(dataset_dir: str, output: Path, names: Sequence[str]) -> list[Row]:
    """Return the rows of these names, audited now or before."""
    items = unseen(dataset_dir)
    preprocessing = component(ROOT / "configs/inference.yaml", "preprocessing")
    output.mkdir(parents=True, exist_ok=True)
    log = output / "rows.jsonl"
    rows = [Row(**json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []
    for name in names:
        if any(row.name == name for row in rows):
            continue
        volumes = name.startswith("volumes")
        bare = name == "volumes, skull-stripped"
        base = output / ("base_volumes" if volumes else "base")
        source = output / "base_stripped" if bare else base
        counts = (20, 10, 6) if volumes else (35, 30, 30)  # subjects in train, copies, new images
        for folder in dict.fromkeys((base, source)):
            if not (folder / "truth.csv").exists():
                shutil.rmtree(folder, ignore_errors=True)
                sets = PlantedCopies(items, preprocessing, *counts, volumes=volumes)
                if folder != base:
                    sets.cache = {subject: [(None, brain(item))] for subject, item in sets.items.items()}
                sets.write(folder, strengths(volumes)["mild"], seed=1)  # one seed: the same copies, moved alike
        generated = output / "changed" / name.replace(" ", "_")
        shutil.rmtree(generated, ignore_errors=True)
        train = base / "train.csv"
        if name == TWO_KINDS:
            train, generated = write_two_kinds(base, generated)
        elif volumes:
            change_volumes(source / "generated", generated, VOLUMES[name])
        else:
            change = (PLANAR | ARRAYS)[name]
            change_pictures(base / "generated", generated, change, ".npy" if name in ARRAYS else ".png")
        decided = "whole" if volumes else "slices"
        audit = component(ROOT / "configs/detect.yaml", "audit", output_dir=str(output / "cache"), volumes=decided)
        row = audited(name, train, generated, base / "truth.csv", audit.embedder, audit)
        print(json.dumps(asdict(row)), flush=True)
        with log.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        rows.append(row)
    return [row for row in rows if row.name in names]


SOUND: dict[str, Change] = {
    "as it is": PLANAR["plain"],
    "blurred by 1": blurred(1.0),
    "blurred by 2": blurred(2.0),
    "noise of 4 %": noisy(10.0),
    "noise of 8 %": noisy(20.0),
    "darker": lambda image, rng: 255 * (image / 255) ** 1.6,
    "brighter": lambda image, rng: 255 * (image / 255) ** 0.6,
    "autoencoded": autoencoded,
}


def sound(dataset_dir: str, output: Path, draws: int) -> list[dict[str, object]]:
    """Return what the fit test says of sets that fit: random splits, 0 to 50 % copies, changed as generators do."""
    items = unseen(dataset_dir)
    degrade = strengths(volumes=False)
    sets = PlantedCopies(items, component(ROOT / "configs/inference.yaml", "preprocessing"), copies=0, new=64)
    embedder = component(ROOT / "configs/detect.yaml", "embedder", output_dir=str(output / "cache"))
    log = output / "sound.jsonl"
    rows: list[dict[str, object]] = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for draw in range(len(rows), draws):
        name, change = list(SOUND.items())[draw % len(SOUND)]
        copies = (0, 6, 32)[draw % 3]
        sets.copies, sets.new = copies, 64 - copies
        folder, changed = output / "sound", output / "changed" / "sound"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(changed, ignore_errors=True)
        sets.write(folder, degrade[("mild", "strong")[draw % 2]], seed=100 + draw)
        change_pictures(folder / "generated", changed, change, ".png")
        train = embedder.embed_files(find_images(folder / "train.csv"))
        fit = FitTest()(train, find_images(changed, warn=False), embedder)
        found = [finding.kind for finding in fit.findings]
        share = (fit.likeness or 0) / (fit.expected or 1)
        rows.append({"change": name, "copies": copies, "likeness": round(share, 3), "fits": fit.fits, "found": found})
        print(json.dumps(rows[-1]), flush=True)
        with log.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    return rows[:draws]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [
        "| generated images | copies called | false | recall on the control | answer | said |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.name} | {row.called} of {row.copies} | {row.false} of {row.new} | {row.recall:.0%} | {row.verdict} | "
        f"{', '.join(row.found)} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True, help="a datalist of the IXI volumes")
    parser.add_argument("--output_dir", default="eval/fit", type=Path)
    parser.add_argument("--rows", nargs="*", default=[*PLANAR, *ARRAYS, TWO_KINDS, *VOLUMES], help="all by default")
    parser.add_argument("--sound", type=int, default=0, metavar="DRAWS", help="look at so many sets that fit instead")
    given = parser.parse_args()
    if given.sound:
        rows = sound(given.dataset_dir, given.output_dir, given.sound)
        print(f"{sum(not row['fits'] for row in rows)} do not fit, {sum(bool(row['found']) for row in rows)} findings")
        return
    print(table(run(given.dataset_dir, given.output_dir, given.rows)))


if __name__ == "__main__":
    main()
