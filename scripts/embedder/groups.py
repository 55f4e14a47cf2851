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

"""What training adds to MONAI's engines: batches that cover the range of SSIM."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import torch
from monai.engines import PrepareBatch
from monai.transforms import Randomizable
from monai.utils import CommonKeys
from torch.utils.data import Dataset, Sampler

from ..images.augmentations import misalignment_key
from ..images.items import Prepared, RandomTransform

__all__ = ["Group", "LevelSampler", "PrepareMoved", "SliceGroups", "SubjectViews", "Views", "fit_projection"]


COPY = 2  # a group's first near-duplicate: after the anchor and its neighbour

Group = list[dict[str, torch.Tensor]]  # related images: `image` as moved, (1, H, W), `label` before that


class PrepareMoved(PrepareBatch):
    """Give the trainer a batch's images, and as label a dict of `image`, before it was moved, and `matrix`, how."""

    def __call__(
        self,
        batchdata: dict[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        keys = {"image": CommonKeys.LABEL, "matrix": misalignment_key(CommonKeys.IMAGE)}
        label = {name: batchdata[key].to(device, non_blocking=non_blocking) for name, key in keys.items()}
        return batchdata[CommonKeys.IMAGE].to(device, non_blocking=non_blocking), label


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
        data: Sequence[Prepared | list[Prepared]],
        copy: RandomTransform,
        misalign: RandomTransform,
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

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> Self:
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

    def __getitem__(self, index: int) -> Group:
        if self.seed is not None:
            self.set_random_state(self.seed + index)
        anchor = self._image(index)
        images = [anchor, self._neighbour(index)]
        images += [self.copy({CommonKeys.IMAGE: anchor})[CommonKeys.IMAGE] for _ in range(self.copies)]
        images.append(self._mixed(index, self.R.uniform(0, self.mixture)))
        return [_moved(image, self.misalign) for image in images]


class Views(Randomizable, Dataset):
    """Each image on its own, misaligned `count` times: the data of the published recipe (1) and of SimCLR (2).

    Args:
        data: as :class:`SliceGroups` takes it.
        misalign: random dictionary transform that moves `image`.
        count: views of an image.
    """

    def __init__(self, data: Sequence[Prepared | list[Prepared]], misalign: RandomTransform, count: int = 1) -> None:
        self.items = _flat(data)
        self.misalign, self.group = misalign, count

    def __len__(self) -> int:
        return len(self.items)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> Self:
        super().set_random_state(seed, state)
        self.misalign.set_random_state(state=self.R)
        return self

    def __getitem__(self, index: int) -> Group:
        image = torch.as_tensor(self.items[index]["image"], dtype=torch.float32)
        return [_moved(image, self.misalign) for _ in range(self.group)]


class SubjectViews(Views):
    """Images of one subject that show the same level, each misaligned: the data of fingerprinting, an index a subject.

    The first is any image of the subject, the others are of its variant (with or without skull) and near it; where
    there are none, the first again. Images whose level is unknown are near all others.

    Args:
        data: as :class:`SliceGroups` takes it.
        misalign: random dictionary transform that moves `image`.
        count: images of a subject.
        neighbour_mm: largest distance in level of the others.
    """

    def __init__(
        self,
        data: Sequence[Prepared | list[Prepared]],
        misalign: RandomTransform,
        count: int = 2,
        neighbour_mm: float = 6.0,
    ) -> None:
        super().__init__(data, misalign, count)
        self.neighbour_mm = neighbour_mm
        subjects: dict[str, list[int]] = defaultdict(list)
        for row, item in enumerate(self.items):
            subjects[str(item["subject_id"])].append(row)
        self.rows = list(subjects.values())  # of each subject

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Group:
        rows = self.rows[index]
        first = rows[self.R.randint(len(rows))]
        others = [row for row in rows if row != first and self._near(row, first)] or [first]
        chosen = [first, *(others[k] for k in self.R.randint(len(others), size=self.group - 1))]
        images = [torch.as_tensor(self.items[row]["image"], dtype=torch.float32) for row in chosen]
        return [_moved(image, self.misalign) for image in images]

    def _near(self, row: int, other: int) -> bool:
        a, b = self.items[row], self.items[other]
        apart = abs(a.get("level", 0.0) - b.get("level", 0.0)) > self.neighbour_mm  # not where a level is unknown
        return a.get("variant") == b.get("variant") and not apart


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

    def __iter__(self) -> Iterator[int]:
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


@runtime_checkable
class FitsProjection(Protocol):
    """A network whose last layer starts from the data, as :class:`~scripts.embedder.networks.DeepSSIM`'s does."""

    def fit_projection(self, images: torch.Tensor, /) -> None:
        """Start from images (N, 1, H, W)."""
        ...


def fit_projection(network: torch.nn.Module, groups: SliceGroups | Views, count: int, seed: int) -> None:
    """Set the network's projection to the principal components of at most `count` training images, before training.

    A network without a method `fit_projection` stays as it is.
    """
    if isinstance(network, FitsProjection):
        chosen = np.random.RandomState(seed).permutation(len(groups.items))[:count]  # an index may be a subject
        network.fit_projection(torch.stack([torch.as_tensor(groups.items[index]["image"]) for index in chosen]))


def _moved(image: torch.Tensor, misalign: RandomTransform) -> dict[str, torch.Tensor]:
    moved = {str(key): value for key, value in misalign({CommonKeys.IMAGE: image}).items()}
    return {**moved, CommonKeys.LABEL: image}


def _flat(data: Sequence[Prepared | list[Prepared]]) -> list[Prepared]:
    """Return items and lists of items (one a volume) as one list."""
    return [item for entry in data for item in (entry if isinstance(entry, list) else [entry])]
