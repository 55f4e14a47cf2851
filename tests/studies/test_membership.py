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

import numpy as np
import pytest
import torch
from monai.networks.schedulers import DDPMScheduler
from scripts.bundle.files import read_table
from scripts.bundle.inferers import AutocastDiffusionInferer
from scripts.ldm.conditions import Condition
from scripts.ldm.latents import Latents
from scripts.ldm.sampling import LatentModel
from scripts.studies.membership import MembershipAttack, NoiseLoss, ProximalError

STEPS = 100
BETAS = np.linspace(1e-4**0.5, 0.04**0.5, STEPS) ** 2  # scaled linear
KEPT = np.cumprod(1 - BETAS).astype(np.float32)  # the share of a latent's variance that is left at each timestep


class Pooling(torch.nn.Module):
    """An 'autoencoder' whose latent is `gain` times the image at a quarter of its size."""

    def __init__(self, gain=1.0):
        super().__init__()
        self.gain = gain

    def encode(self, images):
        return self.gain * torch.nn.functional.avg_pool2d(images, 4), torch.ones(1)


class Knows(torch.nn.Module):
    """Finds the noise in a latent as if it had been the nearest of those that it knows: exact where it is one.

    A condition must be that latent's, or the answer is off by the difference."""

    def __init__(self, latents, conditions=None):
        super().__init__()
        self.latents, self.conditions = latents, conditions

    def forward(self, x, timesteps, context=None):
        kept = torch.from_numpy(KEPT)[timesteps][:, None, None, None]
        row = torch.cdist((x / kept.sqrt()).flatten(1), self.latents.flatten(1)).argmin(1)
        noise = (x - kept.sqrt() * self.latents[row]) / (1 - kept).sqrt()
        return noise if context is None else noise + (context[:, 0] - self.conditions[row]).sum(1)[:, None, None, None]


class Scales(torch.nn.Module):
    """Answers with a share of its input that depends on the timestep."""

    def forward(self, x, timesteps, context=None):
        return x * (0.2 + timesteps / 200)[:, None, None, None]


@pytest.fixture
def inferer():
    scheduler = DDPMScheduler(STEPS, schedule="scaled_linear_beta", beta_start=1e-4, beta_end=0.04, clip_sample=False)
    return AutocastDiffusionInferer(scheduler, enabled=False)


def images(first: int, count: int, slices: int = 1) -> list[dict]:
    """Random images of so many subjects from number `first` on."""
    rng = np.random.default_rng(first)
    return [
        {
            "image": torch.from_numpy(rng.random((1, 16, 24), np.float32)),
            "id": f"s{number}_{part}.png",
            "subject_id": f"s{number}",
            "age": str(20 + number),
        }
        for number in range(first, first + count)
        for part in range(slices)
    ]


@pytest.fixture
def attack(tmp_path, inferer):
    """A function that makes an attack on a model that was trained on six subjects, with eight others as holdout."""
    train = images(0, 6, 2)
    condition = Condition("variables", ["age"]).fit(train)
    copies = {f"s{number}": number + 1 for number in range(6)}

    def make(conditioned=False, network=None, method=None, **other) -> MembershipAttack:
        data = Latents(train, Pooling(), condition if conditioned else None, copies)
        data.save(tmp_path / "model")
        known = network or Knows(data.latents, torch.from_numpy(data.conditions))
        parts = {"autoencoder": Pooling(), "train": train, "holdout": images(50, 8)} | other
        parts |= {"output_dir": tmp_path / "out", "attack": method or ProximalError((10, 40))}
        return MembershipAttack(LatentModel(tmp_path / "model"), diffusion=known, inferer=inferer, **parts)

    return make


def scores(attack: MembershipAttack) -> tuple[np.ndarray, np.ndarray]:
    """The scores of members and of others in the table that the attack writes."""
    attack.run()
    rows = read_table(attack.output_dir / "membership.csv")
    of = {member: [float(row["score"]) for row in rows if row["member"] == member] for member in "10"}
    return np.array(of["1"]), np.array(of["0"])


METHODS = [ProximalError((10, 40)), NoiseLoss((10, 40), draws=3)]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("conditioned", [False, True], ids=["alone", "conditioned"])
def test_members_that_a_model_knows_by_heart_score_above_all_others(attack, method, conditioned):
    """Exactly 0 but for rounding: their latents are scaled as in training and meet their own conditions."""
    members, others = scores(attack(conditioned, method=method))
    np.testing.assert_allclose(members, 0, atol=1e-3)
    assert others.max() < -0.01


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_others_are_scaled_by_the_factor_of_the_training_too(attack, method):
    first = attack()
    unseen = Pooling().encode(torch.stack([image["image"] for image in first.holdout]))[0] * first.model.scale_factor
    members, others = scores(attack(network=Knows(torch.cat([first.latents, unseen])), method=method))
    np.testing.assert_allclose(np.r_[members, others], 0, atol=1e-3)


