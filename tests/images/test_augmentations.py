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

import inspect

import numpy as np
import pytest
import torch
from heads import head
from helpers import COPY, MISALIGN
from monai.data import MetaTensor, list_data_collate
from monai.data.utils import decollate_batch
from monai.transforms import Compose, Flipd, Rotate90d, ScaleIntensityRanged, Spacingd
from monai.utils import PostFix
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation
from scripts.images.array_augmentations import RandCopy, RandMisalign, blur
from scripts.images.augmentations import RandCopyd, RandMisalignd
from scripts.images.geometry import warp


@pytest.fixture
def image() -> torch.Tensor:
    """Two channels (2, 40, 33) in [0.1, 0.9] with a background of 0 around."""
    texture = gaussian_filter(np.random.default_rng(0).normal(size=(2, 40, 33)), (0, 2, 2))
    texture = (0.5 + 1.2 * texture).clip(0.1, 0.9)
    texture[:, :6] = texture[:, -6:] = texture[:, :, :6] = texture[:, :, -6:] = 0
    return torch.from_numpy(texture.astype(np.float32))


def test_the_map_of_a_misalignment_travels_with_the_image(image):
    transform = RandMisalignd("image", flip_prob=0.5, affine_prob=0.9, rotation=15, shift=6, zoom=(0.9, 1.1))
    transform.set_random_state(0)
    for _ in range(5):
        got = transform({"image": image})
        torch.testing.assert_close(got["image"], warp(image[None], got["image_misalignment"][None])[0].clamp(0, 1))
        assert (got["image_misalignment"] != torch.eye(2, 3)).any()
    never = RandMisalignd("image", **MISALIGN, prob=0.0)({"image": image})
    assert never["image"] is image
    torch.testing.assert_close(never["image_misalignment"], torch.eye(2, 3))


@pytest.mark.parametrize("sigma", [0.2, 0.7, 1.5])
def test_blur_equals_scipy(image, sigma):
    expected = gaussian_filter(image.numpy().astype(float), (0, sigma, sigma), mode="mirror", truncate=3)
    np.testing.assert_allclose(blur(image, sigma), expected, atol=1e-5)


def test_blur_of_nothing_by_nothing_and_too_wide(image):
    assert blur(image, 0.0) is image
    torch.testing.assert_close(blur(torch.full((1, 9, 9), 0.4), 1.0), torch.full((1, 9, 9), 0.4))
    with pytest.raises(RuntimeError, match="[Pp]adding"):
        blur(torch.ones(1, 3, 3), 2.0)


def misalign(image, seed=0, **change):
    return RandMisalignd("image", **change).set_random_state(seed)({"image": image})["image"]


def test_misalign_without_any_chance_is_the_identity(image):
    torch.testing.assert_close(misalign(image), image, atol=1e-5, rtol=0)


def test_misalign_repeats_with_its_seed_spares_its_input_and_stays_in_range(image):
    before = image.clone()
    results = [misalign(image, seed, **MISALIGN) for seed in (0, 0, *range(1, 20))]
    torch.testing.assert_close(results[0], results[1], atol=0, rtol=0)
    assert all((results[0] - other).abs().max() > 0.05 for other in results[2:])
    assert all(r.shape == image.shape and r.min() >= 0 and r.max() <= 1 for r in results)
    torch.testing.assert_close(image, before, atol=0, rtol=0)


def test_flips_are_independent_and_as_often_as_stated(image):
    transform = RandMisalignd("image", flip_prob=0.3).set_random_state(0)
    flips = {(): image, (1,): image.flip(1), (2,): image.flip(2), (1, 2): image.flip(1, 2)}
    seen = dict.fromkeys(flips, 0)
    for _ in range(400):
        result = transform({"image": image})["image"]
        seen[[axes for axes, flipped in flips.items() if torch.allclose(result, flipped, atol=1e-5)][0]] += 1
    assert [seen[axes] / 400 for axes in flips] == pytest.approx([0.49, 0.21, 0.21, 0.09], abs=0.08)


def test_rotation_shift_and_zoom_fill_their_ranges(image):
    transform = RandMisalign(flip_prob=0.5, affine_prob=1.0, rotation=10, shift=4, zoom=(0.8, 1.25)).set_random_state(0)
    matrices = []
    for _ in range(500):
        transform.randomize((1, 8, 8))
        matrices.append(transform.matrix * np.sign(transform.matrix[[0, 1], [0, 1]])[:, None])  # without the flips
    matrices = np.array(matrices)
    scale = np.hypot(matrices[:, 0, 0], matrices[:, 0, 1])
    angle = np.rad2deg(np.arccos(matrices[:, 0, 0] / scale))
    assert angle.max() == pytest.approx(10, abs=0.2) and 0 < angle.min() < 0.2
    assert [1 / scale.max(), 1 / scale.min()] == pytest.approx([0.8, 1.25], abs=0.01)
    np.testing.assert_allclose(np.abs(matrices[:, :, 2]).max(0), 4, atol=0.1)


