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

"""The pictures of the page: each match as generated image, aligned training image and difference; the histogram."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ..auditing.result import AuditResult, Match
from ..embedder.embedding_set import EmbeddingSet
from ..similarity.ssim_kernels import WINDOW
from ..similarity.volumes import VolumeAlignment, align_volumes, start_from_slices

__all__ = [
    "DIFFERENCE",
    "Evidence",
    "Explains",
    "Motion",
    "Picture",
    "contact_sheet",
    "data_uri",
    "evidence",
    "histogram",
    "sections",
    "thumbnail",
]

BARS = 12, 49  # of the histogram, least and most
DIFFERENCE = 0.1  # of the range; where the colours of a difference end
OUTLINE = (255, 210, 0)  # colour of the square that decided
BRIGHTER, DARKER = (255, 140, 40), (60, 150, 255)  # colours of a generated pixel against the other; black: equal
EXPLAINED = 99.0  # percentile of a map's values at which its colours end
EXPLAINED_BLUR = 1.5  # pixels; of a map that is shown, as single pixels of it change sign
ENLARGED = 2  # times the voxels of a whole volume, in its sections
SCALE_MM = 50.0  # of the bar below a section
SHEET = 6  # images of a set that are shown

# (generated, training), both (W, H): a map (W, H) of what made their embeddings alike
Explains = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, and its title.

    Of a volume also what stands left, right, above and below in it, and the width of 50 mm as a share of its own.
    """

    title: str
    data: str
    sides: str = ""
    bar: float = 0.0


@dataclass(frozen=True)
class Motion:
    """How a generated volume lies to its training volume: turned, shifted and scaled against it."""

    degrees: float
    mm: float
    scale: float

    @classmethod
    def of(cls, matrix: NDArray) -> Motion:
        """Return what a map (3, 4) in mm, generated to training volume, amounts to; turned by the least angle."""
        linear = matrix[:, :3]
        factor = float(np.cbrt(np.linalg.det(linear)))
        turn = linear / factor  # a mirrored map is a turn of the volume looked at from behind its centre
        if factor < 0:  # its least angle beside a mirroring of one axis
            turns = [turn @ np.diag(np.where(np.arange(3) == axis, 1.0, -1.0)) for axis in range(3)]
            turn = max(turns, key=np.trace)
        angle = np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
        return cls(float(angle), float(np.linalg.norm(matrix[:, 3])), 1 / abs(factor))


@dataclass(frozen=True)
class Evidence:
    """What the page shows of one match: pictures, three a plane, and of a volume the SSIM after alignment in 3-D.

    `level` is the shown axial slice's, in mm below the top of the object, NaN where unknown. Of volumes `motion` says
    how they lie to each other; of whole ones `stack` holds all axial `slices` below each other, the topmost first, of
    the generated volume and of the aligned training volume. `explained` shows which parts of the generated image, of a
    volume its strongest slice, made the embeddings alike, where that was asked for.
    """

    pictures: list[Picture]
    volume_ssim: float | None = None
    level: float = float("nan")
    motion: Motion | None = None
    stack: list[Picture] = field(default_factory=list)
    slices: int = 0
    explained: Picture | None = None


def evidence(result: AuditResult, match: Match, pixel_mm: float, explain: Explains | None = None) -> Evidence | None:
    """Return the pictures of a match, None if it has no training image.

    Of a volume they are sections in three planes after an alignment in 3-D, a fifth of a second each.

    Args:
        result, match: of the audit, and one of its units.
        pixel_mm: the side of a pixel of volumes' slices.
        explain: as :class:`~scripts.embedder.attribution.Explainer`; None, or volumes that are taken whole: no map.
    """
    if match.subject < 0:
        return None
    if result.whole:
        return _whole_evidence(result, match, pixel_mm)
    upright = bool(result.generated.slice[match.row] >= 0)
    level = float(result.generated.level[match.row])
    cut = len(match.rows) > 1 and match.square is None  # a part lies in one slice
    volumes = _aligned_volumes(result, match, pixel_mm) if cut else None
    if volumes is not None:
        planes = zip(
            sections(volumes.query, volumes.strongest, volumes.spacing),
            sections(volumes.found.aligned, volumes.strongest, volumes.spacing),
        )
        motion, explained = Motion.of(volumes.found.matrix), _explained(result, match, upright, explain)
        pictures = list(_pictures(planes, upright, pixel_mm))
        return Evidence(pictures, volumes.found.ssim, level, motion, explained=explained)
    query = result.units.images[match.row][None].astype(np.float32)
    reference = result.train.images[match.train_row][None].astype(np.float32)
    matrix = result.found.matrix[match.row, result.found.best[match.unit]][None]
    warped = result.verifier.show(query, reference, matrix)
    pictures = list(_pictures([(query[0], warped[0])], upright, pixel_mm, match.square))
    return Evidence(pictures, level=level, explained=_explained(result, match, upright, explain))


