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

"""Which comparison should decide: of images as they are laid on each other, of bent ones, or the clearer of the two?
Is shading undone, and how many of a subject's slices are looked at?

python benchmarks/comparisons.py --dataset_dir IXI/participants.tsv
python benchmarks/comparisons.py --dataset_dir CHEST --subject_pattern '(?P<subject>[0-9]{8})_' --split_file
    configs/splits/chest.json --checkpoint models/model_chest_xray.pt

Whole audits of the test subjects as the benchmark draws them, half of the generated images copies: its strong ones, and
the positive control's, which are degraded less, bent besides. Prints recall and false calls at level 0.05.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace

import numpy as np
from bundle_root import ROOT
from numpy.typing import NDArray
from scripts import Verifier, component, find_images, split_subjects, with_and_without_mask
from scripts.auditing.controls import bent_by
from scripts.images.loading import SliceSet
from scripts.images.stacks import Images
from scripts.similarity.verification import Alignment, Pairs
from scripts.studies.audit_task import AuditTask, AuditTrial
from scripts.studies.pairs import duplicate_cap, moved

BENCHMARK = ROOT / "configs" / "benchmark.yaml"
STRONG, BENDS = "strong", (2.0, 3.0)  # a condition of the benchmark; in pixels


class BentAlone(Verifier):
    """Compares bent images alone, as versions 0.4 to 0.16 did."""

    def align(
        self, queries: Images, references: Images, pairs: Pairs | None = None, start: NDArray | None = None
    ) -> Alignment:
        """Return the alignment, as if bending were all there is."""
        found = super().align(queries, references, pairs, start)
        return found._replace(unbent_ssim=found.aligned_ssim)


RULES: dict[str, tuple[Verifier, int]] = {  # with how many images of a subject are laid on the generated one
    "bent": (BentAlone(shading=False), 1),
    "as they lie": (Verifier(bend=False, shading=False), 1),
    "the clearer of both": (Verifier(shading=False), 1),
    "and shading is undone": (Verifier(), 1),
    "and two slices of each subject are looked at": (Verifier(), 2),
    "three slices": (Verifier(), 3),
}


def bent_trial(trial: AuditTrial, task: AuditTask, pixels: float) -> AuditTrial:
    """Return a trial whose copies are the positive control's, bent besides; what is new stays new."""
    rng = np.random.RandomState(task.seed)
    rows = np.array([rng.choice(np.flatnonzero(trial.train.subject == s)) for s in trial.source[: task.copies]])
    copies = moved(trial.train.images[rows].astype(np.float32), bent_by(pixels, task.audit.control), task.seed)
    return replace(trial, images=np.concatenate([copies, trial.images[task.copies :]]))


def main() -> None:
    """Print a line for each kind of image, set of copies and rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--subject_pattern")
    parser.add_argument("--split_file", default=str(ROOT / "configs" / "splits" / "ixi.json"))
    parser.add_argument("--checkpoint", default=str(ROOT / "models" / "model.pt"))
    parser.add_argument("--audits", type=int, default=1)
    options = parser.parse_args()
    benchmark = component(BENCHMARK, "benchmark", checkpoint=options.checkpoint, only=["ours"])
    task = replace(benchmark.audits, audits=options.audits)
    # few copies are asked for here, and of these no forecast
    task.audit.bends, task.audit.control_images = (), 1
    items = with_and_without_mask(find_images(options.dataset_dir, options.subject_pattern))
    split, preprocessing = split_subjects(items, options.split_file, 0.1, 0), component(BENCHMARK, "preprocessing")
    print("| images | copies | compared | recall | false calls' share |\n|---|---|---|---|---|")
    for variant in sorted({item["variant"] for item in split["test"]}, reverse=True):
        validation, test = (
            SliceSet.load([item for item in split[part] if item["variant"] == variant], preprocessing)
            for part in ("validation", "test")
        )
        cap = duplicate_cap(validation, benchmark.copies.verifier, np.random.RandomState(benchmark.seed))
        still = task.draw(test, replace(benchmark.copies, cap=cap))
        strong = [replace(t, images=moved(t.images, benchmark.conditions[STRONG], benchmark.seed)) for t in still]
        sets = {STRONG: strong}
        sets |= {f"bent by {pixels:g} pixels": [bent_trial(t, task, pixels) for t in still] for pixels in BENDS}
        for copies, trials in sets.items():
            for rule, (verifier, count) in RULES.items():
                audit = copy.copy(task.audit)
                audit.verifier, audit.images_a_subject = verifier, count
                found = replace(task, audit=audit)(benchmark.methods["ours"], trials)
                shares = f"{np.mean(found.recall):.3f} | {np.mean(found.false_share):.3f}"
                print(f"| {variant} | {copies} | {rule} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
