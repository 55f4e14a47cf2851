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

"""Do the error rates hold? Audits with a known truth, simulated and on real slices: the table of docs/validity.md.

python benchmarks/validity.py                                                    simulated, about ten minutes
python benchmarks/validity.py --dataset_dir IXI/participants.tsv                 real slices too

Every function returns plain numbers and takes the mistake that it must notice as an argument (`corrected=False`), so
that tests can show that a wrong method would fail.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, stats
from scipy.spatial.distance import cdist
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.audit.degradation import Degradation, RoundTrip  # noqa: E402
from scripts.audit.search import Search, Units  # noqa: E402
from scripts.bundle.components import component  # noqa: E402
from scripts.bundle.weights import load_weights  # noqa: E402
from scripts.decision.null import Null  # noqa: E402
from scripts.decision.rates import benjamini_hochberg, exact_interval, leaked_subjects  # noqa: E402
from scripts.decision.statistic import LEAST_DISTANCE, NEIGHBOURS, local_statistic  # noqa: E402
from scripts.embedder.embedding_set import EmbeddingSet  # noqa: E402
from scripts.images.datalists import find_images  # noqa: E402
from scripts.similarity.rendering import render  # noqa: E402
from scripts.similarity.verification import Alignment, Verifier  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
CONFIG = str(ROOT / "configs" / "detect.yaml")
FDR = 0.05
Sampler = Callable[[int], NDArray]


# --- populations: each returns a function that draws so many images of different people


def iid(rng: np.random.RandomState) -> Sampler:
    """Twenty independent features."""
    return lambda count: rng.normal(size=(count, 20))


def low_dimensional(rng: np.random.RandomState) -> Sampler:
    """Five features."""
    return lambda count: rng.normal(size=(count, 5))


def eight_dimensional(rng: np.random.RandomState) -> Sampler:
    """Eight features."""
    return lambda count: rng.normal(size=(count, 8))


def three_dimensional(rng: np.random.RandomState) -> Sampler:
    """Three features: one stranger in 1,400 is as near as a copy is, so copies cannot stand out."""
    return lambda count: rng.normal(size=(count, 3))


def clustered(rng: np.random.RandomState) -> Sampler:
    """Ten kinds of people, five times as far apart as people of a kind."""
    centres = 5 * rng.normal(size=(10, 8))
    return lambda count: centres[rng.randint(10, size=count)] + rng.normal(size=(count, 8))


def look_alikes(rng: np.random.RandomState) -> Sampler:
    """A tenth of all people are one of 200 faces that others have too, but for a little."""
    faces = rng.normal(size=(200, 20))

    def draw(count: int) -> NDArray:
        people = rng.normal(size=(count, 20))
        common = rng.rand(count) < 0.1
        people[common] = faces[rng.randint(200, size=common.sum())] + 0.1 * rng.normal(size=(common.sum(), 20))
        return people

    return draw


POPULATIONS = {
    "iid": iid,
    "eight-dimensional": eight_dimensional,
    "low-dimensional": low_dimensional,
    "three-dimensional": three_dimensional,
    "clustered": clustered,
    "look-alikes": look_alikes,
}


# --- one simulated audit


def statistic(queries: NDArray, train: NDArray, leave_out: bool = False, local: bool = True, scale: float = 1.0):
    """Return T of each query against all training images, and the nearest one; `local=False`: raw closeness."""
    distance = scale * cdist(queries, train)
    if leave_out:
        np.fill_diagonal(distance, np.inf)
    nearest = distance.argmin(1)
    closest = np.partition(distance, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
    return (local_statistic(1 - closest) if local else -closest.min(1)), nearest


def leave_one_out(train: NDArray, correction: int = 2, local: bool = True) -> Null:
    """Return the null of one image a subject, each left out in turn."""
    values, nearest = statistic(train, train, leave_out=True, local=local)
    return Null(values, np.arange(len(train)), np.full(len(train), np.nan), correction, nearest)


def audit(train: NDArray, generated: NDArray, method: str = "tail", correction: int = 2):
    """Return p-values and nearest training subjects of the generated images."""
    values, nearest = statistic(generated, train)
    return leave_one_out(train, correction).p_values(values, np.full(len(values), np.nan), method), nearest


def copies_of(train: NDArray, which: NDArray, rng: np.random.RandomState, closeness: float = 0.1) -> NDArray:
    """Return copies at `closeness` times the median distance between neighbours, in random directions."""
    distance = cdist(train, train)
    np.fill_diagonal(distance, np.inf)
    step = rng.normal(size=(len(which), train.shape[1]))
    step /= np.linalg.norm(step, axis=1, keepdims=True)
    return train[which] + closeness * np.median(distance.min(1)) * step


# --- the questions


def rank_floor(subjects: int, audits: int = 2000, queries: int = 5, corrected: bool = True) -> float:
    """Return P(p <= c / (n + 1)) over its nominal value, the smallest rank p-value with a leave-one-subject-out null.

    Of a query that copies nothing, in three dimensions, where the closest two subjects are nearly always each other's
    neighbour; uncorrected (c = 1, not 2), it is nearly doubled. In more dimensions they are so more rarely.
    """
    rng, hits, c = np.random.RandomState(0), 0, 2 if corrected else 1
    for _ in range(audits):
        draw = three_dimensional(rng)
        p, _ = audit(draw(subjects), draw(queries), "rank", c)
        hits += int((p <= c / (subjects + 1) + 1e-12).sum())
    return hits / (audits * queries) / (c / (subjects + 1))


def levels(audits: int = 400, subjects: int = 100, corrected: bool = True) -> float:
    """Return type-I error over alpha = 0.05 where generated slices lie at two of eight levels.

    Levels differ in how near strangers are. Corrected, the null holds each subject's slice at the query's level;
    else a random one of its slices.
    """
    rng, hits, total = np.random.RandomState(1), 0, 0
    dimensions = np.linspace(3, 24, 8).astype(int)
    for _ in range(audits):
        trains = [rng.normal(size=(subjects, d)) for d in dimensions]
        values = np.stack([statistic(t, t, leave_out=True)[0] for t in trains], axis=1)  # (S, 8)
        if corrected:
            subject, level = np.divmod(np.arange(values.size), 8)
            null = Null(values.ravel(), subject, level.astype(float), 2)
        else:
            random = values[np.arange(subjects), rng.randint(8, size=subjects)]
            null = Null(random, np.arange(subjects), np.full(subjects, np.nan), 2)
        for level in (0, 1):
            t, _ = statistic(rng.normal(size=(20, dimensions[level])), trains[level])
            p = null.p_values(t, np.full(20, float(level)), "rank")
            hits, total = hits + int((p <= FDR).sum()), total + 20
    return hits / total / FDR


def nothing_memorized(population: str, subjects: int, generated: int, audits: int = 400, corrected: bool = True) -> int:
    """Return in how many audits anything is called, where nothing is copied; uncorrected, p <= 0.05 calls."""
    count = 0
    for number in range(audits):
        rng = np.random.RandomState(number)
        draw = POPULATIONS[population](rng)
        p, _ = audit(draw(subjects), draw(generated))
        count += bool(((benjamini_hochberg(p) if corrected else p) <= FDR).any())
    return count


def mixed(
    population: str,
    share: float,
    subjects: int = 100,
    generated: int = 1000,
    audits: int = 200,
    corrected: bool = True,
) -> dict[str, float]:
    """Return mean false-discovery share, its standard error and the recall, of audits with this share of copies."""
    shares, recalls = [], []
    for number in range(audits):
        rng = np.random.RandomState(number)
        draw = POPULATIONS[population](rng)
        train, count = draw(subjects), round(share * generated)
        copies = copies_of(train, rng.randint(subjects, size=count), rng)
        p, _ = audit(train, np.concatenate([copies, draw(generated - count)]))
        called = (benjamini_hochberg(p) if corrected else p) <= FDR
        shares.append(called[count:].sum() / max(1, called.sum()))
        recalls.append(called[:count].mean() if count else np.nan)
    return {
        "false_share": float(np.mean(shares)),
        "standard_error": float(np.std(shares) / np.sqrt(audits)),
        "recall": float(np.mean(recalls)),
    }


def smoothing(audits: int = 400, corrected: bool = True) -> float:
    """Return the type-I error at 0.05 where a generator that copies nothing brings all distances to 0.6 of theirs.

    As blur does. Corrected, by the local statistic; else by the raw similarity.
    """
    rng, hits = np.random.RandomState(2), []
    for _ in range(audits):
        train = rng.normal(size=(100, 20))
        values, _ = statistic(rng.normal(size=(20, 20)), train, local=corrected, scale=0.6)
        p = leave_one_out(train, local=corrected).p_values(values, np.full(20, np.nan), "rank")
        hits.append((p <= FDR).mean())
    return float(np.mean(hits))


def leaked(audits: int = 200, corrected: bool = True) -> dict[str, float]:
    """Return the subject-level false share and power: 5 leaked subjects of 100, 200 copies among 5,000 images.

    Corrected, by the subjects' own test; else a subject is leaked once one of its images is called.
    """
    shares, powers = [], []
    for number in range(audits):
        rng = np.random.RandomState(number)
        draw = iid(rng)
        train = draw(100)
        copies = copies_of(train, np.repeat(np.arange(5), 40), rng)
        p, nearest = audit(train, np.concatenate([copies, draw(4800)]))
        if corrected:
            names, _, q = leaked_subjects(p, nearest)
            found = names[q <= FDR]
        else:
            found = np.unique(nearest[benjamini_hochberg(p) <= FDR])
        shares.append((found >= 5).sum() / max(1, len(found)))
        powers.append((found < 5).sum() / 5)
    return {"false_share": float(np.mean(shares)), "power": float(np.mean(powers))}


def stored_twice(audits: int = 200, corrected: bool = True) -> float:
    """Return the recall of copies of scans that stand in the training set under two ids, 5 % of 100 subjects.

    Corrected, the two ids are merged into one subject.
    """
    recalls = []
    for number in range(audits):
        rng = np.random.RandomState(number)
        draw = iid(rng)
        train = draw(100)
        again = copies_of(train, np.arange(5), rng, closeness=0.02)
        copies = copies_of(train, np.repeat(np.arange(5), 10), rng)
        generated = np.concatenate([copies, draw(950)])

        scans = np.concatenate([train, again])
        own, found = cdist(scans, scans), cdist(generated, scans)
        if corrected:  # the distance to a merged subject is that to the nearer of its scans
            own, found = own[:100], np.c_[np.minimum(found[:, :5], found[:, 100:]), found[:, 5:100]]
            own = np.c_[np.minimum(own[:, :5], own[:, 100:]), own[:, 5:100]]
        np.fill_diagonal(own, np.inf)
        null = Null(_local(own), np.arange(len(own)), np.full(len(own), np.nan), 2, own.argmin(1))
        p = null.p_values(_local(found), np.full(1000, np.nan))
        recalls.append((benjamini_hochberg(p) <= FDR)[:50].mean())
    return float(np.mean(recalls))


def _local(distance: NDArray) -> NDArray:
    return local_statistic(1 - np.partition(distance, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS])


# --- real slices


class Remembering:
    """A verifier that aligns each pair of images once: random splits of the same subjects ask again and again."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier, self.known = verifier, {}

    def align(self, queries: NDArray, references: NDArray) -> Alignment:
        keys = [
            hashlib.blake2b(q.tobytes() + r.tobytes(), digest_size=12).digest() for q, r in zip(queries, references)
        ]
        new = [i for i, key in enumerate(keys) if key not in self.known]
        if new:
            found = self.verifier.align(queries[new], references[new])
            for i, *values in zip(new, *found):
                self.known[keys[i]] = tuple(values)
        return Alignment(*(np.stack(values) for values in zip(*(self.known[key] for key in keys))))


