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
from helpers import ROOT
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom
from scripts.auditing.findings import SetFit, findings
from scripts.auditing.fit import FitTest
from scripts.auditing.likeness import corrected
from scripts.bundle.components import component
from scripts.embedder.embedder import Embedder
from scripts.embedder.file_loader import ImageError
from scripts.images.correction import Correction
from scripts.images.datalists import find_images


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    """The bundle's, without a cache."""
    bundled = component(ROOT / "configs" / "detect.yaml", "embedder")
    return Embedder(bundled.network, bundled.load.preprocessing, bundled.inferer, bundled.device)


def slice_of(seed: int) -> np.ndarray:
    """(rows, columns) in [0, 255]: a body of one anatomy, with a texture and a size of its own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:100j, -1:1:90j] * (1 + 0.02 * rng.normal())
    body = (x / 0.72) ** 2 + (y / 0.88) ** 2 < 1
    organs = 90 * np.exp(-((x - 0.2) ** 2 + (y + 0.5) ** 2) / 0.06) - 60 * np.exp(
        -((x + 0.3) ** 2 + (y - 0.2) ** 2) / 0.05
    )
    texture = gaussian_filter(rng.normal(size=x.shape), 6)
    return np.where(body, 110 + organs + 40 * y + 250 * texture, 0).clip(0, 255)


def write(folder: Path, seeds: range, change=lambda image, rng: image) -> list:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for seed in seeds:
        changed = np.ascontiguousarray(change(slice_of(seed), rng)).round().clip(0, 255)
        Image.fromarray(changed.astype(np.uint8)).save(folder / f"{seed}.png")
    return find_images(folder, warn=False)


def square(image: np.ndarray) -> np.ndarray:
    """The image on a canvas whose size does not tell how it lies."""
    return np.pad(image, ((0, 0), (5, 5)))


@pytest.fixture(scope="module")
def train(embedder, tmp_path_factory):
    return embedder.embed_files(write(tmp_path_factory.mktemp("fit") / "train", range(18)))


def framed(image, rng):
    image = np.pad(np.pad(image, 12), 4, constant_values=255)
    image[7:10, 8:45:2] = 255
    return image


@pytest.mark.parametrize(
    ("change", "kinds"),
    {
        "as they are": (lambda image, rng: image, []),
        "soft": (lambda image, rng: gaussian_filter(image, 1.5), []),
        "noisy": (lambda image, rng: image + rng.normal(size=image.shape) * 15, []),
        "darker": (lambda image, rng: 255 * (image / 255) ** 1.5, []),
        "turned": (lambda image, rng: np.rot90(image), ["orientation"]),
        "transposed": (lambda image, rng: image.T, ["orientation"]),
        "inverted": (lambda image, rng: 255 - image, ["polarity"]),
        "both": (lambda image, rng: 255 - image.T, ["orientation", "polarity"]),
        "framed": (framed, ["canvas"]),
        "small": (lambda image, rng: zoom(image, 0.5, order=1), ["size"]),
        "stretched": (lambda image, rng: zoom(image, (1, 1.25), order=1), ["size"]),
        "on a wide canvas": (lambda image, rng: np.pad(image, 60), ["canvas"]),
    }.values(),
)
def test_what_is_wrong_is_found_and_undone(train, embedder, tmp_path, change, kinds):
    fit = FitTest()(train, write(tmp_path / "generated", range(40, 47), change), embedder)
    assert fit.fits and fit.likeness > 0.8 * fit.expected
    assert [finding.kind for finding in fit.findings] == kinds
    assert all(finding.undone and finding.remedy for finding in fit.findings)
    assert bool(kinds) == (fit.correction != Correction()) and fit.mixed == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda image, rng: rng.uniform(0, 255, image.shape),
        lambda image, rng: np.where(np.arange(100)[:, None] % 25 < 12, 255, 0) * np.ones((100, 90)),
    ],
)
def test_what_resembles_nothing_does_not_fit(train, embedder, tmp_path, change):
    fit = FitTest()(train, write(tmp_path / "generated", range(40, 47), change), embedder)
    assert not fit.fits and fit.likeness < 0.7 * fit.expected
    assert fit.findings[-1].kind == "likeness" and not fit.findings[-1].undone


@pytest.mark.parametrize(
    ("change", "share"),
    [
        pytest.param(lambda image: image.T, 0.25, marks=pytest.mark.slow),
        (lambda image: 255 - image, 0.5),
        pytest.param(lambda image: image.T, 0.75, marks=pytest.mark.slow),
    ],
)
def test_a_set_of_two_kinds_is_told(train, embedder, tmp_path, change, share):
    """Whichever part is the larger one and was put right: the other one is not."""
    turn = iter(np.arange(12) % 4 < 4 * share)
    items = write(
        tmp_path / "generated", range(40, 52), lambda image, rng: (change if next(turn) else np.array)(square(image))
    )
    fit = FitTest()(train, items, embedder)
    assert not fit.of_size
    assert min(abs(fit.mixed - share), abs(fit.mixed - (1 - share))) < 0.1
    assert [finding.undone for finding in fit.findings if finding.kind == "mixed"] == [False]


def test_the_share_counts_what_lies_across_and_what_is_inverted(train, embedder, tmp_path):
    changes = iter([lambda image: image.T] * 2 + [lambda image: 255 - image] * 2 + [lambda image: image] * 8)
    items = write(tmp_path / "generated", range(40, 52), lambda image, rng: next(changes)(square(image)))
    assert FitTest()(train, items, embedder).mixed == pytest.approx(4 / 12, abs=0.01)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda image: np.rot90(image), "orientation"),
        (lambda image: zoom(image, 0.5, order=1), "size"),
        pytest.param(lambda image: np.pad(image, 60), "canvas", marks=pytest.mark.slow),
    ],
)
def test_images_of_another_size_than_most_are_put_right_alone(train, embedder, tmp_path, change, kind):
    turns = iter([True, False, False] * 3)
    items = write(tmp_path / "generated", range(40, 49), lambda image, rng: change(image) if next(turns) else image)
    fit_test = FitTest()
    fit = fit_test(train, items, embedder)
    assert fit.fits and fit.mixed == 0 and fit.correction == Correction()
    (some,) = fit.of_size
    assert some.files == 3 and some.fits and some.correction != Correction()
    assert [finding.kind for finding in fit.findings] == [kind]
    assert fit.findings[0].text.startswith("of 3 generated images of ") and fit.findings[0].undone
    changed = [item.get("correction", Correction()) for item in fit_test.corrected(items, fit)]
    assert changed == [some.correction if number % 3 == 0 else Correction() for number in range(9)]


def test_images_of_another_size_that_resemble_nothing_are_counted(train, embedder, tmp_path):
    noise = iter([True, False, False] * 3)

    def change(image, rng):
        return rng.uniform(0, 255, (70, 80)) if next(noise) else image

    fit = FitTest()(train, write(tmp_path / "generated", range(40, 49), change), embedder)
    assert fit.fits and fit.mixed == pytest.approx(3 / 9)
    (finding,) = fit.findings
    assert finding.text.startswith("3 generated images of 70 x 80 pixels (rows x columns) resemble no training image")
    assert not finding.undone


@pytest.mark.parametrize("readable", [6, 2])
def test_images_of_another_size_that_cannot_be_read_are_left_to_the_audit(embedder, train, tmp_path, readable):
    """They show nothing, and are the fewer or the more."""
    flat = iter([False] * readable + [True] * 3)
    items = write(
        tmp_path / "generated",
        range(40, 43 + readable),
        lambda image, rng: np.full((50, 60), 9.0) if next(flat) else image.T,
    )
    skips = Embedder(
        embedder.network,
        embedder.load.preprocessing,
        embedder.inferer,
        embedder.device,
        on_error="skip",
        max_skipped=0.9,
    )
    fit_test = FitTest()
    fit = fit_test(train, items, skips)
    assert fit.correction.transposed and fit.fits and fit.of_size == []
    assert len(skips.embed_files(fit_test.corrected(items, fit)).skipped) == 3
    with pytest.raises(ImageError, match="nor can any other of 3 files"):
        FitTest()(train, items[readable:], skips)


def test_images_of_another_scale_on_the_same_canvas_are_a_kind_of_their_own(train, embedder, tmp_path):
    small = iter([True, False, False] * 4)

    def change(image, rng):
        return np.pad(zoom(image, 0.5, order=1), ((25, 25), (22, 23))) if next(small) else image

    fit = FitTest()(train, write(tmp_path / "generated", range(40, 52), change), embedder)
    assert fit.mixed == pytest.approx(4 / 12, abs=0.01) and not fit.of_size


def test_many_sizes_are_the_nature_of_a_set(train, embedder, tmp_path):
    rows = iter(range(9))
    items = write(tmp_path / "generated", range(40, 49), lambda image, rng: np.pad(image, ((0, next(rows)), (0, 0))))
    fit = FitTest()(train, items, embedder)
    assert fit.of_size == [] and fit.mixed == 0 and fit.fits


def test_one_image_a_repeated_one_and_the_training_images_themselves_fit(train, embedder, tmp_path):
    (item,) = write(tmp_path / "one", range(40, 41))
    for items in ([item], [item] * 3, train.items):
        fit = FitTest()(train, items, embedder)
        assert fit.fits and fit.correction == Correction() and fit.findings == []


def test_the_same_seed_gives_the_same_and_a_single_subject_says_nothing(train, embedder, tmp_path):
    items = write(tmp_path / "generated", range(40, 48), lambda image, rng: image.T)
    few = FitTest(sample=6)
    assert few(train, items, embedder) == few(train, items, embedder)
    alone = embedder.embed_files([{**item, "subject_id": "one"} for item in train.items])
    assert FitTest()(alone, items, embedder) == SetFit()


def test_a_stretch_that_leaves_nothing_is_not_made(train, embedder, tmp_path, monkeypatch):
    items = write(tmp_path / "generated", range(40, 46), lambda image, rng: zoom(image, 0.5, order=1))
    embed = embedder.embed_files

    def fails(items, name):
        if any(item.get("correction", Correction()).stretch != (1.0, 1.0) for item in items):
            raise ImageError("nothing is left")
        return embed(items, name)

    monkeypatch.setattr(embedder, "embed_files", fails)
    assert FitTest()(train, items, embedder).correction.stretch == (1.0, 1.0)


def test_items_get_the_correction_that_they_need():
    items = [{"image": "a.png", "id": "a", "subject_id": "a"}]
    assert corrected(items, Correction()) == items and "correction" not in corrected(items, Correction())[0]
    assert corrected(items, Correction(inverted=True))[0]["correction"] == Correction(inverted=True)
    assert "correction" not in items[0]


def test_every_change_has_its_words():
    everything = Correction(True, True, True, (2.0, 1.9))
    found = findings(everything, fits=True)
    assert [finding.kind for finding in found] == ["orientation", "polarity", "canvas", "size"]
    assert "2.00 and 1.90" in found[3].text and findings(Correction(), fits=True) == []
    # what was tried in vain is no finding
    assert [finding.kind for finding in findings(everything, fits=False)] == ["likeness"]


@pytest.mark.parametrize(
    "argument",
    [
        {"sample": 0},
        {"subjects": 0},
        {"satisfied": 1.1},
        {"least_gain": -1},
        {"size_tolerance": -0.1},
        {"least_likeness": 2},
        {"least_mixed": 0},
        {"apart": 0},
        {"seed": -1},
    ],
)
def test_numbers_out_of_range(argument):
    with pytest.raises(ValueError, match=f"{next(iter(argument))} must be .*, got"):
        FitTest(**argument)
