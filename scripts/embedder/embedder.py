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

"""Embeddings of a data set, computed once: what is in the cache is read, the rest goes through the network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..bundle.inferers import computes_bfloat16
from ..bundle.progress import Progress
from ..images.items import Item, Preprocessing
from .cache import EmbeddingCache, File, Known
from .embedding_set import EmbeddingSet
from .file_loader import FileLoader, ImageError, Loaded, LoadedImage, Unreadable, UnreadableFiles, content_key
from .fingerprint import fingerprint
from .workers import MOST_BESIDE_GPU, MOST_CHOSEN, Workers

__all__ = ["Embedder", "Embeds"]


BATCH_MULTIPLE = 8


class Embeds(Protocol):
    """A network that an :class:`Embedder` takes; :class:`~scripts.embedder.networks.DeepSSIM` is one of them."""

    def __call__(self, images: torch.Tensor, /) -> torch.Tensor:
        """Return unit vectors (B, D) of images (B, 1, H, W) in [0, 1]; a vector depends on its image alone."""
        ...


class Embedder:
    """Embeds files through a transform chain and a network, keeping what it computed under the files' content hash.

    Embeddings are used again where network, weights, chain, inferer, their code and the kind of device are the same,
    as :func:`~scripts.embedder.fingerprint.fingerprint` sees them; of the network also what changed since.

    Args:
        network: on `device`, in evaluation mode.
        preprocessing: item in, one prepared item or a list of them out, `image` (1, H, W) in [0, 1].
        inferer: called as ``inferer(images, network)``.
        device: where the network is.
        cache_dir: folder of the cache; None keeps nothing.
        batch_size: images in a forward pass; the cache is written about every batch.
        num_workers: processes that load files; `auto` chooses by the cores that are free to it and the number of files.
        on_error: `raise` at the first unreadable file, or `skip` it and list it.
        max_skipped: greatest share of a data set's files that `skip` may leave out.

    Attributes:
        computed: images that went through the network so far.
    """

    def __init__(
        self,
        network: Embeds,
        preprocessing: Preprocessing,
        inferer: Callable[[torch.Tensor, Embeds], torch.Tensor],
        device: torch.device,
        cache_dir: str | os.PathLike | None = None,
        batch_size: int = 64,
        num_workers: Workers = 0,
        on_error: str = "raise",
        max_skipped: float = 0.1,
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be raise or skip, got {on_error!r}")
        if not 0 <= max_skipped <= 1:
            raise ValueError(f"max_skipped must be a share, 0 to 1, got {max_skipped}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
        self.network, self.inferer, self.device = network, inferer, torch.device(device)
        most = MOST_CHOSEN if self.device.type == "cpu" else MOST_BESIDE_GPU
        self.load = FileLoader(preprocessing, num_workers, most, unchanged=True)
        self.cache_dir, self.batch_size = cache_dir, batch_size
        self.on_error, self.max_skipped = on_error, max_skipped
        self.computed = 0
        self._checked: set[File] = set()
        if cache_dir is not None:  # before the chain is used: a transform may count its calls
            arithmetic = computes_bfloat16(self.device)
            self._chain = fingerprint(preprocessing, inferer, type(self), self.device.type, arithmetic)

    def embed_images(self, images: NDArray) -> NDArray[np.float32]:
        """Return the vectors (N, D) of images (N, H, W) in [0, 1], from the cache where exactly these are known.

        Raises:
            ValueError: if the network's outputs are not unit vectors.
        """
        # through float16, as cached images are: one image has one vector, whichever way it came
        images = np.ascontiguousarray(images, np.float16)
        cache = self._cache()
        vectors = cache.read_derived(images)
        if vectors is None:
            vectors = self._forward(images)
            cache.add_derived(images, vectors)
        return vectors

    def embed_files(self, items: Sequence[Item], name: str = "images") -> EmbeddingSet:
        """Return the embeddings of all files, from the cache where their content is known.

        Raises:
            ImageError: for an unreadable file under ``on_error='raise'``, if more than `max_skipped` of the files are
                unreadable, or all.
            ValueError: if the network's outputs are not unit vectors.
        """
        if not items:
            raise ImageError("expected at least one file to embed, got none")
        cache, keys, known, reasons = self._embed(items, name, self.on_error, self.max_skipped)
        kept = [place for place, key in enumerate(keys) if key in known]
        skipped = [(item["id"], reasons[key]) for item, key in zip(items, keys) if key not in known]
        if not kept:
            raise ImageError(
                f"{items[0]['image']}: cannot be audited ({skipped[0][1]}), nor can any other of {len(items)} files; "
                "check the folder"
            )
        contents = [keys[place] for place in kept]
        try:
            rows = cache.gather(known, contents)
        except FileNotFoundError:  # another process has made one shard of several
            rows = cache.gather(cache.read(), contents)
        return EmbeddingSet(
            items=[items[place] for place in kept],
            file=np.repeat(np.arange(len(kept)), rows.counts),
            slice=np.ascontiguousarray(rows.table["slice"]),
            level=np.ascontiguousarray(rows.table["level"]),
            vectors=rows.vectors,
            images=rows.images,
            skipped=skipped,
        )

    def embed_missing(self, items: Sequence[Item], name: str = "images") -> None:
        """Embed what the cache lacks of these files, as one of several processes does; what cannot be read is passed
        over, and is found again by the one that needs all files."""
        self._embed(items, name, "skip", 1.0)

    def _embed(
        self, items: Sequence[Item], name: str, on_error: str, max_skipped: float
    ) -> tuple[EmbeddingCache, list[str], Known, dict[str, str]]:
        """Embed what the cache lacks; return it, the content of each file, what is known, and why files are not."""
        found = [_content(item) for item in Progress(items, desc=f"hashing {name}", unit="file")]
        keys = [file if isinstance(file, str) else file.content for file in found]
        sharing: dict[str, list[Item]] = {}  # the files of one content
        for key, item in zip(keys, items):
            sharing.setdefault(key, []).append(item)
        unreadable = UnreadableFiles(sharing, on_error, max_skipped)
        for file in found:
            if isinstance(file, Unreadable):
                unreadable.add(file)
        cache = self._cache()
        known = cache.read()
        # one file of each new content
        missing = {k: same[0] for k, same in sharing.items() if k not in known and k not in unreadable.reasons}
        for batch in self._batches(missing, unreadable, name):
            contents, images = [key for key, _ in batch], [image for _, image in batch]
            vectors = self._forward(np.stack([image.image for image in images]))
            known.add(cache.add(contents, images, vectors))
        return cache, keys, known, unreadable.reasons

    def _cache(self) -> EmbeddingCache:
        if self.cache_dir is None:
            return EmbeddingCache(None)
        return EmbeddingCache(Path(self.cache_dir) / fingerprint(self.network, self._chain)[:16], self._checked)

    def _batches(
        self, missing: Mapping[str, Item], unreadable: UnreadableFiles, name: str
    ) -> Iterator[list[tuple[str, LoadedImage]]]:
        """Yield images with their contents, whole files together, about a batch at a time."""
        batch: list[tuple[str, LoadedImage]] = []
        with Progress(total=len(missing), desc=f"embedding {name}", unit="file") as bar:
            for file in self.load(missing):
                bar.update()
                if isinstance(file, Loaded):
                    batch += [(file.content, image) for image in file.images]
                else:
                    unreadable.add(file)
                if len(batch) >= self.batch_size:
                    yield batch
                    batch = []
            if batch:
                yield batch

    def _forward(self, images: NDArray[np.float16]) -> NDArray[np.float32]:
        """Return the vectors of images (N, H, W); `computed` counts them."""
        parts = []
        with torch.no_grad(), Progress(total=len(images), desc="embedding images", unit="image") as bar:
            for start in range(0, len(images), self.batch_size):
                block = images[start : start + self.batch_size].astype(np.float32)
                count = len(block)
                # whole multiples: other sizes take other kernels, which round differently, and a run that was stopped
                # would give another result than one that was not
                block = np.concatenate([block, np.zeros((-count % BATCH_MULTIPLE, *block.shape[1:]), np.float32)])
                batch = torch.from_numpy(block)[:, None].to(self.device)  # (B, H, W) -> (B, 1, H, W)
                vectors = self.inferer(batch, self.network)
                _check_shape(vectors, len(batch), self.network)
                vectors = vectors[:count].float()
                _check_norm(vectors, self.network)
                parts.append(vectors.cpu().numpy())
                self.computed += count
                bar.update(count)
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def _content(item: Item) -> str | Unreadable:
    """Return the file's content key; one that cannot be opened stands for itself."""
    try:
        return content_key(item)
    except OSError as error:
        return Unreadable(item["id"], error.strerror or type(error).__name__)


def _check_shape(vectors: object, count: int, network: Embeds) -> None:
    if not isinstance(vectors, torch.Tensor) or vectors.ndim != 2 or len(vectors) != count:
        shape = getattr(vectors, "shape", None)
        raise ValueError(
            f"network {type(network).__name__}: expected one vector an image, ({count}, D), found "
            f"{type(vectors).__name__ if shape is None else tuple(shape)}; let it return nothing else"
        )


def _check_norm(vectors: torch.Tensor, network: Embeds) -> None:
    norms = vectors.norm(dim=1)
    if not bool(((norms - 1).abs() <= 1e-2).all()):  # bfloat16 rounds by up to 0.4 %; NaN is no number below
        raise ValueError(
            f"network {type(network).__name__}: expected unit vectors, found lengths from {float(norms.min()):.3g} to "
            f"{float(norms.max()):.3g}; end it with torch.nn.functional.normalize"
        )