class RealSlices:
    """Audits of real slices with a known truth, by the audit of configs/detect.yaml.

    Args:
        dataset_dir: a datalist of volumes.
        parts: of the split by subject. All three have 150 subjects, of which the embedder saw 90 as it was trained; it
            only retrieves, and what is decided on is the alignment.
        levels: slices of a subject, evenly over its brain.
        keys: of configs/detect.yaml that differ.
    """

    def __init__(self, dataset_dir: str, split_file: str, parts: tuple[str, ...], levels: int = 3, **keys) -> None:
        # the positive control is asked nothing here, but merges near-copies
        self.audit = component(CONFIG, "audit", output_dir="eval/validity", control_images=20, **keys)
        self.audit.verifier = Remembering(self.audit.verifier)
        split = json.loads(Path(split_file).read_text())
        wanted = {subject for part in parts for subject in split[part]}
        items = [item for item in find_images(dataset_dir) if item["subject_id"] in wanted]
        chain = component(CONFIG, "preprocessing")
        self.subjects: dict[str, tuple[NDArray, NDArray]] = {}
        for item in tqdm(items, desc="slices"):
            slices = chain(dict(item))
            chosen = np.unique(np.linspace(0, len(slices) - 1, levels).round().astype(int))
            self.subjects[item["subject_id"]] = (
                np.stack([np.asarray(slices[i]["image"])[0] for i in chosen]).astype(np.float16),
                np.array([slices[i]["level"] for i in chosen], float),
            )

    @property
    def pixels(self) -> NDArray:
        """All slices of all subjects, (N, H, W)."""
        return np.concatenate([images for images, _ in self.subjects.values()])

    def run(
        self,
        seed: int,
        train_subjects: int,
        generated: int,
        share: float = 0.0,
        strength: Callable | None = None,
        change: Callable[[NDArray, np.random.RandomState], NDArray] | None = None,
        raw: bool = False,
        radius: float = 0.0,
    ) -> dict[str, float]:
        """Return calls, false-discovery share and recall of one audit of a random split.

        Args:
            train_subjects: the rest is unseen and gives the images that are no copies.
            generated: images, of which `share` are copies by `strength`.
            change: what the generator does to every image.
            radius: of the part of a training image, in pixels, that stands in an unseen one; 0 copies all of it.
            raw: decide on the aligned SSIM itself, against a null that nothing matched: the mistake.
        """
        rng = np.random.RandomState(seed)
        names = rng.permutation(sorted(self.subjects)).tolist()
        train, unseen = sorted(names[:train_subjects]), sorted(names[train_subjects:])
        copies = round(share * generated)
        images, levels = [], []
        for number in range(generated):
            pixels, level = self.subjects[str(rng.choice(train if number < copies else unseen))]
            slice_ = rng.randint(len(pixels))
            image = pixels[slice_].astype(np.float32)
            if radius and number < copies:
                image = self._part(image, level[slice_], unseen, radius, rng)
            if strength is not None:  # new images are moved and degraded as the copies are
                strength.set_random_state(state=rng)
                image = strength({"image": torch.from_numpy(image[None])})["image"][0].numpy()
            images.append(image)
            levels.append(level[slice_])
        pixels = np.stack(images)
        if change is not None:
            pixels = change(pixels, rng)
        embed = self.audit.embedder.embed_images
        trains = np.concatenate([self.subjects[name][0] for name in train])
        owner = np.repeat(train, [len(self.subjects[name][0]) for name in train])
        sets = [
            _planar(trains, np.concatenate([self.subjects[name][1] for name in train]), owner, embed),
            _planar(pixels, np.array(levels), [f"g{i}" for i in range(generated)], embed),
        ]
        if raw:
            number = np.unique(owner, return_inverse=True)[1]
            search = Search(sets[0].vectors, sets[0].images, number, self.audit.verifier, self.audit.k)
            null, values = (
                -np.log(np.maximum(1 - search(units, leave_out).aligned_ssim.max(1), LEAST_DISTANCE))
                for units, leave_out in (
                    (Units(data.vectors, data.images, np.arange(len(data)), data.level, who), bool(who[0] >= 0))
                    for data, who in zip(sets, (number, np.full(generated, -1)))
                )
            )
            p = Null(null, number, sets[0].level, 2).p_values(values, sets[1].level, "tail")
            called = benjamini_hochberg(p) <= FDR
        else:
            called = self.audit(*sets).memorized
        return {
            "calls": int(called.sum()),
            "type_one": float(called[copies:].mean()),
            "false_share": float(called[copies:].sum() / max(1, called.sum())),
            "recall": float(called[:copies].mean()) if copies else float("nan"),
        }

    def _part(self, source: NDArray, level: float, unseen: list, radius: float, rng: np.random.RandomState) -> NDArray:
        """Put a disc of `source` into an unseen image of about its level, to which it is aligned first."""
        pixels, levels = self.subjects[str(rng.choice(unseen))]
        host = pixels[np.abs(levels - level).argmin()].astype(np.float32)[None]
        warped, _ = render(host, source[None], Verifier().align(host, source[None]).matrix)
        inside = np.argwhere(ndimage.distance_transform_edt(host[0] > 0.1) > 0.7 * radius)
        row, column = inside[rng.randint(len(inside))] if len(inside) else np.array(host.shape[1:]) // 2
        y, x = np.ogrid[: host.shape[1], : host.shape[2]]
        weight = ndimage.gaussian_filter((np.hypot(y - row, x - column) < radius).astype(np.float32), 1.0)
        return weight * warped[0] + (1 - weight) * host[0]


