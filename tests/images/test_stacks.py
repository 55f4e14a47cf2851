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

import io
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers import ROOT
from image_files import SAMPLES, write_tar
from numpy.typing import NDArray
from PIL import Image
from scripts.bundle.components import component
from scripts.embedder.embedder import content_key
from scripts.embedder.file_loader import File, FileLoader, Loaded, Unreadable
from scripts.embedder.fingerprint import fingerprint
from scripts.images.datalists import find_images, scan_images
from scripts.images.loading import load_file
from scripts.images.readers import ImageRefused, parts_of, split_part
from scripts.images.readers.layouts import check_layout, layout_of

RGB = SAMPLES[..., None].repeat(3, -1)


def smooth_volume(shape: tuple[int, int, int] = (40, 36, 30)) -> NDArray[np.float32]:
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return np.where(x**2 + y**2 + z**2 < 0.8, 1 + x - y * z, 0).astype(np.float32)


def write_hdf5(path: Path, array: NDArray) -> None:
    with h5py.File(path, "w") as file:
        file["group/images"], file["labels"] = array, np.arange(len(array))


def write_tiff(path: Path, array: NDArray) -> None:
    pages = [Image.fromarray(page) for page in array]
    pages[0].save(path, save_all=True, append_images=pages[1:])


STACKS = {
    "nhw.npy": lambda path: np.save(path, SAMPLES),
    "nchw.npy": lambda path: np.save(path, SAMPLES[:, None] / 127.5 - 1),
    "nhwc.npy": lambda path: np.save(path, SAMPLES[..., None] / 255),
    "colours_last.npy": lambda path: np.save(path, RGB),
    "colours_second.npy": lambda path: np.save(path, RGB.transpose(0, 3, 1, 2)),
    "archive.npz": lambda path: np.savez(path, images=SAMPLES, labels=np.arange(5)),
    "tensor.pt": lambda path: torch.save(torch.tensor(SAMPLES)[:, None] / 255, path),
    "half.pt": lambda path: torch.save(torch.tensor(SAMPLES).bfloat16(), path),
    "list.pt": lambda path: torch.save([torch.tensor(page)[None] for page in SAMPLES], path),
    "dict.pt": lambda path: torch.save({"samples": torch.tensor(SAMPLES), "labels": torch.arange(5), "epoch": 3}, path),
    "images.h5": lambda path: write_hdf5(path, SAMPLES),
    "pages.tif": lambda path: write_tiff(path, SAMPLES),
    "samples.tar": lambda path: write_tar(path, SAMPLES),
}


@pytest.mark.parametrize("name", STACKS)
def test_each_sample_of_a_stack_is_an_image(tmp_path, name):
    STACKS[name](tmp_path / name)
    found = scan_images(tmp_path, warn=False)
    member = ".png" if name.endswith("tar") else ""
    assert [item["id"] for item in found.items] == [f"{name}#{number}{member}" for number in range(5)]
    assert [item["subject_id"] for item in found.items] == [f"{Path(name).stem}#{number}" for number in range(5)]
    assert found.notes[0].startswith(f"{name}: 5 images")
    for item, page in zip(found.items, SAMPLES):
        image = load_file(item["image"]).numpy()[0]  # x first
        image = (image - image.min()) / (image.max() - image.min())
        expected = page.T.astype(float)
        tolerance = 5e-3 if name == "half.pt" else 1e-5
        np.testing.assert_allclose(image, (expected - expected.min()) / np.ptp(expected), atol=tolerance)
    assert len({content_key(item) for item in found.items}) == 5


def test_samples_go_through_the_chain_as_files_do(tmp_path):
    np.save(tmp_path / "stack.npy", SAMPLES)
    Image.fromarray(SAMPLES[3]).save(tmp_path / "alone.png")
    load = FileLoader(component(ROOT / "configs" / "inference.yaml", "preprocessing"))
    of_file, *of_stack = (load.load(File("", item)) for item in find_images(tmp_path, warn=False))
    assert isinstance(of_file, Loaded) and isinstance(of_stack[3], Loaded)
    np.testing.assert_array_equal(of_file.images[0].image, of_stack[3].images[0].image)


