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

"""Volumes of one set show less than those of the other, a brain without its skull or a crop: compare what both show.

One volume of the set that shows less is the template. Each volume of the other set is registered to it, of what the
template shows alone, and shown where the template shows something. Then both sets can be embedded and aligned alike.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..bundle.progress import Progress
from ..embedder.embedding_set import EmbeddingSet, ImageEmbedder
from ..similarity.volume_registration import register_volumes
from ..similarity.volume_sampling import resample_volumes

__all__ = ["scrambled", "shown_as", "template_of"]

FAINT = 0.05  # of the range: a voxel that shows nothing
CLOSING, MARGIN = 2, 1  # voxels: gaps that are closed, and what is kept around the template
BRIGHTEST = 99.5  # percentile that becomes 1, as the bundle's chain has it
BLOCK = 64  # volumes at a time


def template_of(data: EmbeddingSet) -> NDArray[np.float32]:
    """Return the volume (X, Y, Z) of a set that the others resemble most."""
    return data.images[int((data.vectors @ data.vectors.mean(0)).argmax())].astype(np.float32)


def shown_as(
    data: EmbeddingSet, template: NDArray[np.float32], voxel_mm: float, embedder: ImageEmbedder
) -> EmbeddingSet:
    """Return a set of whole volumes with each one laid on the template, shown where that shows something.

    Args:
        data: images (N, X, Y, Z).
        template: (X, Y, Z).
        voxel_mm: side of the voxels.
        embedder: of what is then shown.

    Cost: one registration a volume.
    """
    spacing = (np.full(3, voxel_mm), np.full(3, voxel_mm))
    mask = ndimage.binary_closing(template > FAINT, iterations=CLOSING)
    mask = ndimage.binary_dilation(ndimage.binary_fill_holes(mask), iterations=MARGIN)
    shown = np.empty_like(data.images)
    for start in Progress(range(0, len(shown), BLOCK), desc="comparing what both sets show", unit="block"):
        volumes = data.images[start : start + BLOCK].astype(np.float32)
        number = np.arange(len(volumes))
        starts = np.repeat(np.eye(3, 4)[None, None], len(volumes), 0)
        pairs = (np.zeros(len(volumes), np.int64), number)
        matrices = register_volumes(template[None], volumes, pairs, starts, spacing, partial=True)
        lain = resample_volumes(volumes, number, matrices, template.shape, spacing) * mask
        bright = np.percentile(lain, BRIGHTEST, axis=(1, 2, 3), keepdims=True)
        shown[start : start + BLOCK] = (lain / np.maximum(bright, 1e-6)).clip(0, 1)
    return replace(data, images=shown, vectors=embedder.embed_images(shown))


def scrambled(volumes: NDArray, rng: np.random.RandomState) -> NDArray[np.float32]:
    """Return volumes (N, X, Y, Z) of which the outline is left: the voxels above 0 in random order, then blurred.

    Mean and standard deviation inside stay.
    """
    result = np.zeros(volumes.shape, np.float32)
    for volume, target in zip(volumes.astype(np.float32), result):
        inside = volume > 0
        if not inside.any():
            continue
        values = volume[inside]
        noise = np.zeros_like(volume)
        noise[inside] = rng.permutation(values) - values.mean()
        noise = ndimage.gaussian_filter(noise, 1.0)[inside]
        target[inside] = (values.mean() + noise * (values.std() / max(noise.std(), 1e-6))).clip(1e-3, 1)
    return result