def _planar(images: NDArray, level: NDArray, subjects, embed: Callable) -> EmbeddingSet:
    items = [{"id": f"{s}_{i}", "image": "", "subject_id": str(s)} for i, s in enumerate(subjects)]
    count = np.arange(len(images))
    images = images.astype(np.float16)
    return EmbeddingSet(items, count, np.full(len(images), -1), level, embed(images), images, [])


def blurred(images: NDArray, rng: np.random.RandomState) -> NDArray:
    """Blur of one voxel (sigma)."""
    return Degradation(blur=1.0)(images, rng)


def noisy(images: NDArray, rng: np.random.RandomState) -> NDArray:
    """Noise of 0.04 of the range."""
    return Degradation(noise=0.04)(images, rng)


def known_transforms(slices: NDArray, count: int = 500, seed: int = 0) -> dict[str, float]:
    """Return how many known moves of real slices (N, H, W) the verifier does not recover, and its error in pixels.

    Mirrored or not, turned by up to 15 degrees, shifted by up to a tenth of the image, scaled by up to a tenth, gamma
    0.7-1.4, all uniform. The error is the mean distance, over a grid on the head, between where a pixel came from and
    where the verifier says; above 1 pixel it has failed.
    """
    rng = np.random.RandomState(seed)
    references = slices[rng.randint(len(slices), size=count)].astype(np.float32)
    size = np.array(slices.shape[1:])
    centre = (size - 1) / 2
    truth = np.empty((count, 2, 3))
    for m in truth:
        angle, scale = np.deg2rad(rng.uniform(-15, 15)), rng.uniform(0.9, 1.1)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        m[:, :2], m[:, 2] = turn * rng.choice([1, -1], 2), rng.uniform(-0.1, 0.1, 2) * size
    queries = np.stack(
        [
            ndimage.affine_transform(image, m[:, :2], centre + m[:, 2] - m[:, :2] @ centre, order=1)
            ** rng.uniform(0.7, 1.4)
            for image, m in zip(references, truth)
        ]
    )
    start = perf_counter()
    found = Verifier().align(queries, references)
    seconds = perf_counter() - start
    errors = []
    for image, m, got in zip(queries, truth, found.matrix):
        points = np.argwhere(image > 0.1)[::37] - centre
        difference = points @ (m - got)[:, :2].T + (m - got)[:, 2]
        errors.append(np.linalg.norm(difference, axis=1).mean())
    return {
        "failures": int((np.array(errors) > 1).sum()),
        "pairs": count,
        "median_error_pixels": float(np.median(errors)),
        "largest_error_pixels": float(np.max(errors)),
        "milliseconds_a_pair": 1000 * seconds / count,
    }


