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

import gzip
import io
import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from helpers import ROOT, grey_picture, reference_image
from monai.data import ImageReader
from monai.utils import MetaKeys
from PIL import Image
from scripts.bundle.components import component
from scripts.embedder.file_loader import File, FileLoader, Unreadable
from scripts.images.datalists import find_images
from scripts.images.readers import ImageRefused, NiftiReader, image_readers, reads, registry

KINDS = {
    "grey.png": lambda path, p: grey_picture(p).save(path),
    "sixteen.png": lambda path, p: Image.fromarray((257 * p.T).astype(np.uint16)).save(path),
    "rgb.png": lambda path, p: grey_picture(p).convert("RGB").save(path),
    "alpha.png": lambda path, p: grey_picture(p).convert("RGBA").save(path),
    "palette.png": lambda path, p: grey_picture(p).convert("RGB").quantize(256).save(path),
    "UPPER.PNG": lambda path, p: grey_picture(p).save(path),
    "photo.jpg": lambda path, p: grey_picture(p).convert("RGB").save(path, quality=95),
    "grey.jpeg": lambda path, p: grey_picture(p).save(path, quality=95),
    "grey.bmp": lambda path, p: grey_picture(p).save(path),
    "grey.jp2": lambda path, p: grey_picture(p).save(path, irreversible=False),
    "sixteen.jp2": lambda path, p: Image.fromarray((257 * p.T).astype(np.uint16)).save(path, irreversible=False),
    "grey.gif": lambda path, p: grey_picture(p).save(path),
    "lossless.webp": lambda path, p: grey_picture(p).convert("RGB").save(path, lossless=True),
    "grey.tif": lambda path, p: grey_picture(p).save(path),
    "sixteen.tiff": lambda path, p: Image.fromarray((257 * p.T).astype(np.uint16)).save(path),
    "float.tif": lambda path, p: Image.fromarray((p.T / 255).astype(np.float32)).save(path),
    # p is (x, y), an array in a file (rows, columns)
    "integer.npy": lambda path, p: np.save(path, p.T.astype(np.uint16)),
    "float.npy": lambda path, p: np.save(path, p.T / 7),
    "channel_last.npy": lambda path, p: np.save(path, p.T[..., None]),
    "channel_first.npy": lambda path, p: np.save(path, p.T[None]),
    "offset.npy": lambda path, p: np.save(path, p.T / 255 + 1),
    "large_offset.npy": lambda path, p: np.save(path, p.T.astype(np.uint16) + 1000),
    "far_offset.npy": lambda path, p: np.save(path, p.T.astype(np.int64) + 2**40),
    "far_below.npy": lambda path, p: np.save(path, p.T - 1e9),
    "model_range.npy": lambda path, p: np.save(path, p.T / 127.5 - 1),
    "planar.nii.gz": lambda path, p: nibabel.save(nibabel.Nifti1Image(p.astype(np.int16), np.eye(4)), path),
}


@pytest.mark.parametrize("name", KINDS)
def test_one_picture_gives_one_image_whatever_the_file(chain, picture, tmp_path, name):
    KINDS[name](tmp_path / name, picture)
    got = chain(tmp_path / name)
    assert type(got["image"]) is torch.Tensor and got["image"].dtype == torch.float32
    assert got["image"].min() == 0 and got["image"].max() == 1
    assert got["id"] == "scan" and got["slice"] == -1 and np.isnan(got["level"])
    tolerance = 0.05 if name.endswith(("jpg", "jpeg")) else 1e-6
    np.testing.assert_allclose(got["image"], reference_image(picture)[None], atol=tolerance)


def test_a_compressed_volume_with_a_flipped_bit_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    path, damaged = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    nibabel.save(nibabel.Nifti1Image(rng.integers(0, 9, (20, 20, 20), np.int16), np.eye(4)), path)
    whole = path.read_bytes()
    for _ in range(45):
        flipped = bytearray(whole)
        flipped[rng.integers(20, len(whole))] ^= 1 << rng.integers(8)  # after gzip's own header, which names the file
        damaged.write_bytes(flipped)
        with pytest.raises((OSError, EOFError, zlib.error)):
            NiftiReader().read(damaged)
    reader = NiftiReader()
    assert reader.get_data(reader.read(path))[0].shape == (20, 20, 20)


def test_a_photo_is_read_upright(chain, picture, tmp_path):
    upright = grey_picture(picture)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_allclose(chain(tmp_path / "a.png")["image"], reference_image(picture)[None], atol=1e-6)
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.tif", exif=exif)
    np.testing.assert_allclose(chain(tmp_path / "a.tif")["image"], reference_image(picture)[None], atol=1e-6)


COLOURS = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


def npy_bytes(p: np.ndarray) -> bytes:
    np.save(buffer := io.BytesIO(), p.T.astype(float))
    return buffer.getvalue()