def test_gamma_is_a_power_and_bias_and_noise_are_bounded(image):
    inside = image > 0
    for seed in range(20):
        exponent = (misalign(image, seed, gamma_prob=1.0, gamma=(0.5, 1.5)).log() / image.log())[inside]
        assert 0.5 - 1e-3 < exponent.min() and exponent.max() < 1.5 + 1e-3 and np.ptp(exponent.numpy()) < 1e-2
    faint = 0.3 * image
    field = (misalign(faint, bias_prob=1.0, bias=0.2) / faint).log()
    torch.testing.assert_close(field[0][inside[0]], field[1][inside[0]], atol=1e-3, rtol=0)  # one light on all channels
    assert 0.02 < field[inside].std() < 0.5
    residual = [(misalign(torch.full((1, 64, 64), 0.5), s, noise_prob=1.0, noise=0.06) - 0.5).std() for s in range(30)]
    assert 0.05 < max(residual) < 0.062 and min(residual) < 0.01


def test_a_seed_keeps_its_meaning_whatever_else_may_happen():
    """Every kind draws its chance, in this order, even where that is 0; `prob` only where it is not certain."""
    transform = RandMisalign(affine_prob=1.0, rotation=15, noise_prob=1.0, noise=0.06).set_random_state(5)
    transform.randomize((1, 8, 8))
    rng = np.random.RandomState(5)
    rng.rand()
    angle = np.deg2rad(rng.uniform(-15, 15))
    rng.uniform(1, 1)  # zoom
    rng.uniform(0, 0, 2)  # shift
    assert abs(transform.matrix[0, 0] / transform.matrix[0, 1]) == pytest.approx(abs(1 / np.tan(angle)))
    rng.rand(6)  # two flips, gamma, bias, blur, noise
    assert transform.deviation == pytest.approx(rng.uniform(0, 0.06))


BOTH = pytest.mark.parametrize(
    ("dictionary", "array", "kinds"),
    [(RandMisalignd, RandMisalign, {**MISALIGN, "noise_prob": 1.0}), (RandCopyd, RandCopy, COPY)],
)


@BOTH
def test_dictionaries_get_what_arrays_get_and_all_keys_one_draw(image, dictionary, array, kinds):
    data = {"a": image, "b": image, "id": 7}
    whole, alone = dictionary(["a", "b"], **kinds).set_random_state(0), array(**kinds).set_random_state(0)
    for _ in range(3):
        got, expected = whole(data), alone(image)
        torch.testing.assert_close(got["a"], expected, atol=0, rtol=0)
        torch.testing.assert_close(got["b"], expected, atol=0, rtol=0)
        assert got["id"] == 7
    torch.testing.assert_close(alone(image, randomize=False), expected, atol=0, rtol=0)
    assert not torch.equal(alone(image), expected)


@BOTH
def test_dictionaries_take_the_arguments_of_arrays_with_the_same_defaults(dictionary, array, kinds):
    own = dict(inspect.signature(dictionary).parameters)
    missing = own.pop("allow_missing_keys")
    assert own.pop("keys").default is inspect.Parameter.empty and missing.default is False
    assert own == dict(inspect.signature(array).parameters)
    values = {name: object() for name in own} | {"prob": 0.25}
    made = dictionary("image", **values).transform
    assert {name: getattr(made, name) for name in own} == values


@BOTH
def test_a_missing_key_is_left_out_where_it_may_be_and_draws_nothing(image, dictionary, array, kinds):
    transform = dictionary(["a", "b"], **kinds, allow_missing_keys=True).set_random_state(0)
    state = transform.R.get_state()[2]
    assert transform({"id": 7}) == {"id": 7} and transform.R.get_state()[2] == state
    got = transform({"b": image})
    torch.testing.assert_close(got["b"], array(**kinds).set_random_state(0)(image), atol=0, rtol=0)
    assert "a" not in got and "a_misalignment" not in got


@BOTH
def test_the_chance_of_anything_is_as_stated(image, dictionary, array, kinds):
    for transform in (dictionary("image", **kinds, prob=0.3), Compose([dictionary("image", **kinds, prob=0.3)])):
        transform.set_random_state(0)
        done = [not torch.equal(transform({"image": image})["image"], image) for _ in range(200)]
        assert 0.2 < np.mean(done) < 0.4