# --- the table


def binomial_limit(calls: int, level: float = FDR) -> int:
    """Return the most false ones among `calls` that a share of `level` explains, one-sided at 99.9 %."""
    return int(stats.binom.ppf(0.999, calls, level))


def simulated() -> dict[str, Callable[[], object]]:
    """Return the questions that need no image, by name, in the order of the table."""
    rows: dict[str, Callable[[], object]] = {}
    for n in (50, 100):
        for corrected in (True, False):
            name = f"rank floor, n = {n}" + ("" if corrected else ", without the correction 2")
            rows[name] = functools.partial(rank_floor, n, corrected=corrected)
    rows["levels"] = levels
    rows["levels, null at a random level"] = functools.partial(levels, corrected=False)
    for population in POPULATIONS:
        for n, m in ((20, 100), (20, 1000), (50, 1000), (100, 100), (100, 1000), (100, 10_000), (500, 1000)):
            rows[f"nothing memorized, {population}, n = {n}, {m} images"] = functools.partial(
                nothing_memorized, population, n, m
            )
        for share in (0.0, 0.01, 0.05, 0.2, 0.5):
            rows[f"mixed, {population}, {share:.0%} copies"] = functools.partial(mixed, population, share)
    rows["mixed, iid, 1% copies, p <= 0.05 calls"] = functools.partial(mixed, "iid", 0.01, corrected=False)
    rows["smoothing by the generator"] = smoothing
    rows["smoothing by the generator, raw similarity"] = functools.partial(smoothing, corrected=False)
    rows["5 leaked subjects, 200 copies among 5,000"] = leaked
    rows["5 leaked subjects, from the images' calls"] = functools.partial(leaked, corrected=False)
    rows["5 % of scans stored twice"] = stored_twice
    rows["5 % of scans stored twice, not merged"] = functools.partial(stored_twice, corrected=False)
    return rows


