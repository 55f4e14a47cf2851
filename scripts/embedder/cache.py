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

"""Embeddings kept under the content hash of their files; never used where anything that made them differs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..bundle.files import sha256_of_file

__all__ = ["fingerprint"]


def fingerprint(checkpoint: str | os.PathLike, config_file: str | os.PathLike, overrides: Mapping, *more: Any) -> str:
    """Return a text that changes whenever an embedding would: weights, config, overrides, code and libraries."""
    package = Path(__file__).parent.parent
    code = [sha256_of_file(path) for room in ("images", "embedder") for path in sorted((package / room).glob("*.py"))]
    weights = sha256_of_file(checkpoint) if Path(checkpoint).is_file() else ""
    versions = [version(name) for name in ("torch", "monai", "numpy", "pillow", "nibabel")]
    parts = [weights, sha256_of_file(config_file), json.dumps(dict(overrides), sort_keys=True, default=str), *code]
    return hashlib.sha256("|".join([*parts, *versions, *map(repr, more)]).encode()).hexdigest()