@BOTH
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_arrays_of_numpy_come_out_as_tensors(image, dictionary, array, kinds, dtype):
    given = image.numpy().astype(dtype)
    before = given.copy()
    for prob in (0.0, 1.0):
        got = dictionary("image", **kinds, prob=prob).set_random_state(0)({"image": given})["image"]
        expected = array(**kinds, prob=prob).set_random_state(0)(torch.from_numpy(given).float())
        assert type(got) is torch.Tensor and got.dtype == torch.float32
        torch.testing.assert_close(got, expected, atol=0, rtol=0)
    np.testing.assert_array_equal(given, before)


@BOTH
def test_a_metatensor_stays_one_on_its_grid(image, dictionary, array, kinds):
    """The object moves, the grid does not; what was applied before can still be undone, and no more."""
    data = {"image": MetaTensor(image, affine=torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0])))}
    data = Flipd("image", 0)(data)
    got = dictionary("image", **kinds).set_random_state(0)(data)["image"]
    torch.testing.assert_close(got.affine, data["image"].affine)
    assert isinstance(got, MetaTensor) and [done["class"] for done in got.applied_operations] == ["Flip"]
    expected = array(**kinds).set_random_state(0)(data["image"].as_tensor())
    torch.testing.assert_close(got.as_tensor(), expected, atol=0, rtol=0)
    assert dictionary("image", **kinds, prob=0.0)(data)["image"].applied_operations == got.applied_operations


def test_the_map_is_no_metadata_of_monais(image):
    """MONAI's spatial transforms, batches and decollation leave it alone."""
    move = RandMisalignd("image", affine_prob=1.0, rotation=10).set_random_state(0)
    chain = Compose([move, Rotate90d("image"), Spacingd("image", (1.5, 1.5))])
    got = [chain({"image": MetaTensor(image), "id": name}) for name in "ab"]
    added = set(got[0]) - {"image", "id"}
    assert added == {"image_misalignment"}
    assert not added & {f"image_{postfix}" for postfix in ("meta_dict", "transforms", "affine", "matrix")}
    assert not added & {getattr(PostFix, name)("image") for name in ("meta", "orig_meta", "transforms")}
    batch = list_data_collate(got)
    assert batch["image_misalignment"].shape == (2, 2, 3)
    for one, other in zip(decollate_batch(batch), got):
        torch.testing.assert_close(one["image_misalignment"], other["image_misalignment"], atol=0, rtol=0)


@BOTH
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda x: (255 * x).to(torch.uint8),
            r"image: expected floating-point values in \[0, 1\], found torch.uint8; scale",
        ),
        (lambda x: (x > 0.5).numpy(), r"image: expected floating-point values .*, found torch.bool"),
        (
            lambda x: 255 * x,
            r"image: expected values in \[0, 1\], found 0 to 2\d\d; scale them, as ScaleIntensityRange",
        ),
        (lambda x: 2 * x - 1, r"image: expected values in \[0, 1\], found -1 to 0.\d+; scale"),
        (lambda x: x.where(x > 0.2, torch.nan), r"found nan to nan"),
        (
            lambda x: x[0],
            r"image: expected an image \(C, H, W\) or a volume .* found shape \(40, 33\); put the channel",
        ),
        (lambda x: x[None, None], r"found shape \(1, 1, 2, 40, 33\); put the channel first, .* one by one"),
        (lambda x: x[:, None], r"at least two pixels a side, found shape \(2, 1, 40, 33\)"),
        (lambda x: x[:0], r"found shape \(0, 40, 33\)"),
    ],
)
def test_wrong_images_are_refused_with_the_remedy(image, dictionary, array, kinds, wrong, message):
    with pytest.raises(ValueError, match=message):
        dictionary("image", **kinds)({"image": wrong(image)})


@BOTH
def test_the_remedy_for_eight_bits_works(image, dictionary, array, kinds):
    bits = {"image": (255 * image).to(torch.uint8)}
    transform = dictionary("image", **kinds)
    chain = Compose([ScaleIntensityRanged("image", 0, 255, 0, 1), transform])
    transform.set_random_state(0)  # Compose has drawn a seed of its own
    got = chain(bits)["image"]
    expected = array(**kinds).set_random_state(0)(bits["image"] / 255)
    torch.testing.assert_close(torch.as_tensor(got), expected, atol=1e-5, rtol=0, check_dtype=False)


@BOTH
def test_keys_of_two_shapes_cannot_have_one_draw(image, dictionary, array, kinds):
    with pytest.raises(ValueError, match=r"^b: .* the one before, \(2, 40, 33\), found \(1, 40, 33\)"):
        dictionary(["a", "b"], **kinds)({"a": image, "b": image[:1]})
    with pytest.raises(ValueError, match="the one before, None"):
        array(**kinds)(image, randomize=False)


