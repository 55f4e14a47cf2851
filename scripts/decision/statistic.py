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

"""The statistic of an image's candidates: how much closer the best training subject is than the next ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["local_statistic"]


NEIGHBOURS = 5  # d1 is judged against the mean of d2 ... d5
LEAST_DISTANCE = 1e-6


def local_statistic(aligned_ssim: NDArray) -> NDArray[np.float64]:
    """Return T = mean(log d2 ... log d5) - log d1 of each row of aligned SSIM (Q, k), -inf where fewer than 5 exist.

    d = max(1 - aligned SSIM, 1e-6) sorted, so the columns' order does not matter. It asks how much closer the best
    subject is than the next ones: what blurs or brightens all of them alike cancels to first order.
    """
    aligned_ssim = np.atleast_2d(np.asarray(aligned_ssim, float))
    if aligned_ssim.shape[1] < NEIGHBOURS:
        return np.full(len(aligned_ssim), -np.inf)
    distance = np.where(np.isfinite(aligned_ssim), np.maximum(1 - aligned_ssim, LEAST_DISTANCE), np.inf)
    logs = np.log(np.sort(distance, axis=1)[:, :NEIGHBOURS])
    known = np.isfinite(logs).all(1)
    statistic = np.full(len(logs), -np.inf)
    statistic[known] = logs[known, 1:].mean(1) - logs[known, 0]
    return statistic
