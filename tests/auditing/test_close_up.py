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
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from heads import copy, head, write_heads
from scipy.ndimage import zoom
from scripts.auditing.detail import CloseUp
from scripts.bundle.components import component
from scripts.images.datalists import find_images
from scripts.images.items import Item
from scripts.similarity.volume_verification import VolumeVerifier

FINE, MM = (96, 112, 80), 2.0
CONFIGS = ["configs/inference.yaml", "configs/inference_3d.yaml"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Volumes of 2 mm: a person, a copy of theirs, the mean of them and another, that other; and the copy in 4 mm."""
    person, other = (head(seed, FINE, fold=1.5) for seed in (1, 2))
    volumes = {"person": person, "copy": copy(person, 3), "mean": (person + other) / 2, "other": other}
    folder = write_heads(tmp_path_factory.mktemp("heads"), volumes, MM)
    write_heads(folder, {"coarse": zoom(volumes["copy"], 0.5, order=1)}, 2 * MM)
    (folder / "text.nii.gz").write_text("no volume")
    return folder


@pytest.fixture
def items(folder) -> dict[str, Item]:
    return {Path(item["image"]).name.split(".")[0]: item for item in find_images(folder, warn=False)}


def close_up(most_mm: float = 3.0, block: int = 8) -> CloseUp:
    chain = component(CONFIGS, "preprocessing", spatial_size=list(FINE), pixel_mm=MM, most_mm=most_mm)
    return CloseUp(chain, VolumeVerifier(MM, block=block))


def coarse(items: dict[str, Item], names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Maps of the person on each volume, and the detail, in the voxels of 4 mm that an audit searches in."""
    chain, verifier = component(CONFIGS, "preprocessing"), VolumeVerifier()
    volumes = np.stack([chain(dict(items[name]))["image"][0].numpy() for name in names])
    person = np.repeat(chain(dict(items["person"]))["image"].numpy(), len(names), 0)
    matrix = verifier.align(volumes, person).matrix
    return matrix, verifier.detail(volumes, person, matrix)


def test_a_copy_and_a_mean_of_two_people_lie_farther_apart_than_in_coarse_voxels(items, in_root):
    names = ["copy", "mean", "other"]
    matrix, before = coarse(items, names)
    found = close_up()([items[name] for name in names], [items["person"]] * 3, matrix)
    assert found[0] > 0.96 > found[1] > found[2]
    assert found[0] - found[1] > 1.3 * (before[0] - before[1])


def test_a_map_that_is_nearly_right_is_refined(items, in_root):
    matrix, _ = coarse(items, ["copy"])
    matrix[:, :, 3] += [2.0, -1.5, 2.0]  # mm
    assert close_up()([items["copy"]], [items["person"]], matrix)[0] > 0.96


def test_pairs_are_what_each_alone_is_whatever_the_block(items, in_root):
    matrix = coarse(items, ["copy"])[0].repeat(2, 0)
    queries = [items["copy"], items["person"]]
    matrix[1] = np.eye(3, 4)
    together = close_up(block=1)(queries, [items["person"]] * 2, matrix)
    assert together[1] > together[0] > 0.96
    np.testing.assert_allclose(close_up(block=2)(queries, [items["person"]] * 2, matrix), together, atol=1e-6)


def test_what_is_too_coarse_or_cannot_be_read_is_not_compared(items, in_root):
    matrix = np.repeat(np.eye(3, 4)[None], 3, 0)
    queries = [items["coarse"], items["text"], items["copy"]]
    found = close_up()(queries, [items["person"], items["person"], items["coarse"]], matrix)
    assert np.isnan(found).all()
    assert np.isfinite(close_up(most_mm=5.0)([items["coarse"]], [items["person"]], matrix[:1])).all()
    assert close_up()([], [], matrix[:0]).shape == (0,)