def real(dataset_dir: str, split_file: str, autoencoder_file: str) -> dict[str, Callable[[], object]]:
    """Return the questions on real slices, which an autoencoder of configs/ldm/ passes too."""
    everybody = functools.cache(lambda: RealSlices(dataset_dir, split_file, ("train", "validation", "test")))
    strengths = component(str(ROOT / "configs" / "planted_copies.yaml"), "strengths")

    def any_call(splits: int, **options) -> dict[str, float]:
        results = [everybody().run(seed, 100, 100, **options) for seed in tqdm(range(splits))]
        count = sum(r["calls"] > 0 for r in results)
        low, high = exact_interval(count, splits)
        type_one = float(np.mean([r["type_one"] for r in results]))
        return {"audits": splits, "with_a_call": count, "ci95": [low, high], "type_one": type_one}

    def truth(subjects: int, share: float, strength: str, splits: int) -> dict[str, float]:
        results = [everybody().run(seed, subjects, 100, share, strengths[strength]) for seed in tqdm(range(splits))]
        called = sum(r["calls"] for r in results)
        wrong = round(sum(r["false_share"] * r["calls"] for r in results))
        return {
            "audits": splits,
            "recall": float(np.mean([r["recall"] for r in results])),
            "mean_false_share": float(np.mean([r["false_share"] for r in results])),
            "called": called,
            "wrong": wrong,
        }

    rows: dict[str, Callable[[], object]] = {
        "known transforms of real slices recovered": lambda: known_transforms(everybody().pixels),
        "real slices, nothing memorized": functools.partial(any_call, 200),
        "real slices, unseen ones blurred": functools.partial(any_call, 40, change=blurred),
        "real slices, unseen ones noisy": functools.partial(any_call, 40, change=noisy),
        "real slices, unseen ones blurred, raw similarity": functools.partial(any_call, 40, change=blurred, raw=True),
    }
    model = str(ROOT / "configs" / "ldm" / "model.yaml")
    trip = RoundTrip(load_weights(component(model, "autoencoder_def", size="cpu"), autoencoder_file))
    for raw in (False, True):
        name = "real slices, unseen ones through an autoencoder" + (", raw similarity" if raw else "")
        rows[name] = functools.partial(any_call, 40, change=trip, raw=raw)
    windows = functools.cache(
        lambda: RealSlices(dataset_dir, split_file, ("train", "validation", "test"), window=30, k=12)
    )

    def part(population: Callable[[], RealSlices], radius: int, splits: int = 3) -> dict[str, float]:
        results = [population().run(seed, 100, 100, 0.3, radius=radius) for seed in tqdm(range(splits))]
        return {key: float(np.mean([r[key] for r in results])) for key in ("recall", "false_share")}

    for radius in (10, 15, 20, 30, 40):
        rows[f"a part of {4 * radius} mm copied, the whole compared"] = functools.partial(part, everybody, radius)
        rows[f"a part of {4 * radius} mm copied, windows of 60 mm"] = functools.partial(part, windows, radius)
    for subjects in (20, 50, 100):
        for share in (0.01, 0.05, 0.2, 0.5):
            name = f"real slices, n = {subjects}, {share:.0%} strong copies"
            rows[name] = functools.partial(truth, subjects, share, "strong", 10)
    return rows


