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

import nibabel
import numpy as np
from PIL import Image

from scripts.images.writing import write_image


def test_images_are_written_as_png_and_nifti(tmp_path):
    image = np.linspace(0, 1, 24, dtype=np.float32).reshape(6, 4)
    write_image(image, tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), (image.T * 255).round())
    write_image(image, tmp_path / "a.nii.gz", pixel_mm=1.5)
    volume = nibabel.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.get_fdata(), image[..., None])
    assert volume.header.get_zooms()[:2] == (1.5, 1.5)
