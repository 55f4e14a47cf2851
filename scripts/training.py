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

"""What training adds to MONAI's engines: batches that cover the range of SSIM, and a summary on unseen subjects."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.engines import PrepareBatch
from monai.transforms import Randomizable
from monai.utils import CommonKeys
from torch.utils.data import Dataset, Sampler

from .networks import DeepSSIM
from .scores import ssim_errors
from .slices import foreground
from .ssim import ssim_matrix

__all__ = [
    "LevelSampler",
    "PrepareMoved",
    "SliceGroups",
    "Views",
    "fit_projection",
    "held_out_summary",
]

COPY = 2  # a group's first near-duplicate: after the anchor and its neighbour


class PrepareMoved(PrepareBatch):
    """Give the trainer a batch's images, and as label a dict of `image`, before it was moved, and `matrix`, how."""

    def __call__(self, batchdata: Mapping[str, Any], device=None, non_blocking: bool = False, **kwargs: Any):
        move = {"device": device, "non_blocking": non_blocking}
        label = {"image": CommonKeys.LABEL, "matrix": f"{CommonKeys.IMAGE}_matrix"}
        return batchdata[CommonKeys.IMAGE].to(**move), {name: batchdata[key].to(**move) for name, key in label.items()}


class SliceGroups(Randomizable, Dataset):
    """Groups of related images, each with what the network sees (`image`) and what SSIM is computed on (`label`).

    A group is an anchor, a neighbouring slice, graded near-duplicates of the anchor (`copy`) and a mixture of the
    anchor with any other image. The pairs inside groups fill the upper range of SSIM, the pairs between
    groups the lower, with no generator needed. ``__getitem__`` returns a list, which MONAI's DataLoader flattens.

    Args:
        data: items or lists of items (one a volume) with `image` (1, H, W), `subject_id`, and optional `series` and
            `level`; a CacheDataset serves.
        copy: random dictionary transform that degrades `image`.
        misalign: random dictionary transform that moves `image`; applied to each image alone.
        copies: near-duplicates in a group.
        neighbour_mm: largest distance in level of a neighbouring slice.
        mixture: largest share of the other image in a mixture.
        seed: fixes every group, for validation; None draws anew each time.
    """

    def __init__(
        self,
        data: Sequence[Any],
        copy: Any,
        misalign: Any,
        copies: int = 1,
        neighbour_mm: float = 6.0,
        mixture: float = 0.5,
        seed: int | None = None,
    ) -> None:
        self.data = data
        self.copy, self.misalign = copy, misalign
        self.copies, self.neighbour_mm, self.mixture, self.seed = copies, neighbour_mm, mixture, seed
        self.group = copies + 3  # images of an index
        self.items = _flat(data)
        self.series = [str(item.get("series", item["subject_id"])) for item in self.items]
        self.members: dict[str, list[int]] = defaultdict(list)
        for index, series in enumerate(self.series):
            self.members[series].append(index)

    def __len__(self) -> int:
        return len(self.items)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None):
        super().set_random_state(seed, state)
        for transform in (self.copy, self.misalign):
            transform.set_random_state(state=self.R)
        return self

    def _image(self, index: int) -> torch.Tensor:
        return torch.as_tensor(self.items[index]["image"], dtype=torch.float32)

    def _neighbour(self, index: int) -> torch.Tensor:
        """Another image of the series nearby; where there is none, a mixture that is no near-duplicate."""
        level = self.items[index].get("level", 0.0)
        near = [
            i
            for i in self.members[self.series[index]]
            if i != index and abs(self.items[i].get("level", 0.0) - level) <= self.neighbour_mm
        ]
        if near:
            return self._image(near[self.R.randint(len(near))])
        return self._mixed(index, self.R.uniform(self.mixture / 2, self.mixture))

    def _mixed(self, index: int, share: float) -> torch.Tensor:
        return (1 - share) * self._image(index) + share * self._image(self.R.randint(len(self.items)))

    def __getitem__(self, index: int) -> list[dict[str, torch.Tensor]]:
        if self.seed is not None:
            self.set_random_state(self.seed + index)
        anchor = self._image(index)
        images = [anchor, self._neighbour(index)]
        images += [self.copy({CommonKeys.IMAGE: anchor})[CommonKeys.IMAGE] for _ in range(self.copies)]
        images.append(self._mixed(index, self.R.uniform(0, self.mixture)))
        return [{**self.misalign({CommonKeys.IMAGE: image}), CommonKeys.LABEL: image} for image in images]


class Views(Randomizable, Dataset):
    """Each image on its own, misaligned `count` times: the data of the published recipe (1) and of SimCLR (2).

    Args:
        data: as :class:`SliceGroups` takes it.
        misalign: random dictionary transform that moves `image`.
        count: views of an image.
    """

    def __init__(self, data: Sequence[Any], misalign: Any, count: int = 1) -> None:
        self.items = _flat(data)
        self.misalign, self.group = misalign, count

    def __len__(self) -> int:
        return len(self.items)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None):
        super().set_random_state(seed, state)
        self.misalign.set_random_state(state=self.R)
        return self

    def __getitem__(self, index: int) -> list[dict[str, torch.Tensor]]:
        image = torch.as_tensor(self.items[index]["image"], dtype=torch.float32)
        return [{**self.misalign({CommonKeys.IMAGE: image}), CommonKeys.LABEL: image} for _ in range(self.group)]


