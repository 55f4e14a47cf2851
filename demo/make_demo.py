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

"""Make the demo's images: simulated brains of individual anatomy, and 'generated' ones of which some are copies.

    pip install nilearn && python demo/make_demo.py

Individuals are drawn from the ICBM 152 tissue maps that nilearn's package carries (licence: demo/LICENSE). A warp of
one template is a near-copy of every other warp, so each individual gets folds of its own too: band-limited noise moves
the borders of grey matter, white matter and CSF where the cortex is. The script prints the aligned foreground SSIM
between individuals; between real subjects (IXI, skull-stripped, same level, same measure) its median is 0.43.
"""

from __future__ import annotations

import csv
import shutil
import sys
from importlib.resources import files
from pathlib import Path

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from scripts import RandCopyd, RandMisalignd, Verifier  # noqa: E402  the bundle's own code, from its root

SUBJECTS = 48
SLICES_MM = (8.0, 24.0)  # MNI z of the two slices of each subject
NEW = 24
COPIES = 16
FIELD = (96, 112)  # x, y in pixels of 2 mm
SEED = 2026
Slices = dict[tuple[int, float], NDArray[np.float32]]  # by person and height; the first SUBJECTS train


def noise(rng: np.random.Generator, fine: float, coarse: float) -> NDArray:
    """Return band-limited noise of unit standard deviation on the field, scales `fine` to `coarse` pixels."""
    white = rng.normal(size=FIELD)
    band = ndimage.gaussian_filter(white, fine) - (ndimage.gaussian_filter(white, coarse) if np.isfinite(coarse) else 0)
    return band / band.std()


class Individual:
    """One simulated person.

    Args:
        maps: grey and white matter, as :func:`load_maps` returns them.
        origin: of the maps, in mm.
        seed: of the anatomy.
    """

    def __init__(self, maps: dict[str, NDArray], origin: NDArray, seed: int) -> None:
        self.maps, self.origin, self.seed = maps, origin, seed
        rng = np.random.default_rng(seed)
        self.scale = rng.normal(1, 0.035, 3).clip(0.9, 1.1)
        self.tilt = np.deg2rad(rng.normal(0, 4))
        self.shift = rng.normal(0, 4)
        self.intensity = {"csf": rng.normal(0.16, 0.03), "gm": rng.normal(0.52, 0.04), "wm": rng.normal(0.86, 0.03)}
        self.ventricles = rng.normal(0, 0.1)

    def image(self, z: float) -> NDArray[np.float32]:
        """Return the axial slice at MNI height z in mm, (96, 112) in [0, 1]."""
        rng = np.random.default_rng([self.seed, int(z)])
        x, y = np.meshgrid(*[2.0 * (np.arange(n) - (n - 1) / 2) for n in FIELD], indexing="ij")  # mm
        y = y - 16  # the template's brain is centred behind the origin
        x = x * self.scale[0] + 2.2 * noise(rng, 14, np.inf) + 1.2 * noise(rng, 5, np.inf)
        y = y * self.scale[1] + 2.2 * noise(rng, 14, np.inf) + 1.2 * noise(rng, 5, np.inf)
        height = (z + self.shift) * self.scale[2] + np.tan(self.tilt) * y + 2.0 * noise(rng, 8, np.inf)
        where = np.stack([x, y, height]) - self.origin[:, None, None]
        gm, wm = (ndimage.map_coordinates(self.maps[name], where, order=1) for name in ("gm", "wm"))
        inside = ndimage.gaussian_filter(ndimage.binary_fill_holes(gm + wm > 0.4).astype(float), 0.7)
        csf = (inside - gm - wm).clip(0)
        # folds: strong where grey matter is thick near the surface, weak in the deep nuclei
        depth = ndimage.distance_transform_edt(inside > 0.5)
        strength = 0.42 * np.exp(-((depth / 14.0) ** 2)) + 0.08
        pressure = {
            "gm": gm + strength * 0.6 * noise(rng, 1.1, 3.0),
            "wm": wm + strength * 0.8 * noise(rng, 1.3, 4.0),
            "csf": csf + strength * 0.5 * noise(rng, 0.9, 2.5) - 0.1 + self.ventricles * np.exp(-((x / 25) ** 2)),
        }
        weight = {name: np.exp(5.5 * value) for name, value in pressure.items()}
        total = sum(weight.values())
        image = sum(self.intensity[name] * weight[name] / total for name in weight) * inside
        image = image * np.exp(0.05 * noise(rng, 25, np.inf)) + 0.018 * rng.normal(size=FIELD) * inside
        return ndimage.gaussian_filter(image, 0.6).clip(0, 1).astype(np.float32)


