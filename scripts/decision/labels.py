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

"""How alike two images are, in words: for an audit's matches and a benchmark's pairs."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Label"]


class Label(IntEnum):
    """How alike a generated image and its best training image are, in ascending order."""

    DIFFERENT = 0
    SIMILAR = 1
    DUPLICATE = 2