SHOWN = "shown, nothing asked"
# beginning of a row's name -> what is asked of it, and whether the answer fulfils it; the first that fits counts
ASKED: list[tuple[str, str, Callable[[Any], bool]]] = [
    ("rank floor, n = 50, without", "above 1.7: the mistake shows", lambda a: a > 1.7),
    ("rank floor, n = 100, without", "above 1.7: the mistake shows", lambda a: a > 1.7),
    ("rank floor", "0.8 to 1.15 of nominal", lambda a: 0.8 <= a <= 1.15),
    ("levels, null at a random", "above 2: the mistake shows", lambda a: a > 2),
    ("levels", "0.6 to 1.2 of nominal", lambda a: 0.6 <= a <= 1.2),
    ("nothing memorized, look-alikes", SHOWN, lambda a: True),
    ("nothing memorized", "at most 35 of 400 audits with any call", lambda a: a <= 35),
    ("mixed, iid, 1% copies, p", "false share above 0.5: the mistake shows", lambda a: a["false_share"] > 0.5),
    ("mixed, look-alikes", SHOWN, lambda a: True),
    (
        "mixed, iid, 1%",
        "false share at most 0.05 + 3 standard errors; recall at least 0.95",
        lambda a: a["false_share"] <= FDR + 3 * a["standard_error"] and a["recall"] >= 0.95,
    ),
    (
        "mixed, low-dimensional, 1%",
        "false share at most 0.05 + 3 standard errors; recall at least 0.80",
        lambda a: a["false_share"] <= FDR + 3 * a["standard_error"] and a["recall"] >= 0.80,
    ),
    (
        "mixed",
        "false share at most 0.05 + 3 standard errors",
        lambda a: a["false_share"] <= FDR + 3 * a["standard_error"],
    ),
    ("smoothing by the generator, raw", "above 0.20: the mistake shows", lambda a: a > 0.2),
    ("smoothing", "at most 0.07", lambda a: a <= 0.07),
    ("5 leaked subjects, from", "false share above 0.15: the mistake shows", lambda a: a["false_share"] > 0.15),
    (
        "5 leaked subjects",
        "false share at most 0.05, power at least 0.90",
        lambda a: a["false_share"] <= FDR and a["power"] >= 0.9,
    ),
    ("5 % of scans stored twice, not", "recall below 0.10: the mistake shows", lambda a: a < 0.1),
    ("5 % of scans stored twice", "recall at least 0.90", lambda a: a >= 0.9),
    ("a part of", SHOWN, lambda a: True),
    ("known transforms", "no failure", lambda a: a["failures"] == 0),
    ("real slices, unseen ones through an autoencoder, raw", SHOWN, lambda a: True),
    (
        "real slices, unseen ones blurred, raw",
        "most audits with a call: the mistake shows",
        lambda a: a["with_a_call"] > 0.5 * a["audits"],
    ),
    (
        "real slices, n =",
        "wrong calls within a 99.9 % binomial limit",
        lambda a: a["wrong"] <= binomial_limit(a["called"]),
    ),
    ("real slices", "at most a tenth of the audits with a call", lambda a: a["with_a_call"] <= 0.1 * a["audits"]),
]


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the answers as Markdown, with what is asked of each."""
    lines = ["| audits | found | asked | holds |", "|---|---|---|---|"]
    for name, row in found.items():
        _, asked, holds = next(entry for entry in ASKED if name.startswith(entry[0]))
        answer = row["answer"]
        if isinstance(answer, Mapping):
            text = ", ".join(f"{key.replace('_', ' ')} {_text(value)}" for key, value in answer.items())
        else:
            text = _text(answer)
        verdict = "" if asked == SHOWN else "yes" if holds(answer) else "**no**"
        lines.append(f"| {name} | {text} | {asked} | {verdict} |")
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " to ".join(map(_text, value))
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", help="a datalist of volumes; without it only the simulated rows")
    parser.add_argument("--split_file", default=str(ROOT / "configs" / "splits" / "ixi.json"))
    parser.add_argument(
        "--autoencoder_file",
        default=str(ROOT / "models" / "autoencoder.pt"),
        help="weights of configs/ldm/train_autoencoder.yaml, size cpu",
    )
    parser.add_argument("--output_dir", default="eval/validity")
    arguments = parser.parse_args()
    path = Path(arguments.output_dir) / "validity.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(path.read_text()) if path.exists() else {}
    rows = simulated()
    if arguments.dataset_dir:
        rows |= real(arguments.dataset_dir, arguments.split_file, arguments.autoencoder_file)
    for name, question in rows.items():
        if name not in found:  # a stopped run goes on with the next row
            start = perf_counter()
            found[name] = {"answer": question(), "seconds": round(perf_counter() - start, 1)}
            path.write_text(json.dumps(found, indent=1))
        print(f"{name}: {found[name]['answer']} ({found[name]['seconds']} s)", flush=True)
        path.with_suffix(".md").write_text(table(found))


if __name__ == "__main__":
    main()
