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
from __future__ import annotations

import nibabel
import numpy as np
from helpers import write_pictures
from PIL import Image
from scripts.images.datalists import find_images
from scripts.images.sizes import saved_sizes


def test_rows_and_columns_are_those_of_the_file_whatever_its_format(tmp_path):
    Image.fromarray(np.zeros((30, 20), np.uint8)).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", np.zeros((31, 21), np.float32))
    np.savez(tmp_path / "c.npz", samples=np.zeros((2, 1, 32, 22), np.float32))
    items = find_images(tmp_path, warn=False)
    assert saved_sizes(items) == [(30, 20), (31, 21), (32, 22), (32, 22)]


def test_volumes_and_what_cannot_be_read_have_none(tmp_path):
    (good,) = write_pictures(tmp_path, 1)
    nibabel.save(nibabel.Nifti1Image(np.ones((9, 8, 7), np.float32), np.eye(4)), tmp_path / "v.nii.gz")
    (tmp_path / "bad.png").write_text("text")
    bad = [{**good, "image": str(tmp_path / name)} for name in ("v.nii.gz", "bad.png", "none.png")]
    assert saved_sizes([good, *bad])[1:] == [None, None, None] and saved_sizes([good])[0] is not None
