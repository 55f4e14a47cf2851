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

"""The bundle's main jobs as functions, for notebooks and other programs; `scripts/__main__.py` makes commands of them.

Each runs a config of the bundle, and takes that config's keys. `deepssim audit --show_keys True` prints them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TypeAlias, cast

from .auditing.result import AuditResult
from .bundle.errors import by_command, expected_cause, sentence
from .bundle.options import PATH_KEY
from .bundle.workflow import BundleWorkflow

__all__ = ["audit", "compare", "sample", "train"]

PathLike: TypeAlias = str | os.PathLike


def audit(train_dir: PathLike | None = None, generated_dir: PathLike | None = None, **keys: object) -> AuditResult:
    """Return which generated images are copies of which training subjects; the report stands in `output_dir`.

    It prints the summary that the command prints. In a notebook the result shows itself, with a link to the report.

    Args:
        train_dir: the images that the generator was trained on: a folder, or a .json, .csv or .tsv datalist. None, and
            None for `generated_dir`: the demo's.
        generated_dir: the images to audit.
        keys: of configs/detect.yaml, such as ``holdout_dir``, ``fdr=0.01`` or ``output_dir``; parts of its objects by
            ``**{"audit::k": 8}``.

    Raises:
        ValueError: where an argument or a file is wrong, with the sentence that the command would print.
    """
    folders = {"train_dir": train_dir, "generated_dir": generated_dir}
    given = {key: folder for key, folder in folders.items() if folder is not None}
    return cast(AuditResult, _run("detect.yaml", **given, **keys))


def train(dataset_dir: PathLike, output_dir: PathLike, volumes: bool = False, **keys: object) -> None:
    """Train the embedder on images of one's own; `output_dir`/model.pt is then the audit's `checkpoint`.

    Args:
        dataset_dir: a folder, or a datalist. No labels are needed.
        output_dir: gets the weights and a checkpoint an epoch.
        volumes: the embedder of whole volumes, the audit's `volume_checkpoint`; else that of slices and planar images.
        keys: of configs/train.yaml, such as ``resume``.

    Raises:
        ValueError: where an argument or a file is wrong.
    """
    overlays = ["train_3d.yaml"] if volumes else []
    _run("train.yaml", *overlays, dataset_dir=dataset_dir, output_dir=output_dir, **keys)


def sample(
    model_dir: PathLike, autoencoder_file: PathLike, output_dir: PathLike, volumes: bool = False, **keys: object
) -> None:
    """Draw images from a latent diffusion model; `output_dir`/generated.csv is then the audit's `generated_dir`.

    Args:
        model_dir: the output_dir of configs/ldm/train_diffusion.yaml.
        autoencoder_file: of configs/ldm/train_autoencoder.yaml.
        output_dir: gets the images and their list.
        volumes: the model is one of whole volumes.
        keys: of configs/ldm/generate.yaml, such as ``samples_per_record`` and ``size``.

    Raises:
        ValueError: where an argument or a file is wrong.
    """
    overlays = ["ldm/generate_3d.yaml"] if volumes else []
    files = {"model_dir": model_dir, "autoencoder_file": autoencoder_file, "output_dir": output_dir}
    _run("ldm/generate.yaml", *overlays, **files, **keys)


def compare(first_dir: PathLike, second_dir: PathLike, **keys: object) -> None:
    """Print how two audits differ, at the same number of samples.

    Args:
        first_dir: the output_dir of an audit, as before a mitigation.
        second_dir: that of another one.
        keys: of configs/compare.yaml.

    Raises:
        ValueError: where a folder holds no audit.
    """
    _run("compare.yaml", first_dir=first_dir, second_dir=second_dir, **keys)


def _run(*names: str, **keys: object) -> object:
    """Return what the last expression of a config gave."""
    values = {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in keys.items()}
    if not by_command():
        _check_texts(values)
    try:
        return BundleWorkflow(names, logs=by_command(), **values).run()[-1]
    except Exception as error:  # MONAI wraps what an expression raised
        cause = expected_cause(error)
        if cause is None:
            raise
        raise ValueError(sentence(cause)) from error


def _check_texts(keys: Mapping[str, object]) -> None:
    """Raise ValueError at a text that MONAI would evaluate, or change; a command's are checked as it gave them."""
    for key, value in keys.items():
        if isinstance(value, str) and value[:1] in ("$", "@", "%"):
            raise ValueError(
                f"{key}: expected a value, found {value!r}, which MONAI evaluates as it starts with {value[0]!r}; for "
                f"a path write ./{value}"
            )
        if isinstance(value, str) and "#" in value and PATH_KEY.search(key):
            raise ValueError(f"{key}: expected a path, found {value!r}; use a name or a link without '#'")
