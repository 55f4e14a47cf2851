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

python benchmarks/validity.py                                                    simulated, a few minutes
python benchmarks/validity.py --dataset_dir IXI/participants.tsv                 real slices too
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter

from bundle_root import ROOT
from monai.networks.nets import AutoencoderKL
from populations import POPULATIONS
from question import FDR, Question, Row, table
from real_slices import ImagePart, RealSlices, Scenario
from real_studies import FalseAlarms, KnownTruth, blurred, false_alarms, known_transforms, known_truth, noisy
from scipy import stats
from scripts.auditing.degradation import RoundTrip
from scripts.bundle.components import component
from scripts.bundle.weights import load_weights
from simulated import (
    Mixed,
    leaked,
    mixed,
    nothing_memorized,
    rank_floor,
    slice_levels,
    smoothing,
    stored_twice,
    strangers_merged,
)

__all__ = ["real", "simulated"]

# training subjects and generated images, where nothing is memorized
SIZES = ((20, 100), (20, 1000), (50, 1000), (100, 100), (100, 1000), (100, 10_000), (500, 1000))
SHARES = (0.0, 0.01, 0.05, 0.2, 0.5)  # of copies among the generated images
LEAST_RECALL = {"iid": 0.95, "low-dimensional": 0.80}  # where one image in a hundred is a copy
# copied parts, in pixels of 2 mm, and the recall that is asked of them
PARTS: dict[ImagePart, float] = {20.0: 0.5, 30.0: 0.9, "half": 0.9}
BINOMIAL = "wrong calls within a 99.9 % binomial limit"
NOT_ASKED = "look-alikes"  # hardly ever in the training set: nothing in the images says that they are no copies


def simulated() -> list[Question]:
    """Return the questions that need no image, in the order of the table."""
    return [
        *(question for n in (50, 100) for question in rank_floors(n)),
        Question("levels", slice_levels, "0.6 to 1.2 of nominal", lambda ratio: 0.6 <= ratio <= 1.2),
        Question(
            "levels, null at a random level",
            partial(slice_levels, corrected=False),
            "above 2: the mistake shows",
            lambda ratio: ratio > 2,
        ),
        *(question for population in POPULATIONS for question in of_population(population)),
        Question(
            "mixed, iid, 1% copies, p <= 0.05 calls",
            partial(mixed, "iid", 0.01, corrected=False),
            "false share above 0.5: the mistake shows",
            lambda found: found["false_share"] > 0.5,
        ),
        Question("smoothing by the generator", smoothing, "at most 0.07", lambda error: error <= 0.07),
        Question(
            "smoothing by the generator, raw similarity",
            partial(smoothing, corrected=False),
            "above 0.20: the mistake shows",
            lambda error: error > 0.2,
        ),
        Question(
            "5 leaked subjects, 200 copies among 5,000",
            leaked,
            "false share at most 0.05, power at least 0.90",
            lambda found: found["false_share"] <= FDR and found["power"] >= 0.9,
        ),
        Question(
            "5 leaked subjects, from the images' calls",
            partial(leaked, corrected=False),
            "false share above 0.15: the mistake shows",
            lambda found: found["false_share"] > 0.15,
        ),
        Question("5 % of scans stored twice", stored_twice, "recall at least 0.90", lambda recall: recall >= 0.9),
        Question(
            "5 % of scans stored twice, not merged",
            partial(stored_twice, corrected=False),
            "recall below 0.10: the mistake shows",
            lambda recall: recall < 0.1,
        ),
        *(strangers(population, subjects) for population in POPULATIONS for subjects in (15, 100)),
    ]


def strangers(population: str, subjects: int) -> Question[int]:
    """Return the question whether different people are taken for one person in more audits than the level allows."""
    name, run = f"strangers merged, {population}, n = {subjects}", partial(strangers_merged, population, subjects)
    if population == NOT_ASKED:
        return Question(name, run)
    return Question(name, run, "at most 19 of 200 audits", lambda audits: audits <= 19)


