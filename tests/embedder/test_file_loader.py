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

import numpy as np
import pytest
import torch
from helpers import picture, write_pictures, write_volume
from PIL import Image
from scripts.embedder.file_loader import File, FileLoader, ImageError, Loaded, Unreadable, UnreadableFiles, content_key

BROKEN = {
    "truncated.png": (
        lambda path: path.write_bytes(path.with_name("0.png").read_bytes()[:-60]),
        "damaged or of another format: ",
    ),
    "text.png": (
        lambda path: path.write_text("no picture"),
        "no reader of .png files takes it; it is damaged or of another format",
    ),
    "constant.png": (
        lambda path: Image.fromarray(np.full((40, 32), 9, np.uint8)).save(path),
        "expected an image, found",
    ),
    "nan.npy": (lambda path: np.save(path, np.where(picture(5) > 0, picture(5), np.nan)), "expected finite values"),
    "infinite.npy": (lambda path: np.save(path, np.where(picture(5) > 0, picture(5), np.inf)), "expected finite"),
    "pickle.npy": (lambda path: np.save(path, np.array([{"a": 1}], dtype=object)), "no reader of .npy files takes it"),
    "line.npy": (
        lambda path: np.save(path, np.arange(9.0)),
        "expected an image or a stack of them, found an array of 9 numbers",
    ),
}


def test_files_come_in_order_with_their_images(preprocessing, tmp_path):
    items = [*write_pictures(tmp_path, 3), write_volume(tmp_path), *write_pictures(tmp_path, 1)]
    files = {f"content {n}": item for n, item in enumerate(items)}
    for workers in (0, 1):
        found = list(FileLoader(preprocessing, workers)(files))
        assert [file.content for file in found] == list(files)
        for file, item in zip(found, items):
            prepared = preprocessing(dict(item))
            prepared = prepared if isinstance(prepared, list) else [prepared]
            assert isinstance(file, Loaded) and len(file.images) == len(prepared)
            for image, expected in zip(file.images, prepared):
                np.testing.assert_array_equal(image.image, expected["image"][0].numpy().astype(np.float16))
                assert image.slice == expected["slice"]
                np.testing.assert_equal(image.level, expected["level"])


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # MONAI's PILReader, of a truncated file
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_has_a_reason_and_the_others_are_loaded(preprocessing, tmp_path, name):
    first, last = write_pictures(tmp_path, 0, 1)
    write, reason = BROKEN[name]
    write(tmp_path / name)
    files = {"a": first, "bad": {"image": str(tmp_path / name), "id": name, "subject_id": "bad"}, "b": last}
    good, bad, other = FileLoader(preprocessing)(files)
    assert isinstance(good, Loaded) and isinstance(other, Loaded)
    assert isinstance(bad, Unreadable) and bad.content == "bad"
    assert bad.reason.startswith(reason) and "\n" not in bad.reason and name not in bad.reason.split(": ")[0]
    gc.collect()  # the warning of the open file falls here, not into the next test


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (torch.tensor([[[0.1, np.nan], [0.2, 0.3]]]), "expected finite values, found NaN or infinite ones"),
        (torch.tensor([[[0.1, np.inf], [0.2, 0.3]]]), "expected finite values, found NaN or infinite ones"),
        (torch.full((1, 2, 2), 0.5), "expected an image, found a constant one"),
        (torch.tensor([[[0.1, 1.5]]]), "expected an object that covers at least 0.5 % of the image"),
        (torch.tensor([[[-0.1, 1.0]]]), "expected an object that covers at least 0.5 % of the image"),
    ],
)
def test_a_chain_that_makes_no_image_of_it_is_caught(image, reason):
    item = {"image": "a.png", "id": "a.png", "subject_id": "a"}
    found = FileLoader(lambda item: {"image": image}).load(File("content", item))
    assert isinstance(found, Unreadable) and found.reason.startswith(reason)


def test_the_first_cause_is_told_in_one_line():
    def chain(item):
        try:
            raise OSError("the disk is on fire\nsecond line")
        except OSError as error:
            raise RuntimeError("applying transform <LoadImaged>") from error

    item = {"image": "x/a.png", "id": "a.png", "subject_id": "a"}
    assert FileLoader(chain).load(File("c", item)) == Unreadable(
        "c", "damaged or of another format: the disk is on fire"
    )

    def silent(item):
        raise KeyError

    assert FileLoader(silent).load(File("c", item)) == Unreadable("c", "damaged or of another format: KeyError")


def test_what_a_chain_leaves_out_is_unknown():
    image = torch.tensor([[[0.0, 1.0]]])
    found = FileLoader(lambda item: {"image": image}).load(File("c", {"image": "a", "id": "a", "subject_id": "a"}))
    assert isinstance(found, Loaded)
    assert found.images[0].slice == -1 and np.isnan(found.images[0].level)
    assert found.images[0].image.dtype == np.float16 and found.images[0].image.shape == (1, 2)


def test_a_content_is_the_bytes_of_image_and_mask_and_a_given_level(tmp_path):
    one, two, copy = write_pictures(tmp_path, 0, 1, 0)[:2] + write_pictures(tmp_path, 0)
    renamed = tmp_path / "renamed.png"
    renamed.write_bytes((tmp_path / "0.png").read_bytes())
    keys = {
        content_key(item)
        for item in (one, two, {**one, "mask": two["image"]}, {**one, "level": 20}, {**one, "level": 24.5})
    }
    assert len(keys) == 5 and all(len(key) == 64 for key in keys)
    assert content_key({**copy, "image": str(renamed), "id": "other"}) == content_key(one)
    with pytest.raises(FileNotFoundError):
        content_key({**one, "image": str(tmp_path / "none.png")})


def test_unreadable_files_end_the_audit_where_none_or_too_many_are():
    files = {f"c{n}": [{"image": f"/d/{n}.png", "id": f"{n}.png", "subject_id": "s"}] for n in range(5)}
    files["c1"] = files["c1"] * 2  # two files of one content
    with pytest.raises(
        ImageError, match=re.escape("/d/0.png: cannot be audited (cut); repair or exclude the file, or")
    ):
        UnreadableFiles(files, "raise", 1.0).add(Unreadable("c0", "cut"))
    skipping = UnreadableFiles(files, "skip", 0.5)
    skipping.add(Unreadable("c0", "cut"))
    skipping.add(Unreadable("c1", "empty"))  # 3 of 6 files
    assert skipping.reasons == {"c0": "cut", "c1": "empty"}
    with pytest.raises(
        ImageError, match=re.escape("/d/2.png: cannot be audited (cut), and with it more than 50% of 6")
    ):
        skipping.add(Unreadable("c2", "cut"))
    all_of_it = UnreadableFiles({"c": files["c0"]}, "skip", 0.0)
    all_of_it.add(Unreadable("c", "cut"))  # the caller says that nothing is left
    assert all_of_it.reasons == {"c": "cut"}


def test_too_little_memory_is_not_said_of_the_file():
    def fail(_):
        raise MemoryError

    found = FileLoader(fail).load(File("c", {"image": "a.png", "id": "a.png", "subject_id": "a"}))
    assert isinstance(found, Unreadable) and found.reason.startswith("the memory ran out; lower batch_size")
