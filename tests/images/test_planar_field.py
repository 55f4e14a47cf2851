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


"""The bundle's chain against MONAI's own transforms in a row: the same bits, the same sentences."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import ROOT, write_volume
from monai.data import MetaTensor
from monai.transforms import Compose
from monai_chain import monai_chain, monai_field
from PIL import Image
from scripts import Correction, PlanarFieldd, PlanarSliced, SliceFieldd, Stretchd, component
from scripts.bundle.errors import causes
from scripts.images.planar_field import _percentile

FIELD, FRAME = (96, 112), 128
OURS = PlanarFieldd("image", FRAME, FIELD)
MONAIS = Compose([PlanarSliced("image", FRAME), Stretchd("image"), *monai_field(FIELD)])
RNG = np.random.default_rng(0)


def disc(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W) in [0, 1], an ellipse of noise on black, not in the middle."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    inside = (y - 0.1) ** 2 + (x + 0.2) ** 2 < 0.5
    return np.where(inside, 0.2 + 0.8 * np.random.default_rng(seed).random((height, width)), 0)


def outcome(chain: Callable, item: dict) -> dict[str, object] | str:
    """What a chain makes of an item, the image's bytes and what stands beside it, or its error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Divide by zero")  # MONAI's, of a constant image
        try:
            made = chain(item)
        except Exception as error:
            return str(causes(error)[-1])
    assert made["image"].dtype == torch.float32 and type(made["image"]) is torch.Tensor
    bits = made["image"].numpy().tobytes()
    return {"image": bits, "shape": tuple(made["image"].shape), "slice": made["slice"], "level": str(made["level"])}


def same_bits(image: np.ndarray, **more: object) -> dict[str, object] | str:
    """What both make of an image (C, H, W)."""
    found, expected = (
        outcome(chain, {"image": torch.from_numpy(image.astype(np.float32)), "id": "a", "slice": -1, **more})
        for chain in (OURS, MONAIS)
    )
    assert found == expected, image.shape
    return found


@pytest.fixture(scope="module")
def chains() -> list[Callable]:
    """The chain of inference.yaml, and MONAI's."""
    return [component(ROOT / "configs" / "inference.yaml", "preprocessing"), monai_chain()]


def test_the_demo_comes_out_to_the_last_bit(chains):
    for path in sorted((ROOT / "demo").glob("*/*.png"))[::6]:
        found, expected = (outcome(chain, {"image": str(path), "id": path.name}) for chain in chains)
        assert found == expected and found["shape"] == (1, *FIELD), path


FILES = {
    "grey.png": lambda path: Image.fromarray((255 * disc(180, 150)).astype(np.uint8)).save(path),
    "colour.png": lambda path: Image.fromarray(RNG.integers(0, 255, (60, 90, 3), np.uint8)).save(path),
    "deep.png": lambda path: Image.fromarray((65535 * disc(200, 64)).astype(np.uint16)).save(path),
    "photo.jpg": lambda path: Image.fromarray((255 * disc(256, 256)).astype(np.uint8)).save(path),
    "strip.png": lambda path: Image.fromarray((255 * disc(7, 120)).astype(np.uint8)).save(path),
    "constant.png": lambda path: Image.fromarray(np.full((40, 32), 9, np.uint8)).save(path),
    "background.png": lambda path: Image.fromarray(np.zeros((40, 32), np.uint8)).save(path),
    "negative.npy": lambda path: np.save(path, 2 * disc(90, 130) - 1),
    "far.npy": lambda path: np.save(path, 1000 + disc(90, 130)),
    "nan.npy": lambda path: np.save(path, np.where(disc(90, 130) > 0.9, np.nan, disc(90, 130))),
    "small.png": lambda path: Image.fromarray(np.zeros((1, 40), np.uint8)).save(path),
    "text.png": lambda path: path.write_text("no picture"),
    "none.png": lambda path: None,
}


@pytest.mark.parametrize("name", FILES)
def test_files_come_out_to_the_last_bit_or_with_the_same_sentence(chains, tmp_path, name):
    FILES[name](tmp_path / name)
    found, expected = (outcome(chain, {"image": str(tmp_path / name), "id": name, "level": "3"}) for chain in chains)
    assert found == expected
    assert isinstance(found, str) == (name in ("nan.npy", "small.png", "text.png", "none.png"))


def test_slices_of_a_volume_come_out_to_the_last_bit(chains, tmp_path):
    found, expected = (chain(write_volume(tmp_path)) for chain in chains)
    assert len(found) == len(expected) > 5
    for one, other in zip(found, expected):
        assert one["image"].numpy().tobytes() == other["image"].numpy().tobytes()
        assert [one[key] for key in ("id", "slice", "level")] == [other[key] for key in ("id", "slice", "level")]


