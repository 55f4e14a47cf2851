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

import copy
import gc
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import ROOT, picture, write_pictures, write_volume
from monai.inferers import SimpleInferer
from PIL import Image
from scripts.bundle.components import component
from scripts.bundle.inferers import AutocastInferer
from scripts.bundle.weights import load_weights
from scripts.embedder.embedder import Embedder
from scripts.embedder.embedding_set import EmbeddingSet
from scripts.embedder.file_loader import ImageError
from scripts.images.datalists import find_images

ROUNDING = 1e-5  # of float32 along the network, by kernels for batches of other sizes


@pytest.fixture
def embedder(network, preprocessing, tmp_path):
    """A function that makes an embedder; `network`, `preprocessing` and `inferer` replace the usual ones."""

    def make(**more) -> Embedder:
        parts = {"network": network, "preprocessing": preprocessing, "inferer": AutocastInferer(enabled=False)}
        return Embedder(**{**parts, "device": torch.device("cpu"), "cache_dir": tmp_path / "cache", **more})

    return make


def same(a: EmbeddingSet, b: EmbeddingSet) -> None:
    for name in ("file", "slice", "level", "images"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_allclose(a.vectors, b.vectors, atol=ROUNDING)


def test_rows_are_the_network_on_the_preprocessed_files_in_order(embedder, network, preprocessing, tmp_path):
    items = [*write_pictures(tmp_path, 3), write_volume(tmp_path), *write_pictures(tmp_path, 1)]
    got = embedder(batch_size=4).embed_files(items)
    slices = preprocessing(dict(items[1]))
    prepared = [preprocessing(dict(items[0])), *slices, preprocessing(dict(items[2]))]
    with torch.no_grad():
        expected = network(torch.stack([entry["image"] for entry in prepared]).half().float())  # as they are kept
    assert len(got) == len(prepared) > 5 and got.items == items and got.skipped == []
    np.testing.assert_allclose(got.vectors, expected, atol=ROUNDING)
    np.testing.assert_allclose(got.images, torch.cat([entry["image"] for entry in prepared]), atol=1e-3)
    assert got.images.dtype == np.float16 and got.vectors.dtype == np.float32
    assert got.file.tolist() == [0, *[1] * len(slices), 2]
    assert got.slice.tolist() == [-1, *[s["slice"] for s in slices], -1]
    np.testing.assert_array_equal(got.level, [np.nan, *[s["level"] for s in slices], np.nan])
    assert got.subject_ids.tolist() == ["s3", *["vol"] * len(slices), "s1"]
    assert [got.row_id(0), got.row_id(1)] == ["3.png", f"v.nii.gz#z={slices[0]['slice']}"]


def test_a_second_run_computes_nothing_and_gives_the_same(embedder, tmp_path):
    items = [*write_pictures(tmp_path, 0, 1, 2), write_volume(tmp_path)]
    first, second, uncached = embedder(batch_size=2), embedder(batch_size=5), embedder(cache_dir=None)
    once = first.embed_files(items)
    again = second.embed_files(items)
    same(once, again)
    np.testing.assert_array_equal(once.vectors, again.vectors)  # they are read
    np.testing.assert_allclose(uncached.embed_files(items).vectors, once.vectors, atol=ROUNDING)
    assert [run.computed for run in (first, second, uncached)] == [len(once), 0, len(once)]


def test_only_changed_files_are_embedded_again(embedder, tmp_path):
    items = write_pictures(tmp_path, 0, 1, 2)
    before = embedder().embed_files(items)
    Image.fromarray(picture(9)).save(tmp_path / "1.png")
    (tmp_path / "2.png").rename(tmp_path / "renamed.png")  # the content counts, not the name
    items[2] = {**items[2], "image": str(tmp_path / "renamed.png"), "id": "renamed.png"}
    again = embedder()
    after = again.embed_files(items)
    assert again.computed == 1
    np.testing.assert_array_equal(after.vectors[[0, 2]], before.vectors[[0, 2]])
    assert np.abs(after.vectors[1] - before.vectors[1]).max() > 1e-3


def test_a_damaged_cache_is_embedded_again_and_gives_the_same(embedder, tmp_path, caplog):
    items = write_pictures(tmp_path, 0, 1, 2)
    before = embedder().embed_files(items)
    (vectors,) = (tmp_path / "cache").rglob("*.vectors.npy")
    np.save(vectors, np.load(vectors)[::-1])  # another subject's
    again = embedder()
    same(again.embed_files(items), before)
    assert again.computed == 3 and "damaged" in caplog.text


def test_a_file_that_changes_while_it_is_read_is_refused(embedder, preprocessing, tmp_path):
    items = write_pictures(tmp_path, 0, 1)

    def changed_meanwhile(item):
        Image.fromarray(picture(5)).save(tmp_path / "1.png")
        return preprocessing(item)

    with pytest.raises(ImageError, match=r"1\.png: cannot be audited \(expected a file that stays as it is, found it"):
        embedder(preprocessing=changed_meanwhile).embed_files(items)
    assert not list((tmp_path / "cache").rglob("*.rows.npy"))


def test_a_mask_and_a_given_level_belong_to_the_content(embedder, tmp_path):
    item = write_volume(tmp_path)
    mask = np.zeros((45, 50, 40), np.uint8)
    mask[8:37, 8:40, 4:36] = 1
    nib.save(nib.Nifti1Image(mask, np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / "m.nii.gz")
    got = embedder().embed_files([item, {**item, "mask": str(tmp_path / "m.nii.gz")}])
    whole, masked = (got.images[got.file == n].astype(float).sum() for n in (0, 1))
    assert whole != masked and (got.file == 1).any()
    (plain,) = write_pictures(tmp_path, 0)
    levels = embedder().embed_files([plain, {**plain, "level": 20}, {**plain, "level": "24.5"}])
    np.testing.assert_array_equal(levels.level, [np.nan, 20, 24.5])


def changed(network, preprocessing):
    """What an embedding depends on, each changed by the least, and the parts that an embedder takes then."""
    weight = copy.deepcopy(network)
    with torch.no_grad():
        weight.projection.weight[2, 5] += 1e-6
    attribute = copy.deepcopy(network)
    attribute.window = 5
    chain = component(ROOT / "configs" / "inference.yaml", "preprocessing", frame=127)
    return {
        "one weight": {"network": weight},
        "an attribute of the network": {"network": attribute},
        "an argument of a transform": {"preprocessing": chain},
        "an argument of the inferer": {"inferer": AutocastInferer(dtype=torch.float16, enabled=False)},
        "another inferer": {"inferer": SimpleInferer()},
    }


def test_what_changes_an_embedding_makes_it_anew(embedder, network, preprocessing, tmp_path):
    items, images = write_pictures(tmp_path, 0, 1), np.random.default_rng(0).random((3, 96, 112))
    embedder().embed_files(items)
    embedder().embed_images(images)
    for name, parts in changed(network, preprocessing).items():
        for expected in (5, 0):
            run = embedder(**parts)
            run.embed_files(items)
            run.embed_images(images)
            assert run.computed == expected, name
    run = embedder(batch_size=3, on_error="skip", num_workers=1)  # these change nothing
    run.embed_files(items)
    run.embed_images(images)
    assert run.computed == 0


def test_weights_that_change_after_an_embedder_was_built_count(embedder, network, tmp_path):
    items, run = write_pictures(tmp_path, 0, 1), embedder()
    before = run.embed_files(items)
    with torch.no_grad():
        network.projection.weight.mul_(-1)
    after = run.embed_files(items)
    assert run.computed == 4 and np.abs(after.vectors - before.vectors).max() > 0.1


def test_the_device_s_arithmetic_counts(embedder, tmp_path, monkeypatch):
    """The inferer computes in bfloat16 where the device has it, so an embedding of one processor is not the other's."""
    items, computed = write_pictures(tmp_path, 0, 1), []
    for answer in (True, False, True):
        monkeypatch.setattr("scripts.embedder.embedder.computes_bfloat16", lambda device, answer=answer: answer)
        run = embedder()
        run.embed_files(items)
        computed.append(run.computed)
    assert computed == [2, 2, 0]


def test_a_shard_that_lost_its_table_is_embedded_again(embedder, tmp_path):
    items = write_pictures(tmp_path, 0, 1, 2)
    before = embedder(batch_size=1).embed_files(items)
    first, *others = (tmp_path / "cache").rglob("*.rows.npy")
    assert len(others) == 2
    first.unlink()
    run = embedder(batch_size=1)
    same(before, run.embed_files(items))
    assert run.computed == 1


def test_files_of_one_content_are_computed_once_and_listed_each(embedder, tmp_path):
    items = write_pictures(tmp_path, 0, 1)
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
    items = [*write_pictures(tmp_path, 0, 1), write_volume(tmp_path), *write_pictures(tmp_path, 2)]
    expected = embedder(batch_size=2, cache_dir=None).embed_files(items)
    got = embedder(batch_size=batch_size, cache_dir=None, num_workers=batch_size % 2).embed_files(items)
    np.testing.assert_allclose(got.vectors, expected.vectors, atol=ROUNDING)
    np.testing.assert_array_equal(got.images, expected.images)
    np.testing.assert_array_equal(got.slice, expected.slice)
    images = embedder(batch_size=batch_size).embed_images(expected.images)
    np.testing.assert_allclose(images, expected.vectors, atol=ROUNDING)


def test_derived_images_are_embedded_once_as_the_files_are(embedder, network):
    images = np.random.default_rng(0).random((3, 96, 112))
    other = images.copy()
    other[2, 10, 10] += 0.01
    runs = [(embedder(), images), (embedder(), images), (embedder(), other), (embedder(cache_dir=None), images)]
    with torch.no_grad():
        for run, array in runs:
            expected = network(torch.from_numpy(array.astype(np.float16)).float()[:, None])
            np.testing.assert_allclose(run.embed_images(array), expected, atol=ROUNDING)
    assert [run.computed for run, _ in runs] == [3, 0, 3, 3]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # MONAI's PILReader, of a truncated file
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_file_is_named_and_skipped_if_told_so(embedder, tmp_path, workers):
    good = write_pictures(tmp_path, 0, 1)
    (tmp_path / "cut.png").write_bytes((tmp_path / "0.png").read_bytes()[:-60])
    bad = {"image": str(tmp_path / "cut.png"), "id": "cut.png", "subject_id": "bad"}
    got = embedder(on_error="skip", max_skipped=0.4, num_workers=workers).embed_files([good[0], bad, good[1]])
    same(got, embedder().embed_files(good))
    assert got.items == good
    ((skipped, reason),) = got.skipped
    assert skipped == "cut.png"
    sentence = re.escape(f"{bad['image']}: cannot be audited ({reason})")
    with pytest.raises(ImageError, match=sentence + "; repair or exclude the file, or pass --on_error skip"):
        embedder(num_workers=workers).embed_files([good[0], bad, good[1]])
    with pytest.raises(ImageError, match=sentence + ", nor can any other of 1 files; check the folder"):
        embedder(on_error="skip", max_skipped=1.0).embed_files([bad])
    gc.collect()  # the warning of the open file falls here, not into the next test


def test_skipped_files_are_counted_to_a_limit(embedder, tmp_path):
    items = write_pictures(tmp_path, *range(6))
    for item in items[1:3]:
        Path(item["image"]).write_text("two files of one content")
    got = embedder(on_error="skip", max_skipped=2 / 6).embed_files(items)
    assert [name for name, _ in got.skipped] == ["1.png", "2.png"]
    with pytest.raises(ImageError, match="1.png: cannot be audited .* and with it more than 20% of 6 files"):
        embedder(on_error="skip", max_skipped=0.2).embed_files(items)
    (tmp_path / "1.png").unlink()  # gone since it was listed
    got = embedder(on_error="skip", max_skipped=0.5).embed_files(items)
    assert dict(got.skipped)["1.png"] == "No such file or directory" and len(got.items) == 4


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"on_error": "ignore"}, "on_error must be raise or skip, got 'ignore'"),
        ({"max_skipped": 3}, "max_skipped must be a share, 0 to 1, got 3"),
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"num_workers": -1}, "num_workers must be 0 or more, got -1"),
    ],
)
def test_arguments_out_of_range_are_errors(embedder, more, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        embedder(**more)


def test_no_files_are_an_error_and_no_images_no_vectors(embedder):
    with pytest.raises(ImageError, match="expected at least one file to embed, got none"):
        embedder().embed_files([])
    assert len(embedder(cache_dir=None).embed_images(np.zeros((0, 96, 112)))) == 0


class Output(torch.nn.Module):
    """A network whose output for a batch of images is what `make` makes of their pixels (B, D)."""

    def __init__(self, make) -> None:
        super().__init__()
        self.make = make

    def forward(self, images):
        return self.make(torch.nn.functional.normalize(images.flatten(1)))


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda unit: unit[:, :, None], r"expected one vector an image, (8, D), found (8, 64, 1)"),
        (lambda unit: unit[:3], "expected one vector an image, (8, D), found (3, 64)"),
        (lambda unit: (unit, unit), "expected one vector an image, (8, D), found tuple"),
        (lambda unit: 2 * unit, "expected unit vectors, found lengths from 2 to 2"),
        (lambda unit: unit * torch.nan, "expected unit vectors, found lengths from nan to nan"),
    ],
)
def test_a_network_that_gives_no_unit_vectors_is_named(embedder, make, found):
    images = np.random.default_rng(0).random((3, 8, 8))
    with pytest.raises(ValueError, match=re.escape(f"network Output: {found}")):
        embedder(network=Output(make), cache_dir=None).embed_images(images)