def test_what_is_read_does_not_change_what_a_chain_is(tmp_path):
    np.save(tmp_path / "stack.npy", SAMPLES)
    chains = [component(ROOT / "configs" / "inference.yaml", "preprocessing", array_layout=x) for x in (None, "NHW")]
    before = [fingerprint(chain) for chain in chains]
    assert before[0] != before[1]  # another layout is another image
    item = find_images(tmp_path, warn=False)[0]
    for chain in chains:
        chain(dict(item))
    assert [fingerprint(chain) for chain in chains] == before


LAYOUTS = [
    ((5, 42, 30), "NHW"),
    ((1, 42, 30), "CHW"),
    ((42, 30, 1), "HWC"),
    ((42, 30, 3), "HWC"),
    ((5, 1, 42, 30), "NCHW"),
    ((5, 3, 42, 30), "NCHW"),
    ((5, 42, 30, 3), "NHWC"),
    ((1, 20, 42, 30), "CXYZ"),
    ((6, 20, 42, 30), "NXYZ"),
    ((6, 1, 20, 42, 30), "NCXYZ"),
    ((6, 20, 42, 30, 1), "NXYZC"),
    ((42, 30), "HW"),
]


@pytest.mark.parametrize(("shape", "layout"), LAYOUTS)
def test_the_rule_of_the_axes(shape, layout):
    assert layout_of(np.random.default_rng(1).random(shape)) == layout


def test_slices_that_follow_one_another_are_a_volume_and_samples_a_stack():
    volume = smooth_volume()
    assert layout_of(volume) == "XYZ" and layout_of(volume[..., None]) == "XYZC"
    shuffled = np.stack([np.roll(volume[20], step, axis=0) for step in np.random.default_rng(0).permutation(36)])
    assert layout_of(shuffled) == "NHW" and layout_of(shuffled[..., None]) == "NHWC"
    sorted_samples = shuffled[:20].repeat(2, 0)  # as of two samples a patient, in their order
    with pytest.raises(ImageRefused, match="which may be either; pass --array_layout NHW or --array_layout XYZ"):
        layout_of(sorted_samples)
    with pytest.raises(ImageRefused, match="may be either"):  # a stack of one volume after another
        layout_of(np.concatenate([volume] * 5))
    with pytest.raises(ImageRefused, match="may be either"):
        layout_of(np.ones((9, 40, 40)))


@pytest.mark.parametrize(
    ("shape", "given", "reason"),
    [
        ((5, 42, 30), "NCHW", "expected one channel, or three of colours, found 5 x 42 x 30 as CHW"),
        ((5, 42, 30), "HW", "expected the axes HW of array_layout, found 5 x 42 x 30"),
        ((5, 2, 42, 30), "NCHW", "expected one channel, or three of colours, found 5 x 2 x 42 x 30 as NCHW"),
        ((4, 42, 30), None, "expected one channel, or a volume, found 4 x 42 x 30; turn colours into grey, or name"),
        ((5, 2, 42, 30, 6, 2), None, "expected an image or a stack of them, found an array of 5 x 2 x 42 x 30 x 6 x 2"),
        ((0, 42, 30), None, "expected samples, found none in an array of 0 x 42 x 30"),
    ],
)
def test_arrays_that_are_no_images_are_refused(shape, given, reason):
    with pytest.raises(ImageRefused, match=reason):
        layout_of(np.random.default_rng(0).random(shape), given)


@pytest.mark.parametrize("layout", ["NN", "CHWW", "AB", 3, "N", "HWXY"])
def test_a_layout_that_names_no_image_is_an_error(layout):
    with pytest.raises(ValueError, match="array_layout: expected letters for the axes, as NHW"):
        check_layout(layout)


def test_a_given_layout_wins(tmp_path):
    volume = smooth_volume()
    np.save(tmp_path / "a.npy", volume)
    assert parts_of(tmp_path / "a.npy") is None and len(parts_of(tmp_path / "a.npy", "nhw")) == 40
    np.save(tmp_path / "b.npy", volume.T)
    np.testing.assert_array_equal(load_file(tmp_path / "b.npy", "ZYX")[0], volume)
    np.testing.assert_array_equal(load_file(tmp_path / "a.npy", "XYZ")[0], volume)
    np.save(tmp_path / "c.npy", volume[None, None].transpose(0, 1, 4, 3, 2))  # N C D H W, as networks have it
    np.testing.assert_array_equal(load_file(f"{tmp_path}/c.npy#0", "NCDHW")[0], volume)


