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

"""Sets of random embeddings, in which one generated image in a hundred is a copy: for audits of any size."""

from __future__ import annotations

import numpy as np
from bundle_root import ROOT  # noqa: F401  puts the bundle on the path
from numpy.typing import NDArray
from scripts.embedder.embedding_set import EmbeddingSet
from scripts.images.items import Item
from scripts.images.stacks import Images, Rows
from scripts.similarity.verification import Alignment, Pairs, Verifier

__all__ = ["COPIES", "DIMENSION", "SHAPE", "RandomEmbedder", "RandomVerifier", "random_set", "unit_vectors"]

DIMENSION = 384
SHAPE = (96, 112)
COPIES = 100  # one image in so many is a copy


def unit_vectors(count: int, seed: int) -> NDArray[np.float32]:
    """Return random unit vectors (N, D)."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, DIMENSION), np.float32)
    for start in range(0, count, 8192):
        vectors[start : start + 8192] /= np.linalg.norm(vectors[start : start + 8192], axis=1, keepdims=True)
    return vectors


class RandomVerifier(Verifier):
    """Aligns nothing: pairs have a random SSIM, and that of a generated copy and its training image is high."""

    def __init__(self, generated: int, train: int) -> None:
        super().__init__()
        self.generated, self.train, self.rng = generated, train, np.random.default_rng(3)

    def align(
        self, queries: Images, references: Images, pairs: Pairs | None = None, start: NDArray | None = None
    ) -> Alignment:
        """Return identities and the SSIM of pairs."""
        assert pairs is not None
        q, r = pairs
        of_all = isinstance(queries, Rows) and len(queries.images) == self.generated
        number = queries.rows[q] if isinstance(queries, Rows) else q
        score = self.rng.uniform(0.3, 0.5, len(q))
        copy = of_all & (number % COPIES == 0) & (r.reshape(len(q), -1)[:, 0] == number % self.train)
        matrix = np.broadcast_to(np.eye(2, 3), (len(q), 2, 3))
        scores = np.where(copy, 0.97, score).astype(np.float32)
        none = np.empty((len(q), 0), np.float32)
        return Alignment(matrix, np.zeros(len(q), bool), scores, none, scores, np.zeros(len(q), np.int64))

    def detail(
        self, queries: NDArray, references: NDArray, matrix: NDArray, squares: NDArray | None = None
    ) -> NDArray[np.float64]:
        """Return a perfect agreement."""
        return np.ones(len(queries))


class RandomEmbedder:
    """Embeds any image at random."""

    def embed_images(self, images: NDArray) -> NDArray[np.float32]:
        """Return unit vectors (N, D)."""
        return unit_vectors(len(images), 4)


class Alike(EmbeddingSet):
    """A set whose images, one and the same in memory, count as different ones."""

    def same_image(self) -> list[list[int]]:
        """Return none."""
        return []


def random_set(name: str, count: int, vectors: NDArray[np.float32]) -> EmbeddingSet:
    """Return a set of so many images, one a subject."""
    items: list[Item] = [
        {"id": f"{name}_{i:07d}.png", "image": f"/data/{name}/{name}_{i:07d}.png", "subject_id": f"{name}_{i:07d}"}
        for i in range(count)
    ]
    image = np.random.default_rng(5).random((1, *SHAPE)).astype(np.float16)
    images = np.broadcast_to(image, (count, *SHAPE))
    unknown = np.full(count, np.nan)
    return Alike(items, np.arange(count), np.full(count, -1), unknown, vectors, images, [])
