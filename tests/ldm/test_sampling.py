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
from monai.networks.schedulers import DDIMScheduler
from PIL import Image
from scripts.bundle.files import file_hashes
from scripts.bundle.inferers import AutocastLatentInferer
from scripts.ldm.latents import Latents
from scripts.ldm.sampling import LatentModel, Sampler, set_timesteps


class Autoencoder(torch.nn.Module):
    """The latent of an image is itself at half the size."""

    def encode(self, images):
        return torch.nn.functional.avg_pool2d(images, 2), torch.ones(1)

    def decode_stage_2_outputs(self, latents):
        return torch.nn.functional.interpolate(latents, scale_factor=2)


class Diffusion(torch.nn.Module):
    """Predicts a noise that depends on the condition alone; counts the images that it saw."""

    def __init__(self):
        super().__init__()
        self.images, self.fail_after = 0, np.inf

    def forward(self, x, timesteps, context=None):
        self.images += len(x)
        if self.images > self.fail_after:
            raise OSError(28, "No space left on device")
        return 0.1 * x + (0 if context is None else context.mean((1, 2))[:, None, None, None])


@pytest.fixture
def sampler(tmp_path):
    """A function that makes a sampler of three records, one step, in a folder of its own."""
    images = [{"image": torch.rand(1, 12, 8), "id": f"{i}.png", "subject_id": f"s{i}"} for i in range(3)]
    Latents(images, Autoencoder()).save(tmp_path / "model")

    def make(output="out", samples=2, conditioned=False, **keys):
        model = LatentModel(tmp_path / "model")
        if conditioned:
            model.condition_dim, model.conditions = 1, np.array([[0.0], [5.0], [-5.0]], np.float32)
        scheduler = set_timesteps(DDIMScheduler(num_train_timesteps=10, clip_sample=False), 1)
        inferer = AutocastLatentInferer(scheduler, model.scale_factor, enabled=False)
        return Sampler(
            model, Autoencoder(), Diffusion(), inferer, scheduler, tmp_path / output, samples, **({"seed": 7} | keys)
        )

    return make


def pixels(sampler: Sampler) -> np.ndarray:
    """All samples (N, H, W) in grey levels."""
    return np.stack([np.asarray(Image.open(sampler.path(i)), int) for i in range(len(sampler))])


def difference(a: np.ndarray, b: np.ndarray) -> int:
    """The largest difference in grey levels; batches of different sizes may take different kernels, which gives one."""
    return np.abs(a - b).max()