def refused(path: str | Path) -> str:
    with pytest.raises(ImageRefused) as error:
        load_file(str(path))
    return str(error.value)


def test_parts_that_are_not_there_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", SAMPLES)
    assert refused(tmp_path / "a.npy") == "expected one image, found a file of 5; name one, as a.npy#0"
    for part in ("5", "-1", "x", "²"):
        assert refused(f"{tmp_path}/a.npy#{part}").startswith(f"expected a sample number {part}, found 5 samples")
    write_tiff(tmp_path / "a.tif", SAMPLES)
    assert refused(f"{tmp_path}/a.tif#5").startswith("expected a page 5, found 5 pages")
    write_tar(tmp_path / "a.tar", SAMPLES)
    assert refused(f"{tmp_path}/a.tar#../x.png").startswith("expected an image ../x.png in the archive")
    Image.fromarray(SAMPLES[0]).save(tmp_path / "a.png")
    assert refused(f"{tmp_path}/a.png#0").startswith("expected a page 0, found 1 pages")


def test_a_sign_in_a_name_is_no_part(tmp_path):
    (tmp_path / "a#1").mkdir()
    np.save(tmp_path / "a#1" / "b#2.npy", SAMPLES[0])
    assert split_part(tmp_path / "a#1" / "b#2.npy") == (str(tmp_path / "a#1" / "b#2.npy"), None)
    assert [item["id"] for item in find_images(tmp_path, warn=False)] == ["a#1/b#2.npy"]
    np.save(tmp_path / "a#1" / "b#2.npy", SAMPLES)
    assert find_images(tmp_path, warn=False)[2]["id"] == "a#1/b#2.npy#2"
    assert split_part(find_images(tmp_path, warn=False)[2]["image"]) == (str(tmp_path / "a#1" / "b#2.npy"), "2")