def test_images_of_all_sizes_and_kinds_come_out_to_the_last_bit():
    rng = np.random.default_rng(1)
    for number in range(60):
        height, width = (int(side) for side in np.exp(rng.uniform(0, 6, 2)))  # 1 to 400
        image = (disc if number % 2 else lambda *sides: rng.random(sides))(height, width)
        channels = 3 if number % 9 == 0 else 1
        steps = (255, 65535, 1.7)[number % 3]
        same_bits(np.repeat(np.round(image * steps)[None], channels, 0) if number % 4 else image[None])
        stretch = tuple(rng.choice([0.5, 0.9, 1.0, 1.3, 2.0], 2).tolist())
        same_bits(image[None], correction=Correction(stretch=stretch))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.full((1, 40, 32), 7.0), "zeros"),
        (np.zeros((1, 400, 300)), "zeros"),
        (np.eye(40)[None] * -0.0, "zeros"),
        (np.where(np.arange(1600) == 820, 9.0, 0.0).reshape(1, 40, 40), "above 1"),  # the percentile is the minimum
        (np.where(np.arange(1600) == 0, np.inf, 0.0).reshape(1, 40, 40), "a: expected finite values, found NaN"),
        (np.linspace(-3e38, 3e38, 1600).reshape(1, 40, 40), "any"),  # a range beyond float32
    ],
)
def test_what_is_hardly_an_image_is_treated_as_by_monai(image, expected):
    found = same_bits(image)
    if isinstance(found, str):
        assert found.startswith(expected)
    else:
        pixels = np.frombuffer(found["image"], np.float32)
        assert {"zeros": not pixels.any(), "above 1": pixels.max() > 1, "any": True}[expected]


@pytest.mark.parametrize("shape", [(300, 1), (2, 5000)])
def test_an_image_of_which_nothing_would_be_left_is_refused(shape):
    said = f"^a: expected a picture that is not so narrow, found {shape[0]} x {shape[1]} pixels; crop or exclude it$"
    with pytest.raises(ValueError, match=said):
        OURS({"image": torch.ones(1, *shape), "id": "a"})


def test_twice_the_brightness_is_the_same_image():
    image = torch.from_numpy(disc(150, 90).astype(np.float32))[None]
    expected = OURS({"image": image})["image"]
    assert expected.min() == 0 and expected.max() == 1
    for factor in (2.0, 0.25, 1024.0):  # exact in binary
        assert torch.equal(OURS({"image": image * factor})["image"], expected)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 201, 10752])
def test_a_percentile_is_that_of_torch(size):
    rng = np.random.default_rng(size)
    for values in (
        rng.random(size, np.float32),
        np.round(9 * rng.random(size, np.float32)),
        np.zeros(size, np.float32),
    ):
        for upper in (0, 1, 50, 99.5, 99.9, 100):
            expected = torch.quantile(torch.from_numpy(values), torch.tensor(upper / 100, dtype=torch.float32))
            assert _percentile(values, upper) == expected.numpy()


def test_metadata_and_affine_are_those_of_monais_chain(tmp_path):
    path = tmp_path / "a.png"
    FILES["grey.png"](path)
    ours = component(ROOT / "configs" / "inference.yaml", "preprocessing", track_meta=True)
    for item in ({"image": str(path)}, {"image": str(path), "correction": Correction(stretch=(2.0, 0.7))}):
        found, expected = (chain({**item, "id": "a"})["image"] for chain in (ours, monai_chain(track_meta=True)))
        assert isinstance(found, MetaTensor) and found.meta.keys() == expected.meta.keys()
        assert torch.equal(found.as_tensor(), expected.as_tensor())
        assert found.meta["filename_or_obj"] == str(path)
        torch.testing.assert_close(found.affine, expected.affine)
    (first, *_), (other, *_) = (c(write_volume(tmp_path)) for c in (ours, monai_chain(track_meta=True)))
    torch.testing.assert_close(first["image"].affine, other["image"].affine)


def test_the_affine_says_where_a_pixel_was():
    """A dot at (50, 20) of 100 x 60 pixels that are 2 mm wide."""
    image = np.zeros((1, 100, 60), np.float32)
    image[0, 10:90, 5:55], image[0, 50, 20] = 0.5, 1
    placed = MetaTensor(torch.from_numpy(image), affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
    found = PlanarFieldd("image", FRAME, FIELD, upper=100, track_meta=True)({"image": placed})["image"]
    row, column = np.unravel_index(int(found[0].argmax()), FIELD)
    where = found.affine @ torch.tensor([row, column, 0, 1], dtype=torch.float64)
    assert where.tolist() == [100, 40, 0, 1]


def test_the_callers_image_is_left_as_it_is():
    image = torch.from_numpy(disc(96, 112).astype(np.float32))[None]
    item = {"image": image, "id": "a"}
    before = image.clone()
    OURS(item)["image"].zero_()
    assert torch.equal(image, before) and set(item) == {"image", "id"} and item["image"] is image


@pytest.mark.parametrize(
    ("field", "options", "message"),
    [
        (FIELD, {"upper": 101.0}, "upper must be a percentile, 0 to 100, got 101.0"),
        ((48, 56, 40), {}, r"spatial_size: expected two sides for planar images, found \[48, 56, 40\]; for whole"),
    ],
)
def test_another_field_is_an_error(field, options, message):
    for make in (lambda *a, **o: PlanarFieldd("image", FRAME, *a, **o), lambda *a, **o: SliceFieldd("image", *a, **o)):
        with pytest.raises(ValueError, match=message):
            make(field, **options)