def test_every_sample_is_a_file_and_the_datalist_names_record_and_seed(sampler):
    made = sampler()
    assert made.run()["images"] == 6 and made.run() == {"images": 0, "per_second": 0.0}
    with (made.output_dir / "generated.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["group"] for row in rows] == ["0.png", "0.png", "1.png", "1.png", "2.png", "2.png"]
    assert [row["seed"] for row in rows] == ["7", "8", "9", "10", "11", "12"]
    assert all((made.output_dir / row["image"]).is_file() for row in rows)
    assert pixels(made).shape == (6, 8, 12)  # (posterior-anterior, left-right), as pictures are


@pytest.mark.parametrize(
    ("levels", "written"), [((56, 54, 58), "56.0"), ((56, 54, 60), ""), ((56, 54, ""), ""), ((None, None, None), "")]
)
def test_samples_of_a_model_of_one_level_have_that_level(sampler, levels, written):
    made = sampler()
    for record, level in zip(made.model.records, levels, strict=True):
        record.pop("level", None)
        if level is not None:
            record["level"] = str(level)
    made.run()
    with (made.output_dir / "generated.csv").open(newline="") as file:
        assert {row["level"] for row in csv.DictReader(file)} == {written}


def test_samples_depend_on_their_seed_and_not_on_the_batch(sampler):
    first, second, third = sampler("a"), sampler("b", batch_size=5), sampler("c", seed=8)
    for made in (first, second, third):
        made.run()
    assert difference(pixels(first), pixels(second)) <= 1
    assert difference(pixels(third)[:5], pixels(first)[1:]) <= 1
    assert difference(pixels(first)[0], pixels(first)[1]) > 10


def test_a_stopped_run_goes_on_with_what_is_missing(sampler):
    whole, stopped = sampler("whole"), sampler("stopped", batch_size=2)
    whole.run()
    stopped.diffusion.fail_after = 3
    with pytest.raises(OSError, match="No space"):
        stopped.run()
    assert [stopped.path(i).exists() for i in range(6)] == [True, True, False, False, False, False]
    assert not (stopped.output_dir / "generated.csv").exists()
    again = sampler("stopped")
    assert again.run()["images"] == 4 and again.diffusion.images == 4
    assert difference(pixels(whole), pixels(again)) <= 1


def test_each_record_is_sampled_under_its_condition(sampler):
    made = sampler(samples=1, conditioned=True)
    made.run()
    plain = sampler("plain", samples=1).draw([0, 1, 2])
    drawn = made.draw([0, 1, 2])
    np.testing.assert_allclose(drawn[0], plain[0], atol=1e-6)
    assert drawn[1].mean() < plain[1].mean() < 1 and drawn[2].mean() > plain[2].mean()  # noise is subtracted


def test_some_records_are_drawn_for_spread_evenly(sampler):
    made = sampler(samples=2, records=2, conditioned=True)
    made.run()
    with (made.output_dir / "generated.csv").open(newline="") as file:
        assert [row["group"] for row in csv.DictReader(file)] == ["0.png", "0.png", "2.png", "2.png"]
    plain = sampler("plain").draw([2])
    assert made.draw([2]).mean() > plain.mean()  # of the third record's condition
    for wrong in (0, 4, "all"):
        with pytest.raises(ValueError, match=f"records: expected 1 to 3, .* found {wrong!r}"):
            sampler(records=wrong)
    with pytest.raises(ValueError, match="drawn with another records, samples_per_record"):
        sampler(samples=1, conditioned=True).run()


def test_a_folder_with_samples_of_another_model_is_refused(sampler):
    sampler(identity={"diffusion": "abc"}).run()
    with pytest.raises(ValueError, match="drawn with another seed, diffusion; choose another output_dir"):
        sampler(seed=9, identity={"diffusion": "abd"}).run()


def test_samples_drawn_by_other_steps_are_refused(sampler):
    sampler().run()
    other = sampler()
    other.identity["timesteps"] = [5]  # as `steps` or `spacing` would make them
    with pytest.raises(ValueError, match="drawn with another timesteps; choose another output_dir"):
        other.run()
    other = sampler()
    other.scheduler.set_timesteps(2)
    remade = Sampler(
        other.model, other.autoencoder, other.diffusion, other.inferer, other.scheduler, other.output_dir, 2, seed=7
    )
    with pytest.raises(ValueError, match="drawn with another timesteps"):
        remade.run()


def test_timesteps_of_both_packages():
    scheduler = DDIMScheduler(num_train_timesteps=1000)
    assert set_timesteps(scheduler, 50).timesteps[:3].tolist() == [999, 979, 958]
    old = set_timesteps(scheduler, 50, "leading").timesteps
    assert old[:3].tolist() == [980, 960, 940] and old[-1] == 0 and len(old) == 50
    for steps, spacing in ((50, "trailing"), (0, "leading"), (1001, "linspace")):
        with pytest.raises(ValueError, match="spacing must be linspace or leading"):
            set_timesteps(scheduler, steps, spacing)


@pytest.mark.parametrize(
    "keys", [{"suffix": ".jpg"}, {"samples": 0}, {"batch_size": 0}], ids=["suffix", "samples", "batch"]
)
def test_arguments_out_of_range_are_errors(sampler, keys):
    with pytest.raises(ValueError, match="suffix must be .png or .nii.gz"):
        sampler(**keys)


def test_model_folders_that_lack_something_are_errors(sampler, tmp_path):
    np.save(tmp_path / "model" / "conditions.npy", np.zeros((2, 0)))
    with pytest.raises(ValueError, match=r"expected \(3, 0\) values, found \(2, 0\)"):
        sampler()
    (tmp_path / "model" / "conditions.npy").unlink()
    with pytest.raises(
        FileNotFoundError, match="conditions.npy: expected a file that configs/ldm/train_diffusion.yaml"
    ):
        sampler()


def test_hashes_of_files_by_name(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert json.dumps(file_hashes(weights=tmp_path / "a")).startswith('{"weights": "ba7816bf8f01cfea414140de5dae2223')