def _explained(result: AuditResult, match: Match, upright: bool, explain: Explains | None) -> Picture | None:
    """Return the map of a match's generated image, over it, in colours: what raised the cosine, and what lowered it."""
    if explain is None:
        return None
    # as the network saw them: nothing is aligned
    query = result.units.images[match.row].astype(np.float32)
    found = explain(query, result.train.images[match.train_row].astype(np.float32))
    return Picture("what made them alike", data_uri(_overlaid(query, found), upright))


def _overlaid(image: NDArray, values: NDArray) -> NDArray[np.float32]:
    """Return an image (W, H) in [0, 1] as colours, (W, H, 3), the stronger a value the less of the image is seen."""
    smooth = ndimage.gaussian_filter(values, EXPLAINED_BLUR)
    share = (smooth / max(np.percentile(np.abs(smooth), EXPLAINED), 1e-12)).clip(-1, 1)[..., None]
    colours = (np.maximum(share, 0) * BRIGHTER + np.maximum(-share, 0) * DARKER) / 255
    return (image[..., None] * (1 - np.abs(share)) + colours).astype(np.float32)


def _whole_evidence(result: AuditResult, match: Match, pixel_mm: float) -> Evidence:
    """Return three sections of a whole volume and its match, and all axial slices of both."""
    query = result.units.images[match.row].astype(np.float32)
    reference = result.train.images[match.train_row].astype(np.float32)
    matrix = result.found.matrix[match.row, result.found.best[match.unit]]
    aligned = result.verifier.show(query[None], reference[None], matrix[None])[0]
    fine, fine_aligned = (ndimage.zoom(volume, ENLARGED, order=1).clip(0, 1) for volume in (query, aligned))
    x, y, z = _middle(fine)
    planes = [(volume[:, :, z], volume[:, y, :], volume[x]) for volume in (fine, fine_aligned)]
    stack = [
        Picture(title, data_uri(np.concatenate(list(volume.transpose(2, 0, 1)), axis=1), True))
        for title, volume in (("generated", query), ("training, aligned", aligned))
    ]
    return Evidence(
        list(_pictures(zip(*planes), True, pixel_mm / ENLARGED)),
        motion=Motion.of(matrix),
        stack=stack,
        slices=query.shape[2],
    )


