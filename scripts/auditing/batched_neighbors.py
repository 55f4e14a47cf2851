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
"""The search for the training subjects most similar to each query by torch, for a GPU."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ..bundle.progress import Progress

__all__ = ["best_of_queries"]

# whose cosines are held at a time, 1 GB of them; references are sent to the device again for each block of queries
QUERIES, REFERENCES = 32768, 8192


@torch.no_grad()
def best_of_queries(
    queries: NDArray[np.float32],
    references: NDArray[np.float32],
    subjects: NDArray[np.int64],
    order: NDArray[np.int64],
    k: int,
    barred: NDArray[np.int64],
    device: torch.device,
    block: tuple[int, int] = (QUERIES, REFERENCES),
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the k best subjects of each query and their best images, (Q, k) both, -1 where fewer exist.

    References go to the device block by block, for each block of queries. Arguments are those of
    :func:`.neighbors.nearest_subjects`; `order` are the references by subject, and `barred` what is excluded.
    """
    subject, image = (np.full((len(queries), k), -1, np.int64) for _ in range(2))
    with Progress(total=len(queries), desc="comparing embeddings", unit="image") as bar:
        for start in range(0, len(queries), block[0]):
            part = slice(start, start + block[0])
            query, out = (torch.from_numpy(a[part]).to(device) for a in (queries, barred))
            best = torch.full((len(query), k), -torch.inf, device=device)
            who, row = (torch.full((len(query), k), -1, device=device) for _ in range(2))
            for first in range(0, len(order), block[1]):
                rows = order[first : first + block[1]]
                cosines = query @ torch.from_numpy(references[rows]).to(device).T  # (q, D) x (D, r) -> (q, r)
                number = torch.from_numpy(subjects[rows]).to(device)[None]
                cosines.masked_fill_(number == out[:, None], -torch.inf)
                value, place = _distinct(cosines, number, k)
                there = value > -torch.inf
                found = torch.where(there, number[0, place], -1), torch.from_numpy(rows).to(device)[place]
                # what is known stands first: of equals the first stays
                known = [torch.cat(pair, 1) for pair in ((best, value), (who, found[0]), (row, found[1]))]
                best, place = _distinct(known[0].clone(), known[1], k)
                who, row = (torch.where(best > -torch.inf, a.gather(1, place), -1) for a in known[1:])
            subject[part], image[part] = who.cpu(), row.cpu()
            bar.update(len(query))
    return subject, image


def _distinct(values: torch.Tensor, subjects: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k largest values (q, k) of distinct subjects, and their columns; -inf where there are fewer.

    `values` (q, n) are used up; `subjects` are (q, n) or (1, n). Of equals it is the first.
    """
    best, place = [], []
    for _ in range(k):
        value, column = values.max(1, keepdim=True)
        best.append(value)
        place.append(column)
        values.masked_fill_(subjects == subjects.expand(len(values), -1).gather(1, column), -torch.inf)
    return torch.cat(best, 1), torch.cat(place, 1)
