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
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

__all__ = ["Condition", "tissue_shares"]


MISSING = (None, "", "n/a")  # what a table has where it has no value


def tissue_shares(mask: str | Path, labels: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Return the share of a label map's labelled volume that each group of labels fills, in [0, 1].

    Raises:
        ValueError: if no voxel bears a label.
    """
    counts = np.bincount(np.asarray(nibabel.load(mask).dataobj, np.int64).ravel())  # type: ignore[attr-defined]
    total = counts[1:].sum()
    if total == 0:
        raise ValueError(f"{mask}: expected a label map, found no voxel above 0; correct the column 'mask'")
    return {
        name: float(sum(counts[label] for label in group if label < len(counts)) / total)
        for name, group in labels.items()
    }


class Condition:
    """Turns an item's columns into what the diffusion model is conditioned on, a vector (D,).

    Args:
        kind: `none` (D = 0); `variables`, each number standardised by the training items, each text 0 or 1 for every
            value but the first; `embedding`, the vector in the .npy file that the item's column names.
        columns: of the items; one for `embedding`.

    Raises:
        ValueError: for another kind, or columns that do not fit it.
    """

    def __init__(self, kind: str = "none", columns: Sequence[str] = ()) -> None:
        if kind not in ("none", "variables", "embedding"):
            raise ValueError(f"condition: expected none, variables or embedding, got {kind!r}")
        if kind != "none" and not columns or kind == "embedding" and len(columns) != 1:
            raise ValueError(f"condition_columns: expected {'one' if kind == 'embedding' else 'some'}, got {columns}")
        self.kind, self.columns = kind, list(columns) if kind != "none" else []
        self.scales: dict[str, Any] = {}

    def fit(self, items: Sequence[Mapping[str, Any]]) -> Condition:
        """Learn each variable's mean and standard deviation, or its values."""
        for column in self.columns if self.kind == "variables" else ():
            values = [_value(item, column) for item in items]
            numbers = [_number(value) for value in values]
            if None not in numbers:
                spread = float(np.std(numbers))  # type: ignore[arg-type]
                self.scales[column] = [float(np.mean(numbers)), spread or 1.0]  # type: ignore[arg-type]
            else:
                self.scales[column] = sorted({str(value) for value in values})
        return self

    def __call__(self, item: Mapping[str, Any]) -> NDArray[np.float32]:
        """Return the item's condition (D,).

        Raises:
            ValueError: if a column is missing or holds what the training items did not.
        """
        if self.kind == "embedding":
            return _vector(_value(item, self.columns[0]))
        parts: list[float] = []
        for column, scale in self.scales.items():
            value = _value(item, column)
            if isinstance(scale[0], str):
                if str(value) not in scale:
                    raise ValueError(f"{item.get('id')}: expected {column} among {', '.join(scale)}, found {value!r}")
                parts += [float(str(value) == known) for known in scale[1:]]
            else:
                number = _number(value)
                if number is None:
                    raise ValueError(f"{item.get('id')}: expected a number as {column}, found {value!r}; correct it")
                parts.append((number - scale[0]) / scale[1])
        return np.array(parts, np.float32)


def _value(item: Mapping[str, Any], column: str) -> Any:
    value = item.get(column)
    if value in MISSING:
        raise ValueError(
            f"{item.get('id')}: expected a value in column {column!r}, on which the model is conditioned, found none; "
            "fill it in, leave the item out or take the column out of condition_columns"
        )
    return value


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _vector(path: str | Path) -> NDArray[np.float32]:
    vector = np.load(path, allow_pickle=False)
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise ValueError(f"{path}: expected a finite vector (D,), found an array of shape {vector.shape}")
    return vector.astype(np.float32)
