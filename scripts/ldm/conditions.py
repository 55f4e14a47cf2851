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

"""What a latent diffusion model is conditioned on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from .texts import Template, TextVectors, column_value, sound_vector

__all__ = ["Categories", "Condition", "Scale", "Standardised", "tissue_shares"]


def tissue_shares(mask: str | Path, labels: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Return the share of a label map's labelled volume that each group of labels fills, by group, in [0, 1].

    Args:
        mask: a label map, 0 outside.
        labels: numbers of each group.

    Raises:
        ValueError: if no voxel bears a label.
    """
    image = nibabel.load(mask)
    counts = np.bincount(np.asarray(image.dataobj, np.int64).ravel())  # type: ignore[attr-defined]  # of every image format
    total = counts[1:].sum()
    if total == 0:
        raise ValueError(f"{mask}: expected a label map, found no voxel above 0; correct the column 'mask'")
    return {
        name: float(sum(counts[label] for label in group if label < len(counts)) / total)
        for name, group in labels.items()
    }


@dataclass(frozen=True)
class Standardised:
    """A number less the training items' mean, over their standard deviation."""

    mean: float
    deviation: float

    def code(self, value: object) -> list[float]:
        """Return the one entry of a value; raises ValueError if it is no number."""
        number = _number(value)
        if number is None:
            raise ValueError(f"expected a number, found {value!r}; correct it")
        return [(number - self.mean) / self.deviation]

    def facts(self) -> list[float]:
        """Return what model.json has of it."""
        return [self.mean, self.deviation]


@dataclass(frozen=True)
class Categories:
    """A text as 0 or 1 for each of the training items' values but the first, in their order."""

    values: tuple[str, ...]

    def code(self, value: object) -> list[float]:
        """Return the entries of a value, one fewer than there are values; raises ValueError if it is none of them."""
        if str(value) not in self.values:
            raise ValueError(f"expected one of {', '.join(self.values)}, found {value!r}; correct it")
        return [float(str(value) == known) for known in self.values[1:]]

    def facts(self) -> list[str]:
        """Return what model.json has of it."""
        return list(self.values)


Scale = Standardised | Categories


class Condition:
    """Turns an item's columns into what the diffusion model is conditioned on, a vector (D,).

    Args:
        kind: `none` (D = 0); `variables`, each number standardised by the training items, each text 0 or 1 for every
            value but the first; `embedding`, the vector in the .npy or .npz file that the item's column names; `text`,
            the vector of the item's sentence.
        columns: of the items, for `variables`; one for `embedding`.
        text: of `text`, a sentence with columns in braces, see :class:`~scripts.ldm.texts.Template`.
        vectors: of `text`, texts to vectors (N, D).
        dim: expected entries of an embedding or of a text's vector; 0: any, the same for all.

    Raises:
        ValueError: for another kind, or columns or a text that do not fit it.
    """

    def __init__(
        self,
        kind: str = "none",
        columns: Sequence[str] = (),
        text: str | None = None,
        vectors: TextVectors | None = None,
        dim: int = 0,
    ) -> None:
        if kind not in ("none", "variables", "embedding", "text"):
            raise ValueError(f"condition: expected none, variables, embedding or text, got {kind!r}")
        if kind in ("variables", "embedding") and not columns or kind == "embedding" and len(columns) != 1:
            raise ValueError(f"condition_columns: expected {'one' if kind == 'embedding' else 'some'}, got {columns}")
        if kind == "text" and not text:
            raise ValueError("text: expected a sentence with columns in braces, as '{age}', found none; give one")
        self.kind, self.dim = kind, dim
        self.template = Template(text) if kind == "text" and text else None
        self.vectors = vectors or TextVectors()
        self.columns = self.template.columns if self.template else list(columns) if kind != "none" else []
        self.scales: dict[str, Scale] = {}

    def fit(self, items: Sequence[Mapping[str, object]]) -> Condition:
        """Learn each variable's mean and standard deviation, or its values; have all sentences embedded at once."""
        for column in self.columns if self.kind == "variables" else ():
            self.scales[column] = _scale([column_value(item, column) for item in items])
        if self.template and items:
            self.vectors([self.template.write(item) for item in items])
        return self

    def sentence(self, item: Mapping[str, object]) -> str | None:
        """Return the item's sentence; None where the model is not conditioned on texts."""
        return self.template.write(item) if self.template else None

    def __call__(self, item: Mapping[str, object]) -> NDArray[np.float32]:
        """Return the item's condition (D,).

        Raises:
            ValueError: if a column is missing or holds what the training items did not, or a vector has another length.
        """
        if self.kind == "embedding":
            return self._of_length(_vector(str(column_value(item, self.columns[0]))), item, "condition_columns")
        if self.template:
            return self._of_length(self.vectors([self.template.write(item)])[0], item, "text_encoder")
        parts: list[float] = []
        for column, scale in self.scales.items():
            value = column_value(item, column)
            try:
                parts += scale.code(value)
            except ValueError as error:
                raise ValueError(f"{item.get('id')}: column {column!r}: {error}") from error
        return np.array(parts, np.float32)

    def _of_length(self, vector: NDArray[np.float32], item: Mapping[str, object], key: str) -> NDArray[np.float32]:
        self.dim = self.dim or len(vector)
        if len(vector) != self.dim:
            raise ValueError(
                f"{item.get('id')}: expected a vector of {self.dim} entries, found {len(vector)}; correct {key} or "
                "embedding_dim"
            )
        return vector


def _scale(values: Sequence[object]) -> Scale:
    numbers = [number for value in values if (number := _number(value)) is not None]
    if len(numbers) < len(values):
        return Categories(tuple(sorted({str(value) for value in values})))
    return Standardised(float(np.mean(numbers)), float(np.std(numbers)) or 1.0)


def _number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, (str, int, float)) else None
    except ValueError:
        return None


def _vector(path: str | Path) -> NDArray[np.float32]:
    """Return the vector in a .npy file, or in a .npz file of one array or with `data`, as the published code has it."""
    content = np.load(path, allow_pickle=False)
    if not isinstance(content, np.ndarray):
        with content:
            names = content.files
            if len(names) != 1 and "data" not in names:
                raise ValueError(f"{path}: expected one array, or one named data, found {', '.join(names) or 'none'}")
            content = content["data" if "data" in names else names[0]]
    return sound_vector(content[0] if content.ndim == 2 and len(content) == 1 else content, path)