def rank_floors(n: int) -> list[Question]:
    """Return what is asked of the smallest rank p-value of n subjects."""
    return [
        Question(
            f"rank floor, n = {n}", partial(rank_floor, n), "0.8 to 1.15 of nominal", lambda ratio: 0.8 <= ratio <= 1.15
        ),
        Question(
            f"rank floor, n = {n}, without the correction 2",
            partial(rank_floor, n, corrected=False),
            "above 1.7: the mistake shows",
            lambda ratio: ratio > 1.7,
        ),
    ]


def of_population(population: str) -> list[Question]:
    """Return what is asked of the calls in one population."""
    nothing = {f"nothing memorized, {population}, n = {n}, {m} images": (n, m) for n, m in SIZES}
    copies = {f"mixed, {population}, {share:.0%} copies": share for share in SHARES}
    adaptive = {f"mixed, {population}, {share:.0%} copies, adaptive": share for share in SHARES}
    if population == NOT_ASKED:
        return [
            *(Question(name, partial(nothing_memorized, population, *size)) for name, size in nothing.items()),
            *(Question(name, partial(mixed, population, share)) for name, share in copies.items()),
            *(Question(name, partial(mixed, population, share, adaptive=True)) for name, share in adaptive.items()),
        ]
    few = "at most 35 of 400 audits with any call"
    return [
        *(
            Question(name, partial(nothing_memorized, population, *size), few, lambda calls: calls <= 35)
            for name, size in nothing.items()
        ),
        *(
            controlled(name, partial(mixed, population, share), LEAST_RECALL.get(population) if share == 0.01 else None)
            for name, share in copies.items()
        ),
        *(controlled(name, partial(mixed, population, share, adaptive=True), None) for name, share in adaptive.items()),
    ]


def controlled(name: str, run: Callable[[], Mixed], recall: float | None) -> Question[Mixed]:
    """Return the question whether the false-discovery rate is controlled, and a recall reached, if one is asked."""
    asked = "false share at most 0.05 + 3 standard errors"

    def controls(found: Mixed) -> bool:
        return found["false_share"] <= FDR + 3 * found["standard_error"]

    if recall is None:
        return Question(name, run, asked, controls)
    both = f"{asked}; recall at least {recall:.2f}"
    return Question(name, run, both, lambda found: controls(found) and found["recall"] >= recall)


def real(dataset_dir: str, split_file: str, autoencoder_file: str) -> list[Question]:
    """Return the questions on real slices, which an autoencoder of configs/ldm/ passes too.

    Images and weights are read when the first question needs them.
    """
    whole = functools.cache(lambda: RealSlices(dataset_dir, split_file))
    squares = functools.cache(lambda: RealSlices(dataset_dir, split_file, window=16, bends=[]))
    trip = functools.cache(lambda: round_trip(autoencoder_file))
    few = "at most a tenth of the audits with a call"

    def few_calls(found: FalseAlarms) -> bool:
        return found["with_a_call"] <= 0.1 * found["audits"]

    return [
        Question(
            "known transforms of real slices recovered",
            lambda: known_transforms(whole().images),
            "no failure",
            lambda found: found["failures"] == 0,
        ),
        Question("real slices, nothing memorized", lambda: false_alarms(whole(), 200), few, few_calls),
        Question("real slices, unseen ones blurred", lambda: false_alarms(whole(), 40, blurred), few, few_calls),
        Question("real slices, unseen ones noisy", lambda: false_alarms(whole(), 40, noisy), few, few_calls),
        Question(
            "real slices, unseen ones blurred, raw similarity",
            lambda: false_alarms(whole(), 40, blurred, raw=True),
            "most audits with a call: the mistake shows",
            lambda found: found["with_a_call"] > 0.5 * found["audits"],
        ),
        Question(
            "real slices, unseen ones through an autoencoder", lambda: false_alarms(whole(), 40, trip()), few, few_calls
        ),
        Question(
            "real slices, unseen ones through an autoencoder, raw similarity",
            lambda: false_alarms(whole(), 40, trip(), raw=True),
        ),
        Question(
            "real slices, nothing memorized, squares of 32 to 48 mm",
            lambda: false_alarms(squares(), 18),
            few,
            few_calls,
        ),
        *(question for part in PARTS for question in parts(whole, squares, part)),
        *(strong_copies(whole, subjects, share) for subjects in (20, 50, 100) for share in (0.01, 0.05, 0.2, 0.5)),
    ]


