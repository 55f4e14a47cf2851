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

"""Embeddings of a data set, computed once: ids, vectors and network inputs travel together and are kept by content."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader, Dataset
from numpy.typing import NDArray
from tqdm import tqdm

from ..bundle.files import replacing
from .embedding_set import EmbeddingSet
from .file_loader import ImageError, Preparation, content_key, only_element

__all__ = ["Embedder"]

logger = logging.getLogger(__name__)


BATCH_MULTIPLE = 8


class Embedder:
    """Embeds files through a transform chain and a network, keeping what it computed under the files' content hash.

    Args:
        network: images (B, 1, H, W) in, unit vectors (B, D) out; on `device`, in evaluation mode.
        preprocessing: item dict in, one item dict or a list of them out, `image` (1, H, W) in [0, 1].
        inferer: called as ``inferer(images, network)``.
        device: where the network is.
        fingerprint: text that changes with the checkpoint, the preprocessing and the network; cached embeddings of
            another fingerprint are never used.
        cache_dir: folder of the cache; None keeps nothing.
        batch_size: images in a forward pass; the cache is written about every batch.
        num_workers: processes that load files.
        on_error: `raise` at the first unreadable file, or `skip` it and list it.
        max_skipped: greatest share of a data set's files that `skip` may leave out.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        preprocessing: Callable[[dict[str, Any]], Any],
        inferer: Callable[[torch.Tensor, torch.nn.Module], torch.Tensor],
        device: torch.device,
        fingerprint: str = "",
        cache_dir: str | os.PathLike | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        on_error: str = "raise",
        max_skipped: float = 0.1,
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be raise or skip, got {on_error!r}")
        if not 0 <= max_skipped <= 1:
            raise ValueError(f"max_skipped must be a share, 0 to 1, got {max_skipped}")
        if batch_size < 1 or num_workers < 0:
            raise ValueError(
                f"batch_size must be positive and num_workers not negative, got {batch_size}, {num_workers}"
            )
        self.network, self.preprocessing, self.inferer, self.device = network, preprocessing, inferer, device
        key = hashlib.sha256(fingerprint.encode()).hexdigest()[:16]
        self.cache_dir = Path(cache_dir) / key if cache_dir is not None else None
        self.batch_size, self.num_workers = batch_size, num_workers
        self.on_error, self.max_skipped = on_error, max_skipped
        self.computed = 0

    def embed_images(self, images: NDArray) -> NDArray[np.float32]:
        """Return the vectors (N, D) of images (N, H, W) in [0, 1], from the cache where exactly these are known."""
        # through float16, as cached images are: one image has one vector, whichever way it came
        images = np.ascontiguousarray(images, np.float16)
        if self.cache_dir is None:
            return self._forward(images)
        path = (
            self.cache_dir
            / f"{hashlib.sha256(repr(images.shape).encode() + images.tobytes()).hexdigest()[:32]}.derived.npy"
        )
        if path.is_file():
            return np.load(path)
        vectors = self._forward(images)
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        _write_array(path, vectors)
        return vectors

    def _forward(self, images: NDArray[np.float16]) -> NDArray[np.float32]:
        """Return the vectors of images (N, H, W); `computed` counts them."""
        parts = []
        with torch.no_grad():
            for start in range(0, len(images), self.batch_size):
                block = images[start : start + self.batch_size].astype(np.float32)
                count = len(block)
                # whole multiples: other sizes take other kernels, which differ in the last bit, and a run that was
                # stopped would give another result than one that was not
                block = np.concatenate([block, np.zeros((-count % BATCH_MULTIPLE, *block.shape[1:]), np.float32)])
                batch = torch.from_numpy(block)[:, None].to(self.device)  # (B, H, W) -> (B, 1, H, W)
                parts.append(self.inferer(batch, self.network).float().cpu().numpy()[:count])
                self.computed += count
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)

    def embed_files(self, items: Sequence[dict[str, Any]], name: str = "images") -> EmbeddingSet:
        """Return the embeddings of all files, from the cache where their content is known.

        Raises:
            ImageError: for an unreadable file under ``on_error='raise'``, if more than `max_skipped` of the files are
                unreadable, or all.
        """
        keys, unopened = [], {}
        for item in items:
            try:
                keys.append(content_key(item))
            except OSError as error:
                keys.append(item["id"])
                unopened[item["id"]] = error.strerror or type(error).__name__
        sharing: dict[str, list[dict[str, Any]]] = {}  # the files of one content
        for key, item in zip(keys, items):
            sharing.setdefault(key, []).append(item)
        reasons: dict[str, str] = {}
        for key, reason in unopened.items():
            self._note(reasons, key, reason, sharing)
        known = self._read_cache()
        # one file of each new content
        missing = {key: same[0] for key, same in sharing.items() if key not in known and key not in reasons}
        buffer: list[dict[str, Any]] = []
        progress = tqdm(total=len(missing), desc=f"embedding {name}", unit="file", disable=None if missing else True)
        with progress:
            for key, slices in self._load(missing):
                progress.update()
                if isinstance(slices, str):
                    self._note(reasons, key, slices, sharing)
                    continue
                buffer += [{**s, "content": key} for s in slices]
                if len(buffer) >= self.batch_size:
                    self._flush(buffer, known)
                    buffer = []
            self._flush(buffer, known)
        return self._assemble(items, keys, known, reasons)

    def _note(
        self, reasons: dict[str, str], key: str, reason: str, sharing: Mapping[str, list[dict[str, Any]]]
    ) -> None:
        """Keep why the files of a content are unreadable, or raise where that ends the audit."""
        reasons[key] = reason
        path = sharing[key][0]["image"]
        if self.on_error == "raise":
            raise ImageError(
                f"{path}: cannot be audited ({reason}); repair or exclude the file, or pass --on_error skip"
            )
        unreadable, total = sum(len(sharing[k]) for k in reasons), sum(map(len, sharing.values()))
        if self.max_skipped * total < unreadable < total:
            raise ImageError(
                f"{path}: cannot be audited ({reason}), and with it more than {self.max_skipped:.0%} of {total} files; "
                "repair the files or raise max_skipped"
            )

    def _load(self, missing: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]] | str]]:
        """Yield each content key with its slices, or with the reason why there are none."""
        data = [{"content": key, "item": item} for key, item in missing.items()]
        loader = DataLoader(
            Dataset(data, transform=Preparation(self.preprocessing)),
            batch_size=1,
            num_workers=self.num_workers,
            collate_fn=only_element,
        )
        yield from loader

    def _flush(self, buffer: list[dict[str, Any]], known: dict[str, list[tuple]]) -> None:
        if not buffer:
            return
        images = np.stack([row["image"] for row in buffer])
        vectors = self._forward(images)
        for row, image, vector in zip(buffer, images, vectors):
            known.setdefault(row["content"], []).append((row["slice"], row["level"], vector, image))
        if self.cache_dir is None:
            return
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        shard = self.cache_dir / uuid.uuid4().hex
        _write_array(shard.with_suffix(".images.npy"), images)
        _write_array(shard.with_suffix(".vectors.npy"), vectors)
        # the table comes last: a shard without one does not exist
        table = [{"content": row["content"], "slice": row["slice"], "level": row["level"]} for row in buffer]
        with replacing(shard.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(table))

    def _read_cache(self) -> dict[str, list[tuple]]:
        known: dict[str, list[tuple]] = {}
        for path in sorted(self.cache_dir.glob("*.json")) if self.cache_dir else []:
            try:
                rows = json.loads(path.read_text())
                vectors = np.load(path.with_suffix(".vectors.npy"), mmap_mode="r")
                images = np.load(path.with_suffix(".images.npy"), mmap_mode="r")
                if not len(rows) == len(vectors) == len(images):
                    raise ValueError("another number of rows")
            except (ValueError, EOFError, FileNotFoundError) as error:  # a disk that lost power, or was tidied
                logger.warning("%s: damaged (%s); embedded again", path, error)
                continue
            shard: dict[str, list[tuple]] = {}
            for row, vector, image in zip(rows, vectors, images):
                shard.setdefault(row["content"], []).append((row["slice"], row["level"], vector, image))
            known.update(shard)  # a volume never spans two shards
        return known

    @staticmethod
    def _assemble(items, keys, known, reasons) -> EmbeddingSet:
        if not items:
            raise ImageError("expected at least one file to embed, got none")
        kept = [(item, known[key]) for item, key in zip(items, keys) if key in known]
        skipped = [(item["id"], reasons[key]) for item, key in zip(items, keys) if key not in known]
        if not kept:
            raise ImageError(
                f"{items[0]['image']}: cannot be audited ({skipped[0][1]}), nor can any other of {len(items)} files; "
                "check the folder"
            )
        rows = [row for _, slices in kept for row in slices]
        return EmbeddingSet(
            items=[item for item, _ in kept],
            file=np.repeat(np.arange(len(kept)), [len(slices) for _, slices in kept]),
            slice=np.array([row[0] for row in rows], np.int64),
            level=np.array([row[1] for row in rows], float),
            vectors=np.stack([row[2] for row in rows]),
            images=np.stack([row[3] for row in rows]),
            skipped=skipped,
        )


def _write_array(path: Path, array: NDArray) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)
