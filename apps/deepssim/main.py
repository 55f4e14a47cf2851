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

"""A MONAI Label app: is the open volume a copy, and of which training subject? See docs/monai_label.md."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the bundle, of which this app is a part

from scripts.bundle.errors import sentence  # noqa: E402
from scripts.images.writing import write_object  # noqa: E402
from scripts.lookup import Lookup  # noqa: E402

logger = logging.getLogger(__name__)


# of the verdicts; a viewer shows the head as the segment of this name
LABELS = {
    "copy": "copy of a training subject",
    "likeness": "likeness of a training subject",
    "none": "no copy found",
    "inconclusive": "cannot tell",
}


class LookupTask(InferTask):
    """Answers whether an image is a copy: numbers and sentences, and of a volume a mask of the head.

    It calls itself a segmentation, as 3D Slicer lists no other kind and takes no answer without a mask. Slicer fills
    the segment whose name is the verdict, and prints the sentences in its Python console.
    """

    def __init__(self, lookup: Lookup) -> None:
        super().__init__(
            InferType.SEGMENTATION, [*LABELS.values()], dimension=3, description="Copy of a training subject, or not?"
        )
        self.lookup = lookup

    def is_valid(self) -> bool:
        return True

    def __call__(self, request: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        try:
            answer = self.lookup(request["image"])
            mask = self._mask(request["image"], 1 + [*LABELS].index(answer.verdict)) if self.lookup.volumes else None
        except (OSError, ValueError) as error:
            raise HTTPException(status_code=422, detail=sentence(error)) from error
        logger.info("%s %s", answer.text, answer.caution)
        return mask, answer.as_dict() | {"label_names": self.labels}

    @staticmethod
    def _mask(source: str, value: int) -> str:
        """Return a file that the server deletes once it is sent."""
        descriptor, path = tempfile.mkstemp(suffix=".nii.gz")
        os.close(descriptor)
        write_object(source, Path(path), value)
        return path


class LookupApp(MONAILabelApp):
    """The keys of --conf are those of Lookup.of; `train_dir` is the folder of the training images."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        super().__init__(app_dir, studies, conf, name="DeepSSIM", description="Copies of training subjects")

    def init_infers(self) -> dict[str, InferTask]:
        return {"deepssim": LookupTask(Lookup.of(self.conf))}