def round_trip(autoencoder_file: str) -> RoundTrip:
    """Return the autoencoder of configs/ldm/, size cpu, with these weights."""
    network: AutoencoderKL = component(ROOT / "configs" / "ldm" / "model.yaml", "autoencoder_def", size="cpu")
    load_weights(network, autoencoder_file)
    return RoundTrip(network)


def parts(whole: Callable[[], RealSlices], squares: Callable[[], RealSlices], part: ImagePart) -> list[Question]:
    """Return what is asked of copied parts: discs, so many pixels of 2 mm wide, or halves of a head."""
    name = "half a head" if part == "half" else f"a part of {2 * part:g} mm"
    scenario = Scenario(share=0.3, part=part)
    least = PARTS[part]
    return [
        Question(f"{name} copied, the whole compared", lambda: known_truth(whole(), scenario, 3)),
        Question(
            f"{name} copied, squares of 32 to 48 mm",
            lambda: known_truth(squares(), scenario, 3),
            f"{BINOMIAL}; recall at least {least}",
            lambda found: few_wrong(found) and found["recall"] >= least,
        ),
    ]


def strong_copies(slices: Callable[[], RealSlices], subjects: int, share: float) -> Question[KnownTruth]:
    """Return the question whether more calls are wrong than the false-discovery rate explains."""

    def run() -> KnownTruth:
        strength = component(ROOT / "configs" / "planted_copies.yaml", "strengths")["strong"]
        return known_truth(slices(), Scenario(train_subjects=subjects, share=share, strength=strength))

    return Question(f"real slices, n = {subjects}, {share:.0%} strong copies", run, BINOMIAL, few_wrong)


def few_wrong(found: KnownTruth) -> bool:
    """Return whether no more calls are wrong than the false-discovery rate explains."""
    return bool(found["wrong"] <= stats.binom.ppf(0.999, found["called"], FDR))


def answer(questions: list[Question], folder: Path, shown: list[Question] | None = None) -> None:
    """Answer the questions that folder/validity.json lacks; print all; write each answer, and the table, at once.

    A stopped run goes on with the next question. The table has the answers to `shown`, if given, instead.
    """
    path = folder / "validity.json"
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Row] = json.loads(path.read_text()) if path.exists() else {}
    for question in questions:
        if question.name not in found:
            start = perf_counter()
            found[question.name] = Row(answer=question.run(), seconds=round(perf_counter() - start, 1))
            path.write_text(json.dumps(found, indent=1))
        row = found[question.name]
        print(f"{question.name}: {row['answer']} ({row['seconds']} s)", flush=True)
        path.with_suffix(".md").write_text(table(shown or questions, found))


def main() -> None:
    """Answer the simulated questions and, where there is a data set, those on real slices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", help="a datalist of volumes; without it only the simulated rows")
    parser.add_argument("--split_file", default=str(ROOT / "configs" / "splits" / "ixi.json"))
    parser.add_argument(
        "--autoencoder_file",
        default=str(ROOT / "models" / "autoencoder.pt"),
        help="weights of configs/ldm/train_autoencoder.yaml, size cpu",
    )
    parser.add_argument("--output_dir", default="eval/validity")
    parser.add_argument("--rows", default="", help="ask only what has these words in its name, as 'strong copies'")
    arguments = parser.parse_args()
    if not Path(arguments.autoencoder_file).is_file():  # noticed now, not after an hour
        parser.error(f"--autoencoder_file: expected a file, found none at {arguments.autoencoder_file}; check the path")
    everything = simulated() + real(arguments.dataset_dir, arguments.split_file, arguments.autoencoder_file)
    asked = [one for one in (everything if arguments.dataset_dir else simulated()) if arguments.rows in one.name]
    if not asked:
        parser.error(f"--rows: expected words of a row's name, found {arguments.rows!r} in none of {len(everything)}")
    answer(asked, Path(arguments.output_dir), everything)


if __name__ == "__main__":
    main()