def load_maps() -> tuple[dict[str, NDArray], NDArray]:
    """Return the grey and white matter maps in [0, 1], 1 mm voxels, RAS, and the position of voxel 0 in mm."""
    folder = files("nilearn.datasets") / "data"
    maps = {}
    for name in ("gm", "wm"):
        file = folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
        image = nibabel.nifti1.Nifti1Image.from_filename(str(file))
        maps[name] = np.asarray(image.dataobj, np.float32) / 255
    return maps, image.affine[:3, 3]


def save(image: NDArray, path: Path) -> None:
    """Write (x, y) in RAS as a picture with the front of the head at the top."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image.T[::-1] * 255).round().clip(0, 255).astype(np.uint8)).save(path, optimize=True)


def write_train(slices: Slices) -> None:
    """Write both slices of each training subject."""
    for s, z in slices:
        if s < SUBJECTS:
            save(slices[s, z], HERE / "train" / train_name(s, z))


def train_name(s: int, z: float) -> str:
    """Return the file name of a training subject's slice."""
    return f"sub-{s + 1:02d}_z{int(z):02d}.png"


def write_generated(slices: Slices, rng: np.random.RandomState) -> None:
    """Write moved and deformed slices, some of training subjects and some of new people, and truth.csv."""
    copy = RandCopyd("image", elastic=(0.3, 1.0), blur=(0.2, 0.6), noise=(0.0, 0.02), grid=5)
    move = RandMisalignd(
        "image", flip_prob=0.5, affine_prob=1.0, rotation=8.0, shift=4.0, zoom=(0.97, 1.03), gamma_prob=1.0,
        gamma=(0.8, 1.25),
    )  # fmt: skip
    copy.set_random_state(state=rng)
    move.set_random_state(state=rng)
    copied = [(int(s), SLICES_MM[rng.randint(2)]) for s in rng.choice(SUBJECTS, COPIES, replace=False)]
    sources = copied + [(SUBJECTS + n, SLICES_MM[n % 2]) for n in range(NEW)]
    truth = []
    for number, which in enumerate(rng.permutation(len(sources))):
        s, z = sources[which]
        name, known = f"sample_{number:02d}.png", s < SUBJECTS
        image = torch.from_numpy(slices[s, z])[None]
        save(move(copy({"image": image}))["image"][0].numpy(), HERE / "generated" / name)
        truth.append((name, train_name(s, z) if known else "", f"sub-{s + 1:02d}" if known else ""))
    with (HERE / "truth.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("generated_id", "train_id", "subject_id"), *truth])


def print_similarity(slices: Slices) -> None:
    """Print how alike different training subjects are at each height."""
    for z in SLICES_MM:
        stack = np.stack([slices[s, z] for s in range(SUBJECTS)])
        score = Verifier(smoothing=0).align(stack, np.roll(stack, 1, axis=0)).aligned_ssim
        print(
            f"z = {z:g} mm: aligned foreground SSIM between subjects, 5 / 50 / 95 %:",
            np.percentile(score, [5, 50, 95]).round(2),
        )


def main() -> None:
    """Replace the demo's images and truth.csv."""
    maps, origin = load_maps()
    people = [Individual(maps, origin, SEED + n) for n in range(SUBJECTS + NEW)]
    slices = {(s, z): people[s].image(z) for s in range(len(people)) for z in SLICES_MM}
    for name in ("train", "generated"):
        shutil.rmtree(HERE / name, ignore_errors=True)
    write_train(slices)
    write_generated(slices, np.random.RandomState(SEED))
    print_similarity(slices)


if __name__ == "__main__":
    main()
