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

"""Which image of the matched subject is it?

The search lays few of each candidate's images on a generated one: enough to tell whose it is. The image that was copied
may be another one of that subject.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..bundle.progress import Progress
from ..images.stacks import Images, Rows
from .found import Found, Units
from .found_store import digest_of
from .neighbors import nearest_images, pair_cosines
from .search import Search

__all__ = ["name_images"]


NAMED = ("image", "slice_ssim", "matrix", "mirrored")  # of what is found, for a row and candidate


def name_images(search: Search, units: Units, found: Found, chosen: NDArray[np.bool_], most: int) -> Found:
    """Return what was found, with the most alike image of each chosen unit's best candidate in place of that searched.

    Candidates, statistic and the best of them stay. The best one's image changes, and with it map, cosine and SSIM,
    where another image of that subject, aligned from scratch and bent, has a higher SSIM. Where copies of a part are
    looked for, that is the SSIM of the square that decided.

    Args:
        search: what found it.
        units: U units of Q rows.
        found: what was found for them.
        chosen: (U,) the units.
        most: images of the candidate that are tried, the nearest by their embeddings.

    Cost: `most` pairs a row at most.
    """
    rows = np.flatnonzero(chosen[units.unit]) if found.parts is None else found.parts.row[chosen]
    best = found.best[units.unit[rows]]
    subject = found.subject[units.unit[rows], best]
    several = min(most, int(np.bincount(search.subjects, minlength=1).max()))
    if several < 2 or not (subject >= 0).any():
        return found
    known = {key: found.arrays[key][rows, best] for key in NAMED}
    step = max(search.block, search.verifier.block)
    blocks: list[dict[str, NDArray]] = []
    with Progress(total=len(rows), desc="naming the images of calls", unit="image") as bar:
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            squares = None if found.parts is None else found.parts.square[units.unit[rows[part]]]
            images = nearest_images(
                units.vectors[rows[part]], search.vectors, search.subjects, subject[part, None], several
            )
            queries, so_far = Rows(units.images, rows[part]), {key: array[part] for key, array in known.items()}
            blocks.append(_best_of(search, queries, images[:, 0], squares, so_far))
            bar.update(len(queries))
    named = {key: np.concatenate([block[key] for block in blocks]) for key in NAMED}
    return _with(named, found, search, units, rows)


def _best_of(
    search: Search, queries: Images, images: NDArray, squares: NDArray | None, known: dict[str, NDArray]
) -> dict[str, NDArray]:
    """Return the best of what is `known` of queries (R, H, W) and of images (R, n), -1 for none, aligned to them; from
    the store where it has been found before."""
    store = search.store if squares is None else None
    name = "" if store is None else digest_of(f"{search.digest} named", queries, images, *known.values())
    if store is not None and (kept := store.read(name)) is not None:
        return kept
    best = {key: array.copy() for key, array in known.items()}
    for image in images.T:
        new = np.flatnonzero((image >= 0) & (image != known["image"]))
        if not len(new):
            continue
        aligned = search.verifier.align(queries, search.images, (new, image[new]))
        ssim = aligned.aligned_ssim
        if squares is not None:
            grid = search.verifier.grid(search.images.shape[1:])
            square = (grid[None] == squares[new, None]).all(2).argmax(1)
            ssim = np.nan_to_num(np.take_along_axis(aligned.squares, square[:, None], 1)[:, 0], nan=-1.0)
        better = np.flatnonzero(ssim > best["slice_ssim"][new])
        for key, value in zip(NAMED, (image[new], ssim, aligned.matrix, aligned.mirrored)):
            best[key][new[better]] = value[better]
    if store is not None:
        store.add(name, best)
    return best


def _with(named: dict[str, NDArray], found: Found, search: Search, units: Units, rows: NDArray[np.int64]) -> Found:
    """Return what was found with the images named for some rows (R,)."""
    best = found.best[units.unit]  # (Q,)
    arrays: dict[str, NDArray] = {key: found.arrays[key].copy() for key in (*NAMED, "similarity", "aligned_ssim")}
    for key, value in named.items():
        arrays[key][rows, best[rows]] = value
    cosine = pair_cosines(units.vectors[rows], search.vectors, named["image"][:, None])[:, 0]
    arrays["similarity"][rows, best[rows]] = cosine
    ssim = arrays["slice_ssim"][np.arange(len(best)), best]
    mean = units.mean(ssim) if found.parts is None else ssim[found.parts.row]
    changed = np.unique(units.unit[rows])
    arrays["aligned_ssim"][changed, found.best[changed]] = mean[changed]
    return Found.of({**found.arrays, **arrays, "parts": found.parts})
