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

"""The bundle's chain in MONAI's own transforms, as configs/inference.yaml wrote it out until 0.12: the reference."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

import torch
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    Orientationd,
    ResizeWithPadOrCropd,
    ScaleIntensityRangePercentilesd,
    Spacingd,
)
from scripts import (
    AxialSlicesd,
    Correctd,
    PerDimensionalityd,
    PlanarSliced,
    ShrinkToFitd,
    SkullStripd,
    Stretchd,
    ZeroBackgroundd,
    foreground,
    image_readers,
)

__all__ = ["monai_chain", "monai_field"]


def monai_chain(spatial_size: Sequence[int] = (96, 112), frame: int = 128, track_meta: bool = False) -> Compose:
    """Return the chain of the same name in inference.yaml, with the file's other defaults."""
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)  # MONAI makes all its readers
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
        load = LoadImaged(["image", "mask"], reader=image_readers(), allow_missing_keys=True)  # type: ignore[arg-type]
    volume = [
        Orientationd("image", axcodes="RAS", labels=None),
        Spacingd("image", pixdim=[2.0, 2.0, 2.0], mode="bilinear"),
        AxialSlicesd("image", spacing=4.0, levels=(12.0, 112.0), min_foreground=40.0),
    ]
    return Compose(
        [
            load,
            EnsureChannelFirstd(["image", "mask"], allow_missing_keys=True),
            ZeroBackgroundd("image"),
            SkullStripd("image"),
            Correctd("image"),
            PerDimensionalityd("image", [PlanarSliced("image", frame), Stretchd("image")], volume),
            *monai_field(spatial_size, track_meta),
        ]
    )


def monai_field(spatial_size: Sequence[int], track_meta: bool = False) -> list:
    """Return what follows where an image or slice (C, H, W) is to come on the field."""
    return [
        CropForegroundd("image", source_key="image", select_fn=foreground, allow_smaller=True),
        ShrinkToFitd("image", spatial_size),
        ResizeWithPadOrCropd("image", spatial_size),
        ScaleIntensityRangePercentilesd("image", lower=0, upper=99.5, b_min=0, b_max=1, clip=True),
        EnsureTyped("image", track_meta=track_meta, dtype=torch.float32),
    ]
