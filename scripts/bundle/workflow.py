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

"""Run the bundle's configs from any folder, under whatever name its package is installed."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

from monai.bundle import ConfigWorkflow

from .components import PACKAGE, bundle_file, renamed

__all__ = ["BundleWorkflow"]

FIND_BUNDLE = "$import find_bundle"  # leads MONAI's command to the package, which is imported here


class BundleWorkflow(ConfigWorkflow):
    """Configs of the bundle, of which the later ones are overlays, as MONAI runs them.

    Two things differ from ``python -m monai.bundle run``. The configs' package `scripts` is this one, whatever it is
    called and whatever else is called `scripts`. And no folder is added to Python's search path.

    Args:
        names: of files in configs/, such as ``detect.yaml``.
        logs: set up Python's logging by configs/logging.conf, as a command does; a program has its own.
        keys: of the configs, to override.

    Raises:
        FileNotFoundError: if the bundle has no such config.
    """

    def __init__(self, names: Sequence[str], logs: bool = False, **keys: object) -> None:
        files = [str(bundle_file(f"configs/{name}")) for name in names]
        conf = str(bundle_file("configs/logging.conf")) if logs else False
        said = logging.getLogger(ConfigWorkflow.__module__)
        level = said.level
        said.setLevel(logging.ERROR)  # it warns that there is no logging file
        try:
            super().__init__(config_file=files, logging_file=conf, workflow_type=None)
        finally:
            said.setLevel(level)
        config = dict(renamed(self.parser.get(), "scripts", PACKAGE))
        config["imports"] = [line for line in config["imports"] if not line.startswith(FIND_BUNDLE)]
        self.parser.set(config)
        self.parser.update(keys)

    def run(self) -> list[object]:
        """Return what each expression of the key `run` gave, once it was initialised; then finalise."""
        with warnings.catch_warnings():
            # MONAI warns to parse only what one trusts: these are the bundle's own
            warnings.filterwarnings("ignore", message="parsing config_file", category=UserWarning)
            self.initialize()
            results = self._run_expr(id=self.run_id)
            self.finalize()
        return results
