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

import csv
import json

import numpy as np
import pytest
import torch
from scripts.ldm.conditions import Condition
from scripts.ldm.latents import Latents, draw_copies


class Pooling(torch.nn.Module):
    """An 'autoencoder' whose latent is the image at a quarter of its size, as mean, and a deviation."""

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = torch.nn.functional.avg_pool2d(images, 4)
        return mean, torch.ones_like(mean)


def slices(count: int = 6, shape: tuple[int, int] = (32, 48)) -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        {
            "image": torch.from_numpy(rng.random((1, *shape), np.float32)),
            "id": f"{i}.png",
            "subject_id": f"s{i // 2}",
            "age": 20 + 10 * i,
            "sex": "MF"[i % 2],
        }
        for i in range(count)
    ]


def test_copies_are_drawn_within_their_range_by_seed_alone():
    names = [f"s{i}" for i in range(2000)]
    assert set(draw_copies(names, "none", 0).values()) == {1}
    for duplication, most in (("low", 4), ("high", 14)):
        counts = draw_copies(names, duplication, 0)
        numbers = np.bincount(list(counts.values()), minlength=most + 1)
        assert numbers[0] == 0 and len(numbers) == most + 1
        assert (numbers[1:] > 0.7 * 2000 / most).all()  # uniform: the least likely is 5 deviations off that
        assert counts == draw_copies(names[::-1] * 2, duplication, 0) != draw_copies(names, duplication, 1)
    with pytest.raises(ValueError, match="duplication: expected one of none, low, high, got 'medium'"):
        draw_copies(names, "medium", 0)


def test_latents_have_unit_deviation_and_stand_as_often_as_their_subject():
    data = Latents(slices(), Pooling(), copies={"s0": 1, "s1": 3, "s2": 2}, batch_size=4)
    assert data.latents.shape == (6, 1, 8, 12) and data.latents.std().item() == pytest.approx(1, rel=1e-5)
    assert len(data) == 2 * (1 + 3 + 2)
    rows = [next(r for r in range(6) if torch.equal(data.latents[r], data[i]["image"])) for i in range(len(data))]
    assert np.bincount(rows).tolist() == [1, 1, 3, 3, 2, 2]
    assert "condition" not in data[0]


def test_latents_that_cannot_be_halved_are_an_error():
    Latents(slices(), Pooling(), divisor=4)
    with pytest.raises(ValueError, match=r"latents of images \(32, 48\) are \(8, 12\), expected multiples of 8"):
        Latents(slices(), Pooling(), divisor=8)


def test_what_sampling_needs_is_written(tmp_path):
    condition = Condition("variables", ["age", "sex"]).fit(slices())
    data = Latents(slices(), Pooling(), condition, {"s0": 1, "s1": 3, "s2": 2})
    assert data[0]["condition"].shape == (1, 2)
    data.save(tmp_path / "model")
    facts = json.loads((tmp_path / "model" / "model.json").read_text())
    assert facts["latent_shape"] == [1, 8, 12] and facts["condition_dim"] == 2
    assert facts["condition"] == {
        "kind": "variables",
        "columns": ["age", "sex"],
        "scales": {"age": pytest.approx([45, 17.078251]), "sex": ["F", "M"]},
    }
    assert facts["scale_factor"] == pytest.approx(1 / (data.latents / data.scale_factor).std().item(), rel=1e-5)
    with (tmp_path / "model" / "records.csv").open(newline="") as file:
        records = list(csv.DictReader(file))
    assert [r["copies"] for r in records] == ["1", "1", "3", "3", "2", "2"]
    assert records[0] == {"image": "0.png", "subject_id": "s0", "level": "", "copies": "1", "age": "20", "sex": "M"}
    np.testing.assert_array_equal(np.load(tmp_path / "model" / "conditions.npy"), data.conditions)
