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

import gc
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import ROOT
from PIL import Image

from scripts.bundle.components import component
from scripts.bundle.inferers import AutocastInferer
from scripts.bundle.weights import load_weights
from scripts.embedder.embedder import Embedder
from scripts.embedder.file_loader import ImageError
from scripts.embedder.networks import DeepSSIM
from scripts.images.datalists import find_images


@pytest.fixture(scope="module")
def preprocessing():
    return component(ROOT / "configs" / "inference.yaml", "preprocessing")


@pytest.fixture(scope="module")
def network() -> DeepSSIM:
    torch.manual_seed(0)
    return DeepSSIM(embedding_dim=6, channels=(4, 4, 6), hidden=8).eval()


@pytest.fixture
def embedder(network, preprocessing, tmp_path):
    def make(**more) -> Embedder:
        device = torch.device("cpu")
        more = {"fingerprint": "one", "cache_dir": tmp_path / "cache", **more}
        return Embedder(network, preprocessing, AutocastInferer(enabled=False), device, **more)

    return make


def picture(seed: int) -> np.ndarray:
    """(40, 32), a disc of its own brightness pattern on black."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:40j, -1:1:32j]
    coarse = rng.integers(80, 255, (10, 8)).repeat(4, 0).repeat(4, 1)
    return np.where(x**2 + y**2 < 0.8, coarse, 0).astype(np.uint8)


def write(folder: Path, *seeds: int) -> list[dict]:
    """Pictures as PNG files, and their items."""
    items = []
    for seed in seeds:
        path = folder / f"{seed}.png"
        Image.fromarray(picture(seed)).save(path)
        items.append({"image": str(path), "id": path.name, "subject_id": f"s{seed}"})
    return items


def same(a, b) -> None:
    for name in ("file", "slice", "level", "vectors", "images"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def volume(folder: Path) -> dict:
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (45, 50, 40)), indexing="ij")
    array = np.where(x**2 + y**2 + z**2 < 0.8, 100 + 30 * x - 20 * y + 40 * z * x, 0).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 2.0, 1.0])), folder / "v.nii.gz")
    return {"image": str(folder / "v.nii.gz"), "id": "v.nii.gz", "subject_id": "vol"}


def test_rows_are_the_network_on_the_preprocessed_files_in_order(embedder, network, preprocessing, tmp_path):
    items = [*write(tmp_path, 3), volume(tmp_path), *write(tmp_path, 1)]
    got = embedder(batch_size=4).embed_files(items)
    slices = preprocessing(dict(items[1]))
    prepared = [preprocessing(dict(items[0])), *slices, preprocessing(dict(items[2]))]
    with torch.no_grad():
        expected = network(torch.stack([entry["image"] for entry in prepared]).half().float())  # as they are kept
    assert len(got) == len(prepared) > 5 and got.items == items and got.skipped == []
    np.testing.assert_allclose(got.vectors, expected, atol=1e-5)
    np.testing.assert_allclose(got.images, torch.cat([entry["image"] for entry in prepared]), atol=1e-3)
    assert got.images.dtype == np.float16 and got.vectors.dtype == np.float32
    assert got.file.tolist() == [0, *[1] * len(slices), 2]
    assert got.slice.tolist() == [-1, *[s["slice"] for s in slices], -1]
    np.testing.assert_array_equal(got.level, [np.nan, *[s["level"] for s in slices], np.nan])
    assert got.subject_ids.tolist() == ["s3", *["vol"] * len(slices), "s1"]
    assert [got.row_id(0), got.row_id(1)] == ["3.png", f"v.nii.gz#z={slices[0]['slice']}"]


def test_a_second_run_computes_nothing_and_gives_the_same(embedder, tmp_path):
    items = [*write(tmp_path, 0, 1, 2), volume(tmp_path)]
    first, second, uncached = embedder(batch_size=2), embedder(batch_size=5), embedder(cache_dir=None)
    once = first.embed_files(items)
    same(once, second.embed_files(items))
    np.testing.assert_allclose(uncached.embed_files(items).vectors, once.vectors, atol=1e-5)
    assert [run.computed for run in (first, second, uncached)] == [len(once), 0, len(once)]


def test_only_changed_files_are_embedded_again(embedder, tmp_path):
    items = write(tmp_path, 0, 1, 2)
    before = embedder().embed_files(items)
    Image.fromarray(picture(9)).save(tmp_path / "1.png")
    (tmp_path / "2.png").rename(tmp_path / "renamed.png")  # the content counts, not the name
    items[2] = {**items[2], "image": str(tmp_path / "renamed.png"), "id": "renamed.png"}
    again = embedder()
    after = again.embed_files(items)
    assert again.computed == 1
    np.testing.assert_array_equal(after.vectors[[0, 2]], before.vectors[[0, 2]])
    assert np.abs(after.vectors[1] - before.vectors[1]).max() > 1e-3


def test_a_mask_and_a_given_level_belong_to_the_content(embedder, tmp_path):
    item = volume(tmp_path)
    mask = np.zeros((45, 50, 40), np.uint8)
    mask[8:37, 8:40, 4:36] = 1
    nib.save(nib.Nifti1Image(mask, np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / "m.nii.gz")
    got = embedder().embed_files([item, {**item, "mask": str(tmp_path / "m.nii.gz")}])
    whole, masked = (got.images[got.file == n].astype(float).sum() for n in (0, 1))
    assert whole != masked and (got.file == 1).any()
    (plain,) = write(tmp_path, 0)
    levels = embedder().embed_files([plain, {**plain, "level": 20}, {**plain, "level": "24.5"}])
    np.testing.assert_array_equal(levels.level, [np.nan, 20, 24.5])


def test_another_fingerprint_is_not_reused(embedder, tmp_path):
    items = write(tmp_path, 0, 1)
    runs = [embedder(fingerprint=fingerprint) for fingerprint in ("one", "two", "one", "")]
    for run in runs:
        run.embed_files(items)
    assert [run.computed for run in runs] == [2, 2, 0, 2]


def test_a_shard_without_its_table_does_not_exist(embedder, tmp_path):
    items = write(tmp_path, 0, 1, 2)
    before = embedder(batch_size=1).embed_files(items)
    first, *others = (tmp_path / "cache").rglob("*.json")
    assert len(others) == 2
    first.unlink()
    run = embedder(batch_size=1)
    same(before, run.embed_files(items))
    assert run.computed == 1


def test_files_of_one_content_are_computed_once_and_listed_each(embedder, tmp_path):
    items = write(tmp_path, 0, 1)
    (tmp_path / "copy.png").write_bytes((tmp_path / "0.png").read_bytes())
    items.append({"image": str(tmp_path / "copy.png"), "id": "copy.png", "subject_id": "other"})
    run = embedder()
    got = run.embed_files(items)
    assert run.computed == 2 and len(got) == 3
    assert [got.row_id(row) for row in range(3)] == ["0.png", "1.png", "copy.png"]
    assert got.subject_ids.tolist() == ["s0", "s1", "other"]
    np.testing.assert_array_equal(got.vectors[0], got.vectors[2])


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batch_size_and_workers_do_not_change_the_result(embedder, tmp_path, batch_size):
    items = [*write(tmp_path, 0, 1), volume(tmp_path), *write(tmp_path, 2)]
    expected = embedder(batch_size=2, cache_dir=None).embed_files(items)
    got = embedder(batch_size=batch_size, cache_dir=None, num_workers=batch_size % 2).embed_files(items)
    np.testing.assert_allclose(got.vectors, expected.vectors, atol=1e-5)
    np.testing.assert_array_equal(got.images, expected.images)
    np.testing.assert_array_equal(got.slice, expected.slice)
    images = embedder(batch_size=batch_size).embed_images(expected.images)
    np.testing.assert_allclose(images, expected.vectors, atol=1e-5)


def test_derived_images_are_embedded_once_as_the_files_are(embedder, network):
    images = np.random.default_rng(0).random((3, 96, 112))
    other = images.copy()
    other[2, 10, 10] += 0.01
    runs = [(embedder(), images), (embedder(), images), (embedder(), other), (embedder(fingerprint="two"), images)]
    with torch.no_grad():
        for run, array in runs:
            expected = network(torch.from_numpy(array.astype(np.float16)).float()[:, None])
            np.testing.assert_allclose(run.embed_images(array), expected, atol=1e-5)
    assert [run.computed for run, _ in runs] == [3, 0, 3, 3]
    assert len(embedder(cache_dir=None).embed_images(images[:0])) == 0


BROKEN = {
    "truncated.png": lambda path: path.write_bytes(path.with_name("0.png").read_bytes()[:-60]),
    "text.png": lambda path: path.write_text("no picture"),
    "constant.png": lambda path: Image.fromarray(np.full((40, 32), 9, np.uint8)).save(path),
    "nan.npy": lambda path: np.save(path, np.where(picture(5) > 0, picture(5), np.nan)),
    "infinite.npy": lambda path: np.save(path, np.where(picture(5) > 0, picture(5), np.inf)),
    "pickle.npy": lambda path: np.save(path, np.array([{"a": 1}], dtype=object)),
    "line.npy": lambda path: np.save(path, np.arange(9.0)),
}


@pytest.mark.filterwarnings("ignore:Divide by zero:Warning")  # MONAI's, before the embedder refuses the constant image
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # MONAI's PILReader, of a truncated file
@pytest.mark.parametrize("name", BROKEN)
def test_an_unreadable_file_is_named_and_skipped_if_told_so(embedder, tmp_path, name):
    good = write(tmp_path, 0, 1)
    BROKEN[name](tmp_path / name)
    bad = {"image": str(tmp_path / name), "id": name, "subject_id": "bad"}
    got = embedder(on_error="skip", max_skipped=0.4).embed_files([good[0], bad, good[1]])
    same(got, embedder().embed_files(good))
    assert got.items == good
    ((skipped, reason),) = got.skipped
    assert skipped == name
    sentence = re.escape(f"{bad['image']}: cannot be audited ({reason})")
    with pytest.raises(ImageError, match=sentence + "; repair or exclude the file, or pass --on_error skip"):
        embedder().embed_files([good[0], bad, good[1]])
    with pytest.raises(ImageError, match=sentence + ", nor can any other of 1 files; check the folder"):
        embedder(on_error="skip", max_skipped=1.0).embed_files([bad])
    with pytest.raises(ValueError, match="on_error must be raise or skip, got 'ignore'"):
        embedder(on_error="ignore")
    gc.collect()  # the warning of the open file falls here, not into the next test


def test_skipped_files_are_counted_to_a_limit(embedder, tmp_path):
    items = write(tmp_path, *range(6))
    for item in items[1:3]:
        Path(item["image"]).write_text("two files of one content")
    got = embedder(on_error="skip", max_skipped=2 / 6).embed_files(items)
    assert [name for name, _ in got.skipped] == ["1.png", "2.png"]
    with pytest.raises(ImageError, match="1.png: cannot be audited .* and with it more than 20% of 6 files"):
        embedder(on_error="skip", max_skipped=0.2).embed_files(items)
    (tmp_path / "1.png").unlink()  # gone since it was listed
    got = embedder(on_error="skip", max_skipped=0.5).embed_files(items)
    assert dict(got.skipped)["1.png"] == "No such file or directory" and len(got.items) == 4
    with pytest.raises(ValueError, match="max_skipped must be a share"):
        embedder(max_skipped=3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_chain_that_lets_no_number_through_is_caught(network, tmp_path, value):
    image = torch.rand(1, 20, 16)
    image[0, 3, 4] = value
    run = Embedder(network, lambda item: {"image": image}, AutocastInferer(enabled=False), torch.device("cpu"))
    with pytest.raises(ImageError, match="0.png: cannot be audited .expected finite values, found NaN or infinite"):
        run.embed_files(write(tmp_path, 0))


def test_weights_are_loaded_bare_or_under_model(network, tmp_path):
    x = torch.rand((2, 1, 96, 112), generator=torch.Generator().manual_seed(1))
    for number, content in enumerate((network.state_dict(), {"model": network.state_dict(), "epoch": 3})):
        torch.save(content, tmp_path / f"{number}.pt")
        fresh = DeepSSIM(embedding_dim=6, channels=(4, 4, 6), hidden=8).train()
        with torch.no_grad():
            assert not torch.equal(fresh(x), network(x))
            got = load_weights(fresh, tmp_path / f"{number}.pt")
            assert got is fresh and not got.training
            torch.testing.assert_close(got(x), network(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1, 2], "expected a state dict, bare or under 'model'"),
        (DeepSSIM(embedding_dim=7, channels=(4, 4, 6), hidden=8).state_dict(), "expected weights of DeepSSIM"),
        (Path("x"), "expected a state dict, found a file that weights_only=True refuses"),
        (b"text", "expected a state dict, found a file that weights_only=True refuses"),
        (b"PK\x03\x04text", "expected weights, found a file that is cut off or damaged"),
        (b"", "expected weights, found an empty file"),
        (None, "expected a file with weights, found none"),
    ],
)
def test_wrong_weights_are_an_error_that_names_the_checkpoint(network, tmp_path, content, sentence):
    path = tmp_path / "w.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(FileNotFoundError if content is None else ValueError, match=f"w.pt: {sentence}"):
        load_weights(network, path)


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif("not torch.cuda.is_available()"))]
)
@pytest.mark.parametrize("amp", [True, False])
def test_precision_and_device_do_not_change_the_neighbours(preprocessing, device, amp):
    """Shipped weights on the demo: the nearest training image is that of float32 on the CPU, up to near ties."""

    def vectors(folder: str, device: str, amp: bool) -> torch.Tensor:
        network = load_weights(
            component(ROOT / "configs" / "inference.yaml", "network_def"), ROOT / "models" / "model.pt"
        )
        made = Embedder(network.to(device), preprocessing, AutocastInferer(enabled=amp), torch.device(device))
        return torch.from_numpy(made.embed_files(find_images(ROOT / "demo" / folder, warn=False)).vectors)

    exact = vectors("generated", "cpu", False) @ vectors("train", "cpu", False).T
    found = vectors("generated", device, amp) @ vectors("train", device, amp).T
    assert (exact - found).abs().max() < 0.03
    chosen = found.argmax(1)
    loss = exact.amax(1) - exact.gather(1, chosen[:, None])[:, 0]
    assert loss.max() < 0.01 and (chosen == exact.argmax(1)).float().mean() > 0.9
