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

"""Replace the names of real people's scans in a result, once, before anything is written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..audit.result import AuditResult
from ..embedder.embedding_set import EmbeddingSet

__all__ = ["pseudonymised"]


def pseudonymised(result: AuditResult) -> AuditResult:
    """Return the result with numbers instead of the ids and paths of training and holdout images.

    Subject 16 becomes `subject-0016`, its files `subject-0016/image-000123` without a path, and a skipped file loses
    its name and the reason, which may quote it. Names of generated images stay.
    """
    names = [f"subject-{number:04d}" for number in range(len(result.subject_names))]
    new = dict(zip(result.subject_names, names))
    train = _renamed(result.train, [names[s] for s in _of_files(result.train, result.train_subject)], "train")
    holdout, people = result.holdout, result.shared_people
    if holdout is not None:
        own, number = np.unique(holdout.subject_ids, return_inverse=True)
        held = {str(name): f"holdout-{s:04d}" for s, name in enumerate(own)}
        people = [(held[a], new[b]) for a, b in people]
        holdout = _renamed(holdout, [f"holdout-{s:04d}" for s in _of_files(holdout, number)], "holdout")
    merged = [[new["+".join(group)]] for group in result.merged]
    return replace(result, train=train, holdout=holdout, subject_names=names, merged=merged, shared_people=people)


def _of_files(data: EmbeddingSet, number: np.ndarray) -> list[int]:
    """Return each file's value of an array over rows."""
    return number[np.unique(data.file, return_index=True)[1]].tolist()


def _renamed(data: EmbeddingSet, subjects: list[str], part: str) -> EmbeddingSet:
    # as many ids as before, also where several are one subject
    ids = np.unique([item["subject_id"] for item in data.items], return_inverse=True)[1]
    items = [
        item | {"id": f"{subject}/image-{file:06d}", "image": "", "subject_id": f"id-{ids[file]:04d}"}
        for file, (item, subject) in enumerate(zip(data.items, subjects))
    ]
    skipped = [(f"{part}-{number:04d}", "unreadable") for number in range(len(data.skipped))]
    return replace(data, items=items, skipped=skipped)
