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


"""Write what the Model Zoo wants besides: JSON of two configs, and the large files:  python docs/make_model_zoo.py"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from monai.bundle import ConfigParser

ROOT = Path(__file__).resolve().parent.parent
LARGE = 1024 * 1024  # bytes; above, the zoo's pre-commit refuses a file
HOST = "https://example.org/deepssim"  # a placeholder, until the weights have a stable place
HEAD = f"""\
# Files that a pull request to the Model Zoo leaves out. Written by: python docs/make_model_zoo.py
# {HOST} is a placeholder: nothing lies there. Put the weights on a stable host and name it.
"""


def config_json(name: str) -> str:
    """Return a config as JSON: `monai.bundle.load` reads no YAML."""
    return json.dumps(ConfigParser.load_config_file(str(ROOT / "configs" / f"{name}.yaml")), indent=4) + "\n"


def large_files() -> str:
    """Return the list of large files with their hashes; the code and the documents have none."""
    entries = [
        {
            "path": path.relative_to(ROOT).as_posix(),
            "url": f"{HOST}/{path.name}",
            "hash_val": hashlib.sha256(path.read_bytes()).hexdigest(),
            "hash_type": "sha256",
        }
        for path in sorted((ROOT / "models").iterdir())
        if path.stat().st_size > LARGE
    ]
    lines = [f'{"- " if key == "path" else "  "}{key}: "{value}"' for entry in entries for key, value in entry.items()]
    return "\n".join([HEAD + "large_files:", *lines]) + "\n"


FILES: dict[str, Callable[[], str]] = {
    "configs/inference.json": lambda: config_json("inference"),
    "configs/train.json": lambda: config_json("train"),
    "large_files.yml": large_files,
}

if __name__ == "__main__":
    for file, text in FILES.items():
        (ROOT / file).write_text(text(), encoding="utf-8")
