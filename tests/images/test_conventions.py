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
"""What MONAI's users expect of every dictionary transform: keys that may be missing, arrays, and plain refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from heads import head
from helpers import blobs
from monai.data import MetaTensor
from scripts import (
    AxialSlicesd,
    Correctd,
    Correction,
    PlanarFieldd,
    PlanarSliced,
    RandCopyd,
    RandMisalignd,
    ShrinkToFitd,
    SkullStripd,
    SliceFieldd,
    Stretchd,
    VolumeFieldd,
    ZeroBackgroundd,
)

IMAGE, VOLUME = blobs(1, seed=0)[0].numpy(), head(0)[None].astype(np.float32)
TURNED, STRETCHED = Correction(transposed=True, inverted=True), Correction(stretch=(0.5, 1.0))
PLANAR = {
    PlanarFieldd: {"frame": 20, "spatial_size": [20, 24]},
    SliceFieldd: {"spatial_size": [20, 24]},
    PlanarSliced: {"frame": 20},
    ShrinkToFitd: {"spatial_size": [20, 20]},
    Stretchd: {},
}
VOLUMES = {
    AxialSlicesd: {"spacing": 1.0, "levels": (0.0, 60.0), "min_foreground": 0.0},
    VolumeFieldd: {"spatial_size": [24, 28, 24], "pixel_mm": 2.0},
}
EITHER = {Correctd: {}, SkullStripd: {}, ZeroBackgroundd: {}, RandMisalignd: {"flip_prob": 0.5}, RandCopyd: {}}
ALL = {**PLANAR, **VOLUMES, **EITHER}


def item(transform: type, image: np.ndarray | torch.Tensor, **more: object) -> dict:
    """A dict that the transform changes."""
    correction = STRETCHED if transform is Stretchd else TURNED
    return {"image": image, "id": "file.png", "correction": correction, "level": 0.0, "slice": -1, **more}


@pytest.mark.parametrize("transform", ALL)
def test_a_key_may_be_missing_only_where_that_is_said(transform):
    data = {"id": "file.png", "correction": STRETCHED, "mask": IMAGE}
    with pytest.raises(KeyError, match="image"):
        transform("image", **ALL[transform])(data)
    got = transform("image", **ALL[transform], allow_missing_keys=True)(data)
    (got,) = got if isinstance(got, list) else [got]
    assert "image" not in got and got["id"] == "file.png"


@pytest.mark.parametrize("transform", ALL)
@pytest.mark.parametrize("kind", [torch.from_numpy, lambda image: MetaTensor(torch.from_numpy(image))])
def test_arrays_of_numpy_give_what_tensors_give(transform, kind):
    image = VOLUME if transform in VOLUMES else IMAGE
    results = []
    for given, mask in ((image.copy(), image > 0.4), (kind(image.copy()), kind((image > 0.4).astype(np.float32)))):
        step = transform("image", **ALL[transform])
        if hasattr(step, "set_random_state"):
            step.set_random_state(0)
        got = step(item(transform, given, mask=mask))
        results.append([np.asarray(one["image"]) for one in (got if isinstance(got, list) else [got])])
        np.testing.assert_array_equal(np.asarray(given), image)
    assert len(results[0]) == len(results[1]) > 0
    for one, other in zip(*results):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("transform", PLANAR)
def test_a_volume_is_no_planar_image(transform):
    with pytest.raises(ValueError, match=r"file.png: expected a planar image \(1, H, W\), found shape \(1, .*; PerDim"):
        transform("image", **ALL[transform])(item(transform, torch.from_numpy(VOLUME)))


@pytest.mark.parametrize("transform", VOLUMES)
def test_a_planar_image_is_no_volume(transform):
    with pytest.raises(ValueError, match="file.png: expected a volume, found an image of 2 axes"):
        transform("image", **ALL[transform])(item(transform, torch.from_numpy(IMAGE)))
