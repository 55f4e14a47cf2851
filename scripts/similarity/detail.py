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

"""Do two images on one grid agree in their fine detail, fold by fold, or in their outline only?

Many brains agree in outline once they are bent onto each other. Their folds do not, and neither do those of a mixture:
an image that is half one person correlates with that person's detail as cos 45 degrees at most, before it is bent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .smoothing import smoothed

__all__ = ["detail_agreement"]

BAND = (0.7, 2.0)  # pixels; Gaussians whose difference is the detail
SOFTENED = (0.0, 0.5, 0.8, 1.1, 1.5)  # pixels; blurs of the reference, of which the one that agrees most counts
RIM = 3  # pixels at the edge of the foreground, where outlines agree


def detail_agreement(
    queries: NDArray[np.float32], references: NDArray[np.float32], masks: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the correlation (P,) of the detail of images (P, H, W), or volumes, inside the masks, in [-1, 1].

    The reference may be sharper: it is blurred as far as that helps, as a generator may have done. 0 where either shows
    no detail.
    """
    inside = [ndimage.binary_erosion(mask, iterations=RIM) for mask in masks]
    detail = _band(queries)
    found = np.full(len(queries), -1.0)
    for sigma in SOFTENED:
        other = _band(smoothed(references, sigma))
        found = np.maximum(found, [_correlation(a[m], b[m]) for a, b, m in zip(detail, other, inside)])
    return found


def _band(images: NDArray) -> NDArray:
    fine, coarse = (smoothed(images, sigma) for sigma in BAND)
    return fine - coarse


def _correlation(a: NDArray, b: NDArray) -> float:
    a, b = (x.astype(float) - x.mean(dtype=float) if len(x) else np.zeros(1) for x in (a, b))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 1e-9 else 0.0
