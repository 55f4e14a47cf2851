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

"""Image files for the fuzzer: sound ones, nonsense, and sound ones that were damaged or renamed."""

from __future__ import annotations

import gzip
import io
import math
import struct
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np
import torch
from bundle_root import ROOT
from fuzz_case import Case, Rng
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian
from scripts.bundle.components import component
from scripts.embedder.file_loader import File, FileLoader, ImageError, Loaded, Unreadable, content_key
from scripts.images.datalists import find_images


def ellipse(*lengths: int) -> NDArray[np.float64]:
    """Return an object without symmetry, 2 to 200 on a background of zeros; two axes or three."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in lengths), indexing="ij")
    inside = sum((axis * (1.2 + 0.1 * i)) ** 2 for i, axis in enumerate(axes)) < 0.9
    return np.round(np.where(inside, 90 + 40 * axes[0] - 30 * axes[1] + 40 * axes[-1] * axes[0], 0).clip(0, 255))


def patched(content: bytes, offset: int, code: str, *values: float) -> bytes:
    """Return a file with numbers put at an offset."""
    packed = struct.pack(f"<{len(values)}{code}", *values)
    return content[:offset] + packed + content[offset + len(packed) :]


def as_picture(kind: str, mode: str = "L", **options: object) -> Callable[[NDArray], bytes]:
    """Return what writes an array (rows, columns) by Pillow."""

    def write(p: NDArray) -> bytes:
        image = Image.fromarray(p if mode in ("F", "I;16") else p.astype(np.uint8))
        image = image if mode in ("F", "I;16") else image.convert("RGB").convert(mode) if mode != "L" else image
        image.save(buffer := io.BytesIO(), kind, **options)
        return buffer.getvalue()

    return write


def as_npy(array: NDArray) -> bytes:
    np.save(buffer := io.BytesIO(), array)
    return buffer.getvalue()


def written(write: Callable[[io.BytesIO], object]) -> bytes:
    """Return what is written to a file."""
    write(buffer := io.BytesIO())
    return buffer.getvalue()


def in_tar(members: Mapping[str, bytes]) -> bytes:
    def write(buffer: io.BytesIO) -> None:
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))

    return written(write)


def x_ray(p: NDArray) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = ComputedRadiographyImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = UID("1.2.3")
    data.Rows, data.Columns = p.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 8, 8, 7, 0, 1
    data.PhotometricInterpretation, data.PixelData = "MONOCHROME2", p.astype(np.uint8).tobytes()
    return data


def as_nifti(array: NDArray, affine: NDArray | float = 4.0) -> bytes:
    affine = np.diag([affine] * 3 + [1.0]) if np.isscalar(affine) else affine
    return nibabel.Nifti1Image(array, affine).to_bytes()


def npy_header(shape: tuple[int, ...]) -> bytes:
    np.lib.format.write_array_header_1_0(
        buffer := io.BytesIO(), {"descr": "<f8", "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue() + bytes(999)


P, V = ellipse(70, 56), ellipse(40, 44, 30)
TURNED = np.array([[0, -4.0, 0, 9], [4, 0, 0, -7], [0, 0.2, -4, 5], [0, 0, 0, 1]])
PARTS = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
HOLES = np.where(np.eye(*P.shape) > 0, np.nan, P)
SOUND: dict[str, Callable[[], bytes]] = {  # must be read
    "grey.png": lambda: as_picture("PNG")(P),
    "sixteen.png": lambda: as_picture("PNG", "I;16")((P * 257).astype(np.uint16)),
    "colour.PNG": lambda: as_picture("PNG", "RGB")(P),
    "alpha.png": lambda: as_picture("PNG", "RGBA")(P),
    "palette.png": lambda: as_picture("PNG", "P")(P),
    "photo.jpg": lambda: as_picture("JPEG", "RGB", quality=95)(P),
    "grey.jpeg": lambda: as_picture("JPEG")(P),
    "grey.bmp": lambda: as_picture("BMP")(P),
    "plain.tif": lambda: as_picture("TIFF")(P),
    "float.tif": lambda: as_picture("TIFF", "F")(P.astype(np.float32)),
    "deflate.tiff": lambda: as_picture("TIFF", "I;16", compression="tiff_adobe_deflate")((P * 257).astype(np.uint16)),
    "lzw.tiff": lambda: as_picture("TIFF", "RGB", compression="tiff_lzw")(P),
    "uint8.npy": lambda: as_npy(P.astype(np.uint8)),
    "big_endian.npy": lambda: as_npy(P.astype(">i2")),
    "float16.npy": lambda: as_npy(P.astype(np.float16)),
    "uint64.npy": lambda: as_npy(P.astype(np.uint64)),
    "bool.npy": lambda: as_npy(P.astype(bool)),
    "far.npy": lambda: as_npy(P + 1e9),
    "negative.npy": lambda: as_npy(P / 100 - 1),
    "fortran.npy": lambda: as_npy(np.asfortranarray(P)),
    "channel_first.npy": lambda: as_npy(P[None]),
    "channel_last.npy": lambda: as_npy(P[..., None]),
    "batch.npy": lambda: as_npy(P[None, None]),
    "channels.npy": lambda: as_npy(np.stack([P] * 3, -1)),
    "samples.npy": lambda: as_npy(np.stack([P, P[::-1]])[:, None]),
    "samples.npz": lambda: written(lambda file: np.savez_compressed(file, x=np.stack([P, P[::-1]])[:, None])),
    "samples.pt": lambda: written(lambda file: torch.save(torch.tensor(np.stack([P, P[::-1]]))[:, None], file)),
    "samples.tar": lambda: in_tar({"a.png": as_picture("PNG")(P), "b.npy": as_npy(P)}),
    "pages.tif": lambda: as_picture(
        "TIFF", save_all=True, append_images=[Image.fromarray(P.astype(np.uint8)).rotate(9)]
    )(P),
    "x_ray.dcm": lambda: written(lambda file: x_ray(P).save_as(file, enforce_file_format=True)),
    "volume.mgz": lambda: gzip.compress(nibabel.MGHImage(V.astype(np.float32), np.diag([4, 4, 4, 1])).to_bytes()),
    "volume.npy": lambda: as_npy(ellipse(110, 120, 50).astype(np.int16)),
    "planar.nii": lambda: as_nifti(P.T.astype(np.uint8)),
    "slice.nii.gz": lambda: gzip.compress(as_nifti(P.T[..., None].astype(np.int16), 1.5), mtime=0),
    "volume.nii": lambda: as_nifti(V.astype(np.float32)),
    "turned.nii": lambda: as_nifti(V.astype(np.float64), TURNED),
    "one_time.nii": lambda: as_nifti(V[..., None].astype(np.int16)),
    "volume.nii.gz": lambda: gzip.compress(as_nifti(V.astype(np.int16)), mtime=0),
}
NONSENSE: dict[str, Callable[[], bytes]] = {  # must be refused
    "nan.npy": lambda: as_npy(HOLES),
    "nan.tif": lambda: as_picture("TIFF", "F")(HOLES.astype(np.float32)),
    "nan.nii": lambda: as_nifti(np.where(V > 100, np.nan, V)),
    "infinite.npy": lambda: as_npy(np.where(P > 100, np.inf, P)),
    "too_large.npy": lambda: as_npy(P * 1e300),
    "complex.npy": lambda: as_npy(P * 1j),
    "complex.nii": lambda: as_nifti((V * (1 + 1j)).astype(np.complex64)),
    "complex.nii.gz": lambda: gzip.compress(as_nifti((V * 1j).astype(np.complex64))),
    "parts.nii": lambda: as_nifti(V.astype(np.uint8).astype(PARTS)),
    "object.npy": lambda: as_npy(P.astype(object)),
    "text.npy": lambda: as_npy(P.astype(str)),
    "time.npy": lambda: as_npy(P.astype("m8[s]")),
    "constant.npy": lambda: as_npy(P * 0 + 7),
    "constant.png": lambda: as_picture("PNG")(P * 0 + 7),
    "constant.nii": lambda: as_nifti(V * 0),
    "transparent.png": lambda: as_picture("PNG", "LA")(P * 0),
    "row.png": lambda: as_picture("PNG")(P[30:31]),
    "row.npy": lambda: as_npy(np.arange(99.0)[None]),
    "column.npy": lambda: as_npy(np.arange(99.0)[:, None]),
    "channels_first.npy": lambda: as_npy(np.stack([P] * 4)),
    "number.npy": lambda: as_npy(np.array(3.0)),
    "empty.npy": lambda: as_npy(P[:0]),
    "empty_volume.npy": lambda: as_npy(V[:, :0]),
    "times.nii": lambda: as_nifti(np.stack([V, V], -1)),
    "sagittal.nii": lambda: as_nifti(V[20:21]),
    "moving.png": lambda: as_picture("PNG", save_all=True, append_images=[Image.new("L", (56, 70))])(P),
    "two_arrays.npy": lambda: as_npy(P) + as_npy(P),
    "huge.npy": lambda: npy_header((40_000, 40_000)),
    "endless.npy": lambda: npy_header((10**12, 10**12)),
    "huge.nii": lambda: patched(as_nifti(V, 1.0), 40, "h", 3, 1500, 1500, 1500),
    "huge.nii.gz": lambda: gzip.compress(patched(as_nifti(V, 0.1), 40, "h", 3, 3000, 3000, 3000)),
    "flat.nii": lambda: patched(as_nifti(V), 280, "f", 4, 4, 0, 0, 4, 4, 0, 0, 0, 0, 4, 0),
    "no_size.nii": lambda: patched(as_nifti(V), 280, "f", *[0] * 12),
    "nan_size.nii": lambda: patched(as_nifti(V), 280, "f", *[np.nan] * 12),
    "house.nii": lambda: as_nifti(V, 80.0),
    "street.nii": lambda: as_nifti(V, 1e6),
    "dust.nii": lambda: as_nifti(V, 1e-5),
    "nothing.png": lambda: b"",
    "nothing.nii.gz": lambda: b"",
    "text.nii": lambda: b"no image",
    "folder.png": lambda: b"",
    "link.npy": lambda: b"",
}
CHECKSUM = (".png", ".nii.gz")  # formats in which damage shows
SUFFIXES = (".png", ".jpg", ".bmp", ".tif", ".npy", ".nii", ".nii.gz", ".gz", ".txt")


def _flipped(content: bytes, rng: Rng) -> bytes:
    new = bytearray(content)
    start = int(rng.integers(2) * rng.integers(len(new)))  # half of the flips fall into the header
    for _ in range(rng.integers(1, 4)):
        place = min(len(new) - 1, start + int(rng.integers(120)))
        new[place] ^= 1 << int(rng.integers(8))
    return bytes(new)


def _piece(content: bytes, rng: Rng) -> tuple[int, int]:
    start = int(rng.integers(len(content)))
    return start, start + int(rng.integers(1, 60))


def _replaced(content: bytes, rng: Rng, by: Callable[[int], bytes]) -> bytes:
    start, stop = _piece(content, rng)
    return content[:start] + by(stop - start) + content[stop:]


DAMAGE: dict[str, Callable[[bytes, Rng], bytes]] = {
    "flipped": _flipped,
    "flipped twice": lambda content, rng: _flipped(_flipped(content, rng), rng),
    "cut off": lambda content, rng: content[: rng.integers(len(content))],
    "its end cut off": lambda content, rng: content[: -int(rng.integers(1, 40))],
    "its start cut off": lambda content, rng: content[int(rng.integers(1, 40)) :],
    "zeroed": lambda content, rng: _replaced(content, rng, bytes),
    "a piece lost": lambda content, rng: _replaced(content, rng, lambda n: b""),
    "a piece doubled": lambda content, rng: content[: _piece(content, rng)[1]] + content[_piece(content, rng)[0] :],
    "random bytes": lambda content, rng: _replaced(content, rng, rng.bytes),
    "a longer end": lambda content, rng: content + rng.bytes(int(rng.integers(1, 99))),
}

Load = Callable[[File], Loaded | Unreadable]


class ImageCases:
    """Image files: sound ones, nonsense, and sound ones that were damaged or renamed.

    Args:
        load: what reads them; None: the audit's chain.
    """

    def __init__(self, load: Load | None = None) -> None:
        self.own_load: Load = FileLoader(component(ROOT / "configs" / "inference.yaml", "preprocessing")).load
        self.load = load or self.own_load
        self.known: dict[str, tuple[bytes, list[NDArray]]] = {}  # content and images of sound files

    def case(self, rng: Rng, folder: Path) -> Case:
        """Write a file to the empty folder."""
        share = rng.random()
        if share < 0.2:
            name = str(rng.choice(list(NONSENSE)))
            path = self._placed(name, NONSENSE[name](), folder)
            return Case(name, lambda: self.read(path), lambda _: "nonsense was read", "" if path.is_dir() else name)
        name = str(rng.choice(list(SOUND)))
        content, images = self.sound(name, folder)
        if share < 0.3:
            path = self._placed(name, content, folder)
            return Case(name, lambda: self.read(path), lambda new: _differ(images, new), name, sound=True)
        suffix = name[name.index(".") :].lower()
        if share < 0.4:
            other = f"{name[: name.index('.')]}{rng.choice(SUFFIXES)}"
            path = self._placed(other, content, folder)
            return Case(f"{name} as {other}", lambda: self.read(path), lambda new: _differ(images, new))
        damage = str(rng.choice(list(DAMAGE)))
        path = self._placed(name, DAMAGE[damage](content, rng), folder)
        wrong = {".npy": lambda new: _npy_length(path)}.get(suffix, lambda new: "")
        if suffix in CHECKSUM:
            wrong = lambda new: _differ(images, new)  # noqa: E731
        return Case(f"{name}, {damage}", lambda: self.read(path), wrong, name)

    def sound(self, name: str, folder: Path) -> tuple[bytes, list[NDArray]]:
        """Return a sound file's content and its images."""
        if name not in self.known:
            path = self._placed(name, SOUND[name](), folder)
            self.known[name] = path.read_bytes(), self.read(path, self.own_load)
            path.unlink()
        return self.known[name]

    def read(self, path: Path, load: Load | None = None) -> list[NDArray]:
        """Return the images of the only file of a folder, as the audit reads them."""
        images: list[NDArray] = []
        for item in find_images(path.parent, warn=False):
            found = (load or self.load)(File(content_key(item), item))
            if isinstance(found, Unreadable):
                raise ImageError(f"{item['image']}: cannot be audited ({found.reason}); repair or exclude the file")
            images += [image.image for image in found.images]
        return images

    @staticmethod
    def _placed(name: str, content: bytes, folder: Path) -> Path:
        path = folder / name
        if name.startswith("folder"):
            path.mkdir()
        elif name.startswith("link"):
            path.symlink_to(folder / "gone.npy")
        else:
            path.write_bytes(content)
        return path


def _differ(expected: Sequence[NDArray], found: object) -> str:
    same = isinstance(found, list) and len(found) == len(expected) and all(map(np.array_equal, expected, found))
    return "" if same else "other pixels"


def _npy_length(path: Path) -> str:
    try:
        with path.open("rb") as file:
            first = np.lib.format.read_magic(file) == (1, 0)
            header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(file)
            length = file.tell() + math.prod(shape) * dtype.itemsize
    except Exception:  # numpy raises several of a damaged header
        return "no header"
    return "" if length == path.stat().st_size else "the file is not as long as its header says"