def test_chances_of_flips_for_axes_that_an_image_does_not_have(image):
    with pytest.raises(ValueError, match=r"flip_prob: .* each axis of an image \(C, H, W\), found 3"):
        RandMisalignd("image", flip_prob=[0.5, 0, 0])({"image": image})
    with pytest.raises(ValueError, match=r"flip_prob: .* each axis of a volume \(C, D, H, W\), found 2"):
        RandMisalignd("image", flip_prob=[0.5, 0])({"image": torch.zeros(1, 8, 8, 8)})


def copy(image, seed=0, **change):
    return RandCopyd("image", **change).set_random_state(seed)({"image": image})["image"]


def test_copy_by_nothing_is_the_identity_and_each_part_acts_alone(image):
    torch.testing.assert_close(copy(image), image, atol=1e-5, rtol=0)
    torch.testing.assert_close(copy(image, blur=(0.8, 0.8)), blur(image, 0.8), atol=1e-5, rtol=0)
    assert (copy(torch.full((1, 64, 64), 0.5), noise=(0.05, 0.05)) - 0.5).std() == pytest.approx(0.05, rel=0.05)
    bent = copy(image, elastic=(1.5, 1.5))
    assert 0.02 < (bent - image).abs().max() and bent[0].sum() == pytest.approx(image[0].sum().item(), rel=0.15)
    torch.testing.assert_close(copy(image, 3, elastic=(0, 2)), copy(image, 3, elastic=(0, 2)), atol=0, rtol=0)


def test_displacement_is_smooth_and_of_the_stated_size():
    transform = RandCopy(elastic=(1.5, 1.5)).set_random_state(0)
    fields = []
    for _ in range(50):
        transform.randomize((1, 96, 112))
        fields.append(transform.displacement)
    fields = torch.stack(fields)
    assert 0.9 < fields.std() <= 1.5 and abs(fields.mean()) < 0.1
    assert fields.diff(dim=-1).abs().max() < 1


@pytest.mark.parametrize(("transform", "all_kinds"), [(RandMisalignd, MISALIGN), (RandCopyd, COPY)])
def test_constant_images_are_defined_and_a_missing_key_is_an_error(transform, all_kinds):
    for value in (0.0, 1.0):
        result = transform("image", **all_kinds).set_random_state(0)({"image": torch.full((1, 32, 40), value)})["image"]
        assert torch.isfinite(result).all() and result.min() >= 0 and result.max() <= 1
    with pytest.raises(KeyError, match="image"):
        transform("image")({"other": torch.zeros(1, 32, 40)})


@pytest.fixture
def volume() -> torch.Tensor:
    return torch.from_numpy(head(0)[None])


def test_a_volume_is_turned_about_any_axis_mirrored_where_it_may_be_and_its_map_travels_with_it(volume):
    transform = RandMisalignd(
        "image", flip_prob=[0.5, 0, 0], affine_prob=1, rotation=20, shift=3, zoom=(0.9, 1.1)
    ).set_random_state(0)
    axes, mirrored = [], []
    for _ in range(60):
        got = transform({"image": volume[:, ::6, ::7, ::5]})
        matrix = got["image_misalignment"].double().numpy()
        assert matrix.shape == (3, 4) and np.abs(matrix[:, 3]).max() <= 3
        scale = np.cbrt(abs(np.linalg.det(matrix[:, :3])))
        assert 1 / 1.1 - 1e-6 <= scale <= 1 / 0.9 + 1e-6
        mirrored.append(np.linalg.det(matrix[:, :3]) < 0)
        turn = np.diag([-1.0 if mirrored[-1] else 1, 1, 1]) @ matrix[:, :3] / scale
        vector = Rotation.from_matrix(turn).as_rotvec(degrees=True)
        assert np.linalg.norm(vector) <= 20 + 1e-6
        axes.append(vector / np.linalg.norm(vector))
    assert 15 < sum(mirrored) < 45 and (np.abs(axes).mean(0) > 0.35).all()
    torch.testing.assert_close(
        got["image"], warp(volume[None, :, ::6, ::7, ::5], got["image_misalignment"][None])[0].clamp(0, 1)
    )


def test_a_volume_is_blurred_and_bent_along_all_its_axes(volume):
    expected = gaussian_filter(volume.numpy().astype(float), (0, 0.8, 0.8, 0.8), mode="mirror", truncate=3)
    np.testing.assert_allclose(blur(volume, 0.8), expected, atol=1e-5)
    transform = RandCopy(elastic=(1.0, 1.0), grid=6).set_random_state(0)
    bent = transform(volume)
    field = transform.displacement
    assert field.shape == (3, *volume.shape[1:]) and 0.5 < field.std() < 1.1
    assert (np.abs(np.diff(field.numpy(), axis=1)).max() < 0.8) and not torch.allclose(bent, volume, atol=0.05)
