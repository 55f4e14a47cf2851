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

"""Sentences that a latent diffusion model is conditioned on: written from an item's columns, and embedded once."""

from __future__ import annotations

import string
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..bundle.files import replacing
from .text_encoder import TextEncoder

__all__ = ["MISSING", "Encoder", "Template", "TextVectors", "column_value", "sound_vector"]

MISSING = (None, "", "n/a")  # what a table has where it has no value

Encoder = Callable[[Sequence[str]], ArrayLike]  # N texts to vectors (N, D)


@dataclass(frozen=True)
class Template:
    """A sentence with an item's columns in braces, as ``"{sex}, {age:.0f} years, {csf:.0%} CSF"``.

    After a colon stands how Python writes a number. Nothing else of Python's format strings is taken, so that a
    template can look at nothing but columns.

    Raises:
        ValueError: for braces without a partner, without a column, or with more than a column and a number's form.
    """

    text: str

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError(f"text: expected a sentence with columns in braces, as '{{age}}', found {self.text!r}")

    @cached_property
    def _parts(self) -> list[tuple[str, str | None, str]]:
        """What stands before each column, the column, and its number's form."""
        try:
            parts = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise ValueError(
                f"text: expected a sentence with columns in braces, found {self.text!r} ({error}); correct it"
            ) from error
        for _, name, form, conversion in parts:
            if name is not None and (not name or conversion or set(name) & set(".[]") or "{" in (form or "")):
                raise ValueError(
                    f"text: expected a column, or column:form, in each pair of braces, found {self.text!r}; correct it"
                )
        return [(literal, name, form or "") for literal, name, form, _ in parts]

    @property
    def columns(self) -> list[str]:
        """The columns, each once."""
        return list(dict.fromkeys(column for _, column, _ in self._parts if column is not None))

    def write(self, item: Mapping[str, object]) -> str:
        """Return the item's sentence.

        Raises:
            ValueError: if a column is missing, or is no number where the template wants one.
        """
        words = ""
        for literal, name, form in self._parts:
            words += literal
            if name is not None:
                value = column_value(item, name)
                try:
                    words += format(float(str(value)), form) if form else str(value)
                except ValueError as error:
                    raise ValueError(
                        f"{item.get('id')}: column {name!r}: expected a number that {{{name}:{form}}} can write, found "
                        f"{value!r}; correct one of them"
                    ) from error
        return words


class TextVectors:
    """Looks up the vectors of texts (N, D); the encoder sees a text once, and a kept file spares it a second run.

    Args:
        encoder: a folder of :class:`TextEncoder`, or texts to vectors (N, D); None, where no text is asked for.
        cache: .npz file that vectors are kept in, with their texts; of an encoder without an attribute `identity`
            nothing is kept, as it may be another one the next time. None: none.
    """

    def __init__(self, encoder: str | Path | Encoder | None = None, cache: str | Path | None = None) -> None:
        self.encoder = TextEncoder(encoder) if isinstance(encoder, (str, Path)) else encoder
        self.known: dict[str, NDArray[np.float32]] = {}
        identity = getattr(self.encoder, "identity", None)
        self.cache = Path(cache) if cache is not None and identity is not None else None
        if self.cache is not None and self.cache.is_file():
            self.known = _read(self.cache, str(identity))

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the texts' vectors (N, D).

        Raises:
            ValueError: without an encoder, or if it gives other than one finite vector a text, not all zero, or one
                for all texts.
        """
        if new := sorted(set(texts) - self.known.keys()):
            if self.encoder is None:
                raise ValueError("text_encoder: expected a folder of a text model or a callable, found none; give one")
            vectors = np.asarray(torch.as_tensor(self.encoder(new)).detach().cpu(), np.float32)
            if vectors.ndim != 2 or len(vectors) != len(new):
                raise ValueError(
                    f"text_encoder: expected vectors ({len(new)}, D) of {len(new)} texts, found {vectors.shape}; "
                    "correct the encoder"
                )
            self.known |= {text: sound_vector(one, f"text_encoder: {text!r}") for text, one in zip(new, vectors)}
            if len(self.known) > 1 and len({one.tobytes() for one in self.known.values()}) == 1:
                raise ValueError(
                    f"text_encoder: expected vectors that tell {len(self.known)} texts apart, found one for all; "
                    "correct the encoder"
                )
            self._keep()
        return np.stack([self.known[text] for text in texts])

    def _keep(self) -> None:
        if self.cache is None:
            return
        with replacing(self.cache) as path, path.open("wb") as file:
            np.savez(
                file,
                texts=np.array(list(self.known)),
                vectors=np.stack(list(self.known.values())),
                identity=np.array(getattr(self.encoder, "identity")),  # noqa: B009 -- an encoder need not have it
            )


def _read(cache: Path, identity: str) -> dict[str, NDArray[np.float32]]:
    """Return what a file keeps of this encoder; nothing where it is of another."""
    try:
        with np.load(cache, allow_pickle=False) as file:
            if str(file["identity"]) != identity:
                return {}
            return dict(zip(file["texts"].tolist(), file["vectors"].astype(np.float32)))
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{cache}: expected kept vectors of texts, found another file; remove it") from error


def sound_vector(vector: NDArray, source: object) -> NDArray[np.float32]:
    """Return a vector (D,) in float32.

    Raises:
        ValueError: if it is no vector, not finite or all zero, which would say nothing.
    """
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise ValueError(f"{source}: expected a finite vector (D,), found an array of shape {vector.shape}")
    if not np.linalg.norm(vector) > 0:
        raise ValueError(f"{source}: expected a vector of a length above 0, found zeros; embed the text again")
    return vector.astype(np.float32)


def column_value(item: Mapping[str, object], column: str) -> object:
    """Return what an item has in a column.

    Raises:
        ValueError: if it has nothing.
    """
    value = item.get(column)
    if value in MISSING:
        raise ValueError(
            f"{item.get('id')}: expected a value in column {column!r}, on which the model is conditioned, found none; "
            "fill it in, leave the item out or take the column out of the condition"
        )
    return value
