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

import json

import numpy as np
import pytest
import torch
from scripts.bundle.inferers import AutocastInferer
from scripts.embedder.evaluation import BinError, HeldOutSummary, held_out_summary, ssim_errors
from scripts.embedder.groups import SliceGroups
from scripts.images.augmentations import RandCopyd, RandMisalignd


def test_errors_by_bin():
    truth = np.repeat([0.05, 0.55, 0.58, 0.99], [20, 20, 20, 3])
    found = ssim_errors(truth + np.repeat([0.1, -0.2, 0.0, 0.5], [20, 20, 20, 3]), truth)
    assert list(found.bins) == ["0.0", "0.5"]  # three pairs make no bin
    first, second = found.bins.values()
    assert isinstance(first, BinError) and (first.pairs, second.pairs) == (20, 40)
    assert (first.error, first.constant, first.spread) == pytest.approx((0.1, 0.5, 0), abs=1e-9)
    assert second.error == pytest.approx(0.1)
    assert found.mean_of_bins == pytest.approx(0.1)
    exact = ssim_errors(truth, truth)
    assert exact.mean_of_bins == 0 and exact.spread == pytest.approx(truth.std())


def test_errors_of_one_bin_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    score, truth = rng.random((2, 300))
    found = ssim_errors(score, truth, bins=1)
    assert found.mean_of_bins == pytest.approx(np.abs(score - truth).mean())
    assert found.constant == pytest.approx(np.abs(truth - np.median(truth)).mean()) == found.bins["0.0"].constant


def test_bins_count_alike_however_many_pairs_they_have():
    truth = np.repeat([0.05, 0.95], [10, 90])
    found = ssim_errors(truth + np.repeat([0.3, 0.1], [10, 90]), truth)
    assert found.mean_of_bins == pytest.approx(0.2)
    assert found.constant == pytest.approx((0.9 + 0.0) / 2), "as the error beside which it stands"


def test_too_few_pairs_have_no_error_and_edges_fall_into_the_first_and_last_bin():
    assert np.isnan(ssim_errors(np.zeros(9), np.zeros(9)).mean_of_bins)
    truth = np.repeat([-0.2, 1.0], 10)  # SSIM can be negative
    assert list(ssim_errors(truth, truth).bins) == ["0.0", "0.9"]


def test_the_text_says_when_there_is_nothing_to_search():
    assert "found: one subject alone tells nothing." in str(HeldOutSummary(1, 3, 0.1, 0.2, {}))


class Pixels(torch.nn.Module):
    """Embeds an image as its pixels."""

    def forward(self, x):
        return torch.nn.functional.normalize(x.flatten(1) - 0.5)


def test_the_summary_tells_a_good_embedder_from_a_blind_one(tmp_path, capsys):
    rng = np.random.default_rng(0)
    pictures = [np.kron(rng.random((6, 7)), np.ones((4, 4)))[None] for _ in range(8)]
    data = [
        {"image": torch.from_numpy(p + 0.01 * level).float().clamp(0, 1), "subject_id": f"s{n}", "level": 4.0 * level}
        for n, p in enumerate(pictures)
        for level in range(2)
    ]
    still = SliceGroups(data, RandCopyd("image"), RandMisalignd("image"), seed=3)
    good = held_out_summary(Pixels(), still, AutocastInferer(enabled=False), tmp_path / "new" / "a.json")
    assert good.recall == {1: 1.0, 6: 1.0} and (good.subjects, good.images) == (8, 16)
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {
        "subjects": 8,
        "images": 16,
        "ssim_error": good.ssim_error,
        "constant": good.constant,
        "recall": {"1": 1.0, "6": 1.0},
    }
    assert "100.0% within 1 of 8 (chance 12%), 100.0% within 6 of 8 (chance 75%)" in str(good)
    assert capsys.readouterr().out == f"{good}\n"

    generator = torch.Generator().manual_seed(1)

    def blind(images, network):
        return torch.nn.functional.normalize(torch.randn(len(images), 8, generator=generator))

    bad = held_out_summary(Pixels(), still, blind, tmp_path / "b.json", batch_size=5)
    assert bad.recall[1] < 0.6 and bad.ssim_error > good.ssim_error
    assert bad.constant == pytest.approx(good.constant)