def test_a_network_of_another_kind_embeds_up_to_the_rounding_of_bfloat16(embedder):
    """What fills a batch up is no image: a network may make no unit vector of it, as this one of black."""
    images = np.random.default_rng(0).random((3, 8, 8)).astype(np.float16)
    got = embedder(network=Output(lambda unit: unit.bfloat16()), cache_dir=None).embed_images(images)
    pixels = images.reshape(3, -1).astype(float)
    np.testing.assert_allclose(got, pixels / np.linalg.norm(pixels, axis=1, keepdims=True), rtol=2**-8)


def demo_vectors(preprocessing, folder: str, device: str, amp: bool) -> torch.Tensor:
    """Of the shipped weights."""
    network = load_weights(component(ROOT / "configs" / "inference.yaml", "network_def"), ROOT / "models" / "model.pt")
    embedder = Embedder(network.to(device), preprocessing, AutocastInferer(enabled=amp), torch.device(device))
    return torch.from_numpy(embedder.embed_files(find_images(ROOT / "demo" / folder, warn=False)).vectors)


@pytest.fixture(scope="module")
def exact(preprocessing) -> torch.Tensor:
    """Cosines of the demo's generated and training images, float32 on the processor."""
    return demo_vectors(preprocessing, "generated", "cpu", False) @ demo_vectors(preprocessing, "train", "cpu", False).T


GPU = pytest.mark.skipif("not torch.cuda.is_available()", reason="needs a GPU; make gpu-check asks the same of one")


@pytest.mark.parametrize(
    ("device", "amp"), [("cpu", True), pytest.param("cuda", True, marks=GPU), pytest.param("cuda", False, marks=GPU)]
)
def test_precision_and_device_do_not_change_the_neighbours(preprocessing, exact, device, amp):
    """The nearest training image is that of float32 on the processor, up to near ties."""
    found = demo_vectors(preprocessing, "generated", device, amp) @ demo_vectors(preprocessing, "train", device, amp).T
    assert (exact - found).abs().max() < 0.03
    chosen = found.argmax(1)
    loss = exact.amax(1) - exact.gather(1, chosen[:, None])[:, 0]
    assert loss.max() < 0.01 and (chosen == exact.argmax(1)).float().mean() > 0.9