WRONG = {
    "weights.pt": (
        lambda path: torch.save(torch.nn.Conv2d(8, 8, 3).state_dict() | {"x": torch.ones(9, 9)}, path),
        "expected images, found the weights of a network; exclude the file",
    ),
    "nothing.npz": (lambda path: np.savez(path, a=np.arange(3)), "expected an array of images, found a;"),
    "code.pt": (lambda path: torch.save({"x": Path("a")}, path), "no reader of .pt files takes it"),
    "sizes.pt": (lambda path: torch.save([torch.ones(9, 9), torch.ones(9, 8)], path), "expected tensors of one shape"),
    "number.pt": (lambda path: torch.save(3, path), "expected a tensor, found int"),
    "cut.npz": (lambda path: path.write_bytes(b"PK"), "no reader of .npz files takes it"),
    "cut.h5": (lambda path: path.write_bytes(b"x"), "damaged or of another format"),
    "cut.tar": (lambda path: path.write_bytes(b"x"), "no reader of .tar files takes it"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_without_images_has_a_reason(tmp_path, name):
    write, reason = WRONG[name]
    write(tmp_path / name)
    (item,) = find_images(tmp_path, warn=False)
    got = FileLoader(component(ROOT / "configs" / "inference.yaml", "preprocessing")).load(File("", item))
    assert isinstance(got, Unreadable) and got.reason.startswith(reason), got


def test_an_hdf5_file_that_names_other_files_is_refused(tmp_path):
    (tmp_path / "secret.raw").write_bytes(bytes(range(100)))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (10, 10), np.uint8, external=[(str(tmp_path / "secret.raw"), 0, 100)])
    assert refused(tmp_path / "a.h5").startswith("expected its data in the file, found names of other files")


def test_a_member_of_an_archive_is_never_taken_for_a_file_beside_it(tmp_path):
    Image.fromarray(SAMPLES[1]).save(tmp_path / "evil.png")
    Image.fromarray(SAMPLES[0]).save(content := io.BytesIO(), "PNG")
    (tmp_path / "in").mkdir()
    for name in ("a/../../evil.png", "../evil.png", str(tmp_path / "evil.png"), "b#0.png"):
        with tarfile.open(tmp_path / "in" / "a.tar", "w") as archive:
            member = tarfile.TarInfo(name)
            member.size = len(content.getvalue())
            archive.addfile(member, io.BytesIO(content.getvalue()))
        (item,) = find_images(tmp_path / "in", warn=False)
        assert split_part(item["image"]) == (str(tmp_path / "in" / "a.tar"), name)
        assert item["id"] == f"a.tar#{name}"
        np.testing.assert_array_equal(load_file(item["image"])[0], SAMPLES[0].T)


def test_files_and_members_of_like_names_are_not_one_person(tmp_path):
    for name in ("Ann #1.png", "Bob #1.png"):
        Image.fromarray(SAMPLES[0]).save(tmp_path / name)
    for name in ("a.tar", "b.tar"):
        write_tar(tmp_path / name, SAMPLES[:2])
    subjects = [item["subject_id"] for item in find_images(tmp_path)]
    assert subjects == ["Ann #1", "Bob #1", "a#0", "a#1", "b#0", "b#1"]


def test_samples_last_are_no_volume():
    samples = np.random.default_rng(0).random((64, 8, 8)).repeat(8, 1).repeat(8, 2)
    with pytest.raises(ImageRefused, match="may be either"):
        layout_of(np.moveaxis(samples, 0, -1))


def test_a_stack_in_an_archive_is_refused(tmp_path):
    np.save(content := io.BytesIO(), SAMPLES)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("a.npy")
        member.size = len(content.getvalue())
        archive.addfile(member, io.BytesIO(content.getvalue()))
    assert refused(f"{tmp_path}/a.tar#a.npy").startswith("expected one image in each member, found a stack")


def test_a_name_twice_in_an_archive_is_refused(tmp_path):
    write_tar(tmp_path / "a.tar", SAMPLES)
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        member = tarfile.TarInfo("0.png")
        archive.addfile(member)
    assert refused(f"{tmp_path}/a.tar#0.png").startswith("expected every name once, found 0.png twice")


def test_a_changed_stack_is_read_anew(tmp_path):
    np.savez(tmp_path / "a.npz", SAMPLES)
    first = load_file(f"{tmp_path}/a.npz#1")
    np.savez(tmp_path / "a.npz", SAMPLES[::-1, ::-1].copy(), allow_pickle=False)
    (item,) = (i for i in find_images(tmp_path, warn=False) if i["id"] == "a.npz#3")
    np.testing.assert_array_equal(load_file(item["image"])[0], first[0].numpy()[:, ::-1])


def unlikeness(planes: NDArray) -> float:
    """Return half the mean squared difference of neighbouring planes over their variance, by its definition."""
    rows = planes.reshape(len(planes), -1).astype(float)
    return float(np.mean(np.diff(rows, axis=0) ** 2) / 2 / np.mean(rows.var(axis=0, ddof=1)))


def test_real_slices_are_a_volume_and_slices_of_different_people_a_stack(ixi):
    """The numbers of docs/inputs.md: 24 heads, every axis, as they are and with noise of a tenth of the range."""
    rng = np.random.default_rng(0)
    files = sorted((ixi / "images").glob("*.nii.gz"))[:24]
    heads = [load_file(str(file)).numpy()[0] for file in files]
    for head in heads:
        for axis in range(3):
            planes = np.moveaxis(head, axis, 0)
            noisy = planes + 0.1 * np.percentile(head, 99) * rng.standard_normal(planes.shape)
            assert 0.09 < unlikeness(planes) < 0.18 and unlikeness(noisy) < 0.32
            assert layout_of(planes) == "XYZ"
    shape = np.min([head.shape for head in heads], axis=0)
    same_level = np.stack([head[: shape[0], : shape[1], shape[2] // 2] / np.percentile(head, 99.5) for head in heads])
    for count in (6, 24):
        chosen = same_level[rng.permutation(24)[:count]]
        assert unlikeness(chosen) > 0.85 and layout_of(chosen) == "NHW"


SEVERAL = {
    "medmnist.npz": lambda path, **arrays: np.savez(path, **arrays),
    "dict.pt": lambda path, **arrays: torch.save({name: torch.tensor(one) for name, one in arrays.items()}, path),
    "group.h5": lambda path, **arrays: write_arrays(path, arrays),
}


def write_arrays(path: Path, arrays: dict[str, NDArray]) -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


@pytest.mark.parametrize("name", SEVERAL)
def test_of_several_arrays_the_named_one_is_read(tmp_path, name):
    path = tmp_path / name
    SEVERAL[name](path, train_images=SAMPLES, test_images=SAMPLES[:2] // 2, train_labels=np.zeros((5, 1), int))
    with pytest.raises(ImageRefused, match="found train_images, test_images|found test_images, train_images") as error:
        load_file(str(path))
    assert "name the one by --array_key" in str(error.value)
    items = find_images(tmp_path, warn=False, array_key="train_images")
    assert len(items) == 5
    assert len(find_images(tmp_path, warn=False, array_layout="NHW", array_key=["absent", "test_images"])) == 2
    np.testing.assert_array_equal(load_file(items[3]["image"], array_key="train_images")[0].T, SAMPLES[3])
    with pytest.raises(ImageRefused, match="but no val_images; name the one by --array_key"):
        load_file(str(path), array_key="val_images")


def test_an_array_of_complex_numbers_is_no_image(tmp_path):
    write_arrays(tmp_path / "fastmri.h5", {"kspace": SAMPLES.astype(complex), "reconstruction_rss": SAMPLES})
    assert len(find_images(tmp_path, warn=False)) == 5
    with pytest.raises(ImageRefused, match="expected real numbers in kspace, found others"):
        load_file(str(tmp_path / "fastmri.h5"), array_key="kspace")


@pytest.mark.parametrize("key", [3, [], ["a", 3], "", [""]])
def test_a_key_that_is_no_name_is_an_error(tmp_path, key):
    np.save(tmp_path / "a.npy", SAMPLES)
    with pytest.raises(ValueError, match="array_key: expected the name of an array, or a list of names"):
        find_images(tmp_path, array_key=key)


def test_a_long_table_is_no_picture():
    with pytest.raises(ImageRefused, match="found 64 x 4096, which may be a table with an image in each row"):
        layout_of(np.zeros((64, 4096)))
    assert layout_of(np.zeros((64, 4096)), "HW") == "HW" == layout_of(np.zeros((64, 900)))


def test_pages_that_are_slices_are_a_volume(tmp_path):
    volume = (smooth_volume() * 80).astype(np.uint8)
    write_tiff(tmp_path / "v.tif", volume.transpose(2, 1, 0))  # a page each z, rows y
    (item,) = find_images(tmp_path, warn=False)
    loaded = load_file(item["image"])
    np.testing.assert_array_equal(loaded[0], volume)
    np.testing.assert_array_equal(loaded.affine, np.eye(4))
    assert len(find_images(tmp_path, warn=False, array_layout="NHW")) == 30  # the key wins
    write_tiff(tmp_path / "v.tif", SAMPLES)
    assert len(find_images(tmp_path, warn=False)) == 5
    assert len(find_images(tmp_path, warn=False, array_layout="DHW")) == 1
    write_tiff(tmp_path / "v.tif", SAMPLES[:3].repeat(2, 0))
    with pytest.raises(ImageRefused, match="which may be either; pass --array_layout NHW or --array_layout DHW"):
        load_file(str(tmp_path / "v.tif"))


def test_levels_of_a_pyramid_are_one_image(tmp_path):
    large = np.kron(SAMPLES[0], np.ones((4, 4), np.uint8))
    pages = [Image.fromarray(large[::step, ::step]) for step in (1, 2, 4)]
    pages[0].save(tmp_path / "p.tif", save_all=True, append_images=pages[1:])
    (item,) = find_images(tmp_path, warn=False)
    np.testing.assert_array_equal(load_file(item["image"])[0].T, large)
    pages = [Image.fromarray(large), Image.fromarray(large[:-5]), Image.fromarray(large // 2)]  # of other sizes
    pages[0].save(tmp_path / "p.tif", save_all=True, append_images=pages[1:])
    assert [item["id"] for item in find_images(tmp_path, warn=False)] == ["p.tif#0", "p.tif#1", "p.tif#2"]