class LevelSampler(Sampler[int]):
    """Indices of anchors such that most of a batch shows one level: different subjects at one level are what a search
    has to tell apart, and random batches hold hardly any such pair.

    Args:
        groups: the dataset; items without a `level` are drawn uniformly.
        batch_size: anchors in a batch, as in the DataLoader.
        batches: batches in an epoch.
        share: share of a batch's anchors at its level.
        band_mm: largest distance from the batch's level.
    """

    def __init__(
        self, groups: SliceGroups, batch_size: int, batches: int, share: float = 0.6, band_mm: float = 8.0
    ) -> None:
        self.batch_size, self.batches, self.share, self.band_mm = batch_size, batches, share, band_mm
        self.levels = np.array([item.get("level", np.nan) for item in groups.items], float)
        self.variants = np.array([item.get("variant", "") for item in groups.items])

    def __len__(self) -> int:
        return self.batch_size * self.batches

    def __iter__(self):
        # torch's global seed, as RandomSampler: set_determinism and resuming work unchanged
        rng = np.random.default_rng(int(torch.empty((), dtype=torch.int64).random_().item()))
        for _ in range(self.batches):
            indices = rng.integers(len(self.levels), size=self.batch_size)
            near = np.abs(self.levels - self.levels[indices[0]]) <= self.band_mm
            alike = np.flatnonzero(near & (self.variants == self.variants[indices[0]]))
            if len(alike):
                count = int(self.share * self.batch_size)
                indices[:count] = rng.choice(alike, count)
            yield from indices.tolist()


def fit_projection(network: DeepSSIM, groups: SliceGroups | Views, count: int, seed: int) -> None:
    """Set the network's projection to the principal components of at most `count` training images, before training."""
    chosen = np.random.RandomState(seed).permutation(len(groups))[:count]
    network.fit_projection(torch.stack([torch.as_tensor(groups.items[index]["image"]) for index in chosen]))


def held_out_summary(
    network: torch.nn.Module,
    groups: SliceGroups,
    inferer: Callable[..., torch.Tensor],
    output: str | Path,
    device: torch.device | str = "cpu",
    shown: Sequence[int] = (1, 6),
    batch_size: int = 64,
) -> dict[str, Any]:
    """Say how well an embedder does on subjects that it was not trained on; return it and write it to `output` (JSON).

    Each image's near-duplicate, moved, is searched among all images: is its subject the nearest, or within the first
    `shown` ones? `ssim_error` is the mean absolute error of the cosine to foreground SSIM over all pairs of at most 100
    groups, all bins of SSIM alike, and `constant` what their median in place of the cosine would have.

    Args:
        network: in evaluation mode, on `device`.
        groups: of held-out subjects, seeded.
        inferer: called as ``inferer(images, network)``.
        output: file to write.
        device: where the network is.
        shown: numbers of subjects.
        batch_size: images in a forward pass.
    """

    def embed(images: Sequence[torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([inferer(block.to(device), network).float().cpu() for block in _stack(images, batch_size)])

    names = sorted({str(item["subject_id"]) for item in groups.items})
    subject = torch.tensor([names.index(str(item["subject_id"])) for item in groups.items])
    drawn = [groups[index] for index in range(len(groups))]
    reference = embed([torch.as_tensor(item["image"]) for item in groups.items])
    similarity = embed([group[COPY][CommonKeys.IMAGE] for group in drawn]) @ reference.T  # (N, N)
    best = torch.stack([similarity[:, subject == s].amax(1) for s in range(len(names))], 1)  # (N, S)
    rank = (best > best.gather(1, subject[:, None])).sum(1)
    some = [entry for group in drawn[:: -(-len(drawn) // 100)] for entry in group]  # all pairs in one matrix
    label = torch.stack([entry[CommonKeys.LABEL] for entry in some])
    vectors = embed([entry[CommonKeys.IMAGE] for entry in some])
    upper = np.triu_indices(len(some), 1)
    truth = ssim_matrix(label, form="foreground", data_range=1.0, foreground=foreground(label))
    errors = ssim_errors((vectors @ vectors.T).numpy()[upper], np.asarray(truth)[upper])
    shares = {k: float((rank < k).float().mean()) for k in shown if k < len(names)}
    result = {
        "subjects": len(names),
        "images": len(groups),
        "ssim_error": errors["mean_of_bins"],
        "constant": errors["constant"],
        "recall": {str(k): share for k, share in shares.items()},
    }
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    Path(output).write_text(json.dumps(result, indent=1))
    recall = ", ".join(
        f"{share:.1%} within {k} of {len(names)} (chance {k / len(names):.0%})" for k, share in shares.items()
    )
    print(
        f"Held-out subjects: {len(names)}, {len(groups)} images.\n"
        "Mean absolute error of the cosine to SSIM on moved images, bins of SSIM weighing alike: "
        f"{errors['mean_of_bins']:.3f}; of a constant: {errors['constant']:.3f}.\n"
        f"Moved copies whose own subject is found: {recall or 'one subject alone tells nothing'}."
    )
    return result


def _stack(images: Sequence[torch.Tensor], size: int) -> Iterator[torch.Tensor]:
    """Yield batches (B, 1, H, W) of at most `size` images."""
    for start in range(0, len(images), size):
        yield torch.stack(list(images[start : start + size])).float()


def _flat(data: Sequence[Any]) -> list[Mapping[str, Any]]:
    """Items and lists of items (one a volume) as one list."""
    return [item for entry in data for item in (entry if isinstance(entry, list) else [entry])]