def test_the_table_names_subjects_images_and_copies(attack):
    attack = attack()
    assert attack.run() == {"members": 12, "others": 8, "left_out": 0}
    rows = read_table(attack.output_dir / "membership.csv")
    assert list(rows[0]) == ["subject_id", "image", "member", "copies", "score"] and len(rows) == 20
    assert [row["copies"] for row in rows[:4]] == ["1", "1", "2", "2"] and rows[2]["image"] == "s1_0.png"
    assert {(row["member"], row["copies"]) for row in rows[12:]} == {("0", "0")}


def test_errors_are_those_of_the_papers_formulas(inferer):
    """By hand, of a network that answers with a share of its input."""
    z = np.random.default_rng(0).normal(size=(3, 2, 4, 4)).astype(np.float32)

    def query(noise, timestep):
        latents = torch.from_numpy(z)
        return inferer(latents, Scales(), noise, torch.full((3,), timestep))

    def answer(noise, t):
        return (0.2 + t / 200) * (np.sqrt(KEPT[t]) * z + np.sqrt(1 - KEPT[t]) * noise)

    first = answer(0, 0)
    change = [(np.abs(answer(first, t) - first) ** 4).mean((1, 2, 3)) ** 0.25 for t in (10, 40)]
    found = ProximalError((10, 40))(query, torch.from_numpy(z))
    np.testing.assert_allclose(found, np.mean(change, 0), rtol=1e-4)
    noise = torch.randn((2, 4, 4), generator=torch.Generator().manual_seed(5)).numpy()
    expected = ((answer(noise, 30) - noise) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(NoiseLoss((30,), 1, seed=5)(query, torch.from_numpy(z)), expected, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_the_batch_size_changes_no_score(attack, method):
    for size in (1, 7):
        found = scores(attack(network=Scales(), method=method, batch_size=size))
        expected = scores(attack(network=Scales(), method=method, batch_size=64))
        np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), rtol=1e-4)


def test_others_without_a_value_of_the_condition_are_left_out_and_counted(attack):
    holdout = images(50, 4)
    holdout[1]["age"] = ""
    del holdout[2]["age"]
    assert attack(True, holdout=holdout).run() == {"members": 12, "others": 2, "left_out": 2}
    assert attack(False, holdout=holdout).run()["left_out"] == 0


def test_without_others_members_are_scored(attack):
    assert attack(holdout=[]).run() == {"members": 12, "others": 0, "left_out": 0}


class Broken(torch.nn.Module):
    """Answers with no number."""

    def forward(self, x, timesteps, context=None):
        return x * torch.nan


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ({"train": images(0, 5, 2)}, "train_dir: expected the 12 images of .* in their order, found 10 other"),
        ({"train": images(0, 6, 2)[::-1]}, "train_dir: expected the 12 images"),
        ({"holdout": images(5, 3)}, "holdout_dir: expected people whom the model never saw, found 1 .* such as s5"),
        ({"autoencoder": Pooling(1.5)}, "autoencoder_file: expected latents whose deviation is 1 .*, found 1.500"),
        ({"method": ProximalError((10, 100))}, r"timesteps: expected whole numbers in \[0, 99\], got \[10, 100\]"),
        ({"method": ProximalError((10.5,))}, r"timesteps: expected whole numbers in \[0, 99\], got \[10.5\]"),
        ({"method": ProximalError(())}, r"timesteps: expected whole numbers in \[0, 99\], got \[\]"),
    ],
)
def test_what_does_not_fit_the_model_is_an_error(attack, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        attack(**wrong)


def test_other_values_in_a_column_of_the_condition_are_an_error(attack):
    changed = images(0, 6, 2)
    changed[0]["age"] = "90"
    with pytest.raises(ValueError, match="train_dir: expected columns age with the values that the model was trained"):
        attack(True, train=changed)


def test_a_network_that_answers_with_no_number_is_an_error(attack):
    with pytest.raises(ValueError, match="diffusion_file: expected a network .* for 12 of 12 images; train again"):
        attack(network=Broken()).run()


def test_no_draw_is_an_error():
    with pytest.raises(ValueError, match="draws: expected 1 or more, got 0"):
        NoiseLoss(draws=0)
