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

"""Small audits with a known truth, for the tests of the audit and of its report."""

from __future__ import annotations

import numpy as np
import torch
from helpers import blobs
from scripts.auditing.audit import Audit
from scripts.decision.criteria import Criteria
from scripts.embedder.embedding_set import EmbeddingSet
from scripts.images.augmentations import RandCopyd
from scripts.similarity.verification import Verifier


class Pooled:
    """An embedder of 4 x 4 means."""

    def embed_images(self, images) -> np.ndarray:
        small = torch.nn.functional.avg_pool2d(torch.as_tensor(np.asarray(images, np.float32))[:, None], 4)
        return torch.nn.functional.normalize(small.flatten(1) - small.mean()).numpy()


def images_of(count: int, seed: int) -> np.ndarray:
    return blobs(count, seed)[:, 0].numpy()


def embedded(images: np.ndarray, name: str = "s", slices: int = 1) -> EmbeddingSet:
    """A set of planar images, a subject each, or of volumes of so many slices."""
    files = len(images) // slices
    items = [{"id": f"{name}{i:03d}", "image": f"{name}{i:03d}", "subject_id": f"{name}{i:03d}"} for i in range(files)]
    file = np.repeat(np.arange(files), slices)
    place = np.tile(np.arange(slices), files) if slices > 1 else np.full(files, -1)
    level = place * 4.0 if slices > 1 else np.full(files, np.nan)
    half = images.astype(np.float16)
    return EmbeddingSet(items, file, place, level, Pooled().embed_images(half), half, [])


def audit(fdr: float = 0.05, **arguments) -> Audit:
    copy = RandCopyd("image", elastic=(0.0, 0.5), blur=(0.0, 0.3), noise=(0.0, 0.01), grid=4)
    return Audit(
        Pooled(),
        Verifier(),
        copy,
        **{"control_images": 10, "null_transform": "none", "criteria": Criteria(fdr=fdr), **arguments},
    )