WRONG = {
    "two pages.tif": (
        lambda path, p: grey_picture(p).save(path, save_all=True, append_images=[grey_picture(p // 2)]),
        "expected one image, found a file of 2; name one, as two pages.tif#0",
    ),
    "animated.png": (
        lambda path, p: grey_picture(p).save(path, save_all=True, append_images=[grey_picture(p // 2)]),
        "expected one image, found a file of 2; save each as a file of its own",
    ),
    "rgba.npy": (
        lambda path, p: np.save(path, np.repeat(p.T[..., None], 4, 2) / 255),
        "expected one channel, or a volume, found 90 x 70 x 4; turn colours into grey",
    ),
    "two_channels.npy": (
        lambda path, p: np.save(path, np.repeat(p.T[None], 2, 0)),
        "expected one channel, or a volume, found 2 x 90 x 70;",
    ),
    "complex.npy": (
        lambda path, p: np.save(path, p * (1 + 1j)),
        "expected real numbers, found an array of complex128; save real ones",
    ),
    "text.npy": (lambda path, p: np.save(path, p.astype(str)), "expected real numbers, found an array of <U21"),
    "complex.nii": (
        lambda path, p: nibabel.save(nibabel.Nifti1Image((p * 1j).astype(np.complex64), np.eye(4)), path),
        "expected real numbers, found an array of complex64; save real ones",
    ),
    "colours.nii": (
        lambda path, p: nibabel.save(nibabel.Nifti1Image(p.astype(np.uint8).astype(COLOURS), np.eye(4)), path),
        "expected real numbers, found an array of [('R', 'u1'), ('G', 'u1'), ('B', 'u1')]; save real ones",
    ),
    "row.png": (
        lambda path, p: grey_picture(p[:, 40:41]).save(path),
        "expected at least 7 pixels a side, found 70 x 1; take a whole image",
    ),
    "column.npy": (lambda path, p: np.save(path, p[:, 40:41].T), "expected at least 7 pixels a side, found 70 x 1;"),
    "empty.npy": (lambda path, p: np.save(path, p[:0]), "expected at least 7 pixels a side, found 0 x 90;"),
    "large.npy": (
        lambda path, p: np.save(path, p * 1e300),
        "expected values that 32 bits can hold, found 1.82e+302; scale them",
    ),
    "two.npy": (
        lambda path, p: path.write_bytes(2 * npy_bytes(p)),
        "expected one array, found bytes after it; save each array as a file of its own",
    ),
    "huge.npy": (
        lambda path, p: path.write_bytes(npy_bytes(p).replace(b"(90, 70), }    ", b"(90000, 70000), }")),
        "no reader of .npy",
    ),
    "nothing.png": (lambda path, p: path.touch(), "no reader of .png files takes it"),
    "nothing.npy": (lambda path, p: path.touch(), "no reader of .npy files takes it"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_grey_image_is_refused_with_its_reason(picture, tmp_path, name):
    preprocessing = component(ROOT / "configs" / "inference.yaml", "preprocessing")
    make, reason = WRONG[name]
    make(tmp_path / name, picture)
    item = {"image": str(tmp_path / name), "id": name, "subject_id": "a"}
    found = FileLoader(preprocessing).load(File("content", item))
    assert isinstance(found, Unreadable) and reason in found.reason, found


def test_colours_become_their_luma(chain, picture, tmp_path):
    colours = np.stack([picture, picture // 2, 255 - picture // 3], axis=-1) * (picture > 0)[..., None]
    Image.fromarray(colours.transpose(1, 0, 2).astype(np.uint8)).save(tmp_path / "a.png")
    luma = colours @ [0.299, 0.587, 0.114]  # ITU-R 601-2, as PIL's manual gives it
    np.testing.assert_allclose(chain(tmp_path / "a.png")["image"], reference_image(luma)[None], atol=1.5 / 255)


@pytest.fixture
def toy_format(monkeypatch) -> None:
    """Rows of numbers as text under the suffix .rows, known for one test."""
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))

    @reads(".rows")
    class RowsReader(ImageReader):
        def verify_suffix(self, filename):
            return str(filename).endswith(".rows")

        def read(self, data, **kwargs):
            return np.loadtxt(data[0], ndmin=2)

        def get_data(self, img):
            return img.T, {MetaKeys.ORIGINAL_CHANNEL_DIM: "no_channel"}


def test_a_new_format_is_one_class(toy_format, picture, tmp_path):
    np.savetxt(tmp_path / "sub-1.ROWS", picture.T, fmt="%d")
    grey_picture(picture).save(tmp_path / "sub-2.png")
    items = find_images(tmp_path)
    assert [item["id"] for item in items] == ["sub-1.ROWS", "sub-2.png"]
    preprocessing = component(ROOT / "configs" / "inference.yaml", "preprocessing")
    own, known = (preprocessing(dict(item))["image"] for item in items)
    np.testing.assert_allclose(own, reference_image(picture)[None], atol=1e-6)
    torch.testing.assert_close(own, known)
    (tmp_path / "sub-1.ROWS").unlink()
    (tmp_path / "sub-2.png").unlink()
    with pytest.raises(
        ValueError, match=r"expected images \(.bmp .dcm .* .png .pt .rows .tar .tif .tiff .webp\), found none"
    ):
        find_images(tmp_path)


def test_a_pickle_is_not_read(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"runs": "code"}]))
    (reader,) = image_readers()
    with pytest.raises(ImageRefused, match=r"no reader of \.npy files takes it"):
        reader.get_data(reader.read(Path(tmp_path / "a.npy")))


@pytest.mark.parametrize(("spacing", "size"), [(1000.0, "20"), (1e9, "2e+07")])
def test_a_volume_as_large_as_a_house_is_refused_before_it_is_resampled(tmp_path, spacing, size):
    affine = np.diag([spacing, 1, 1, 1])
    nibabel.save(nibabel.Nifti1Image(np.ones((20, 20, 20), np.int16), affine), tmp_path / "a.nii")
    (reader,) = image_readers()
    with pytest.raises(ImageRefused) as error:
        reader.get_data(reader.read(tmp_path / "a.nii"))
    assert str(error.value) == f"expected an image of at most 5 m, found one of {size} m; correct its voxel size"


def test_a_damaged_volume_is_refused_by_the_whole_chain(tmp_path):
    """MONAI's own reader, which the chain falls back to, would read it."""
    path = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).integers(0, 9, (20, 20, 20), np.int16), np.eye(4)), path)
    whole = bytearray(path.read_bytes())
    whole[-6] ^= 1  # the checksum
    path.write_bytes(whole)
    preprocessing = component(ROOT / "configs" / "inference.yaml", "preprocessing")
    found = FileLoader(preprocessing).load(File("content", {"image": str(path), "id": "a", "subject_id": "a"}))
    assert isinstance(found, Unreadable) and found.reason.startswith("damaged or of another format: CRC check failed")


def png_with_other_pixels(path: Path, p: np.ndarray) -> bytes:
    """Return a PNG file whose pixels were changed and packed again, with the checksums of the file before."""
    grey_picture(p).save(path)
    whole = path.read_bytes()
    start = whole.index(b"IDAT")
    length = int.from_bytes(whole[start - 4 : start])
    rows = bytearray(zlib.decompress(whole[start + 4 : start + 4 + length]))
    rows[len(rows) // 2 + 5] ^= 64
    packed = zlib.compress(bytes(rows))
    after = whole[start + 4 + length :]
    return whole[: start - 4] + len(packed).to_bytes(4) + b"IDAT" + packed + after


def test_a_png_file_with_a_wrong_checksum_is_refused(chain, picture, tmp_path):
    """Pillow compares none of those of the pixels."""
    path = tmp_path / "a.png"
    damaged = png_with_other_pixels(path, picture)
    assert chain(path)["image"].max() == 1
    path.write_bytes(damaged)
    assert np.asarray(Image.open(path)).shape == (90, 70)  # Pillow alone reads it
    (reader,) = image_readers()
    for content, reason in ((damaged, "a checksum differs"), (damaged[:-20], "the file is cut off")):
        path.write_bytes(content)
        with pytest.raises(ImageRefused, match=f"damaged or of another format: ({reason})"):
            reader.get_data(reader.read(path))


@pytest.mark.parametrize("row", [(0.0, 0, 0, 0), (np.nan, 0, 0, 0), (0, 4.0, 0, 0)])
def test_an_affine_that_says_nothing_is_refused(tmp_path, row):
    """MONAI would take the voxel size of another field, and any orientation."""
    nibabel.save(nibabel.Nifti1Image(np.ones((20, 20, 20), np.int16), np.diag([4, 4, 4, 1])), tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<4f", content, 280, *row)  # srow_x of the NIfTI-1 header
    (tmp_path / "a.nii").write_bytes(content)
    (reader,) = image_readers()
    with pytest.raises(ImageRefused, match="expected an affine that says where the voxels lie, found none; correct"):
        reader.get_data(reader.read(tmp_path / "a.nii"))


def test_a_volume_as_large_as_a_room_is_refused_before_it_is_resampled(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.ones((20, 20, 20), np.int16), np.diag([100, 100, 100, 1])), tmp_path / "a.nii")
    (reader,) = image_readers()
    with pytest.raises(ImageRefused) as error:
        reader.get_data(reader.read(tmp_path / "a.nii"))
    expected = "expected a volume of at most 1 m3, found one of 2 x 2 x 2 m; correct its voxel size"
    assert str(error.value) == expected


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_header_that_asks_for_more_than_there_is_is_refused_before_memory_is_taken(tmp_path, suffix):
    content = bytearray(nibabel.Nifti1Image(np.ones((20, 20, 20), np.int16), np.diag([0.1, 0.1, 0.1, 1])).to_bytes())
    struct.pack_into("<3h", content, 42, 5000, 5000, 5000)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    (reader,) = image_readers()
    with pytest.raises(ImageRefused, match="expected 250000000352 bytes, as its header says, found 16352; copy it"):
        reader.get_data(reader.read(path))