def _middle(volume: NDArray) -> tuple[int, int, int]:
    """Return the voxel in the middle of what a volume shows."""
    shown = volume > 0.1 * volume.max()
    places = [np.flatnonzero(shown.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    x, y, z = (int((inside[0] + inside[-1]) // 2) for inside in places)
    return x, y, z


def thumbnail(result: AuditResult, match: Match) -> str:
    """Return the generated image of a match, of a volume a slice, cut up the best matching one, as a data URI."""
    if result.whole:
        volume = result.units.images[match.row].astype(np.float32)
        return data_uri(volume[:, :, _middle(volume)[2]], True)
    upright = bool(result.generated.slice[match.row] >= 0)
    return data_uri(result.units.images[match.row].astype(np.float32), upright)


def contact_sheet(data: EmbeddingSet, whole: bool) -> list[str]:
    """Return six images of a set as the network sees them, of volumes the middle slice, as data URIs."""
    rows = np.unique(np.linspace(0, len(data) - 1, SHEET).round().astype(int)).tolist()
    images = [data.images[row].astype(np.float32) for row in rows]
    planes = [image[:, :, _middle(image)[2]] if whole else image for image in images]
    return [data_uri(plane, whole or bool(data.slice[row] >= 0)) for plane, row in zip(planes, rows)]


def _pictures(
    planes: Iterable[tuple[NDArray, NDArray]],
    upright: bool,
    pixel_mm: float,
    square: tuple[int, int, int] | None = None,
) -> Iterator[Picture]:
    """Yield three pictures a plane, with the square that decided; slices of volumes are RAS, so that left is left."""
    for (generated, aligned), sides in zip(planes, ("LRAP", "LRSI", "PASI")):
        shown = (sides, SCALE_MM / (pixel_mm * len(generated))) if upright else ("", 0.0)
        trio = {"generated": generated, "training, aligned": aligned, "difference": _coloured(generated - aligned)}
        for title, image in trio.items():
            yield Picture(title, data_uri(image if square is None else _outlined(image, square), upright), *shown)


def _coloured(difference: NDArray) -> NDArray[np.float32]:
    """Return the colours (W, H, 3) in [0, 1] of a difference (W, H)."""
    share = (difference / DIFFERENCE).clip(-1, 1)[..., None]
    return (np.maximum(share, 0) * BRIGHTER + np.maximum(-share, 0) * DARKER) / 255


def _outlined(image: NDArray, square: tuple[int, int, int]) -> NDArray[np.float32]:
    """Return an image (W, H) or (W, H, colour) in [0, 1] as colours, with the outline of a square."""
    drawn = np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image.copy()
    row, column, side = square
    inside = np.zeros(image.shape[:2], bool)
    inside[row : row + side, column : column + side] = True
    drawn[inside & ~ndimage.binary_erosion(inside)] = np.array(OUTLINE) / 255
    return drawn.astype(np.float32)


@dataclass(frozen=True)
class _Volumes:
    """A generated volume (Z, W, H), the top of the head last, with its training volume aligned to it in 3-D.

    `strongest` is the index of its best matching slice, `spacing` (3,) in mm.
    """

    query: NDArray[np.float32]
    found: VolumeAlignment
    strongest: int
    spacing: NDArray[np.float64]


def _aligned_volumes(result: AuditResult, match: Match, pixel_mm: float) -> _Volumes | None:
    """Return the volumes of a match, None if either has too few slices."""
    level = result.generated.level[match.rows]
    rows = match.rows[np.argsort(-level, kind="stable")]
    matched = result.found.image[rows, result.found.best[match.unit]]
    here = np.flatnonzero(result.train.file[matched] == match.train_file)
    own = np.flatnonzero(result.train.file == match.train_file)
    own = own[np.argsort(-result.train.level[own], kind="stable")]
    if min(len(rows), len(own)) < WINDOW or len(here) < 3 or not np.isfinite(level).all():
        return None
    spacing = np.array([np.median(np.abs(np.diff(result.generated.level[rows]))), pixel_mm, pixel_mm])
    query, reference = (a.astype(np.float32) for a in (result.units.images[rows], result.train.images[own]))
    there = (own[None] == matched[here][:, None]).argmax(1)
    matrix = result.found.matrix[rows[here], result.found.best[match.unit]]
    start = start_from_slices(matrix, here, there, (len(rows), len(own)), spacing)
    strongest = int(np.flatnonzero(rows == match.row)[0])
    return _Volumes(query, align_volumes(query, reference, start, spacing), strongest, spacing)


def sections(volume: NDArray, axial: int, spacing: NDArray) -> list[NDArray]:
    """Return one slice (W, H) of a volume (Z, W, H), and its coronal and sagittal middle, in square pixels."""
    stretch = (1, spacing[0] / spacing[1])
    middle = [volume[:, :, volume.shape[2] // 2].T, volume[:, volume.shape[1] // 2, :].T]
    return [volume[axial], *(ndimage.zoom(section, stretch, order=1) for section in middle)]


def data_uri(image: NDArray, upright: bool) -> str:
    """Return a PNG as a data URI; images are (x, y[, colour]): RAS for slices of volumes, y downwards for files."""
    pixels = (image.clip(0, 1) * 255).astype(np.uint8).swapaxes(0, 1)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[::-1] if upright else pixels)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def histogram(result: AuditResult) -> str:
    """Return the statistic of generated images and of the nulls as an SVG data URI."""
    matplotlib.rcParams["svg.hashsalt"] = "deepssim"  # the same result gives the same file
    figure = Figure(figsize=(10.4, 2.4), layout="constrained")
    axes = figure.subplots()
    _draw_distributions(axes, result)
    axes.set_xlabel(f"statistic T: {result.statistic_used.words}", fontsize=9)
    axes.set_ylabel("density", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _draw_distributions(axes: Axes, result: AuditResult) -> None:
    sets = [("training images, each subject left out", result.leave_one_out.statistic, "#9aa5b1")]
    if result.holdout is not None:
        sets.append(("holdout", result.null.statistic, "#15616d"))
    sets.append(("generated", result.statistic, "#c2410c"))
    parts = [(name, values[np.isfinite(values)], colour) for name, values, colour in sets]
    parts = [part for part in parts if len(part[1])]
    if not parts:
        return
    everything = np.concatenate([values for _, values, _ in parts])
    bars = int(np.clip(2 * np.sqrt(len(everything)), *BARS))  # few images in many bars make a comb
    edges = np.linspace(everything.min(), everything.max() + 1e-6, bars + 1).tolist()
    for name, values, colour in parts:
        if name.startswith("training"):
            axes.hist(values, edges, density=True, color=colour, label=name)
        else:
            axes.hist(values, edges, density=True, histtype="step", color=colour, lw=1.8, label=name)
    called = result.statistic[result.memorized]
    if len(called):
        axes.axvline(called.min(), color="#c2410c", ls=":", lw=1.2, label="least called")
    axes.figure.legend(frameon=False, fontsize=8, loc="outside upper left", ncols=4)  # above the bars, seen on a phone
