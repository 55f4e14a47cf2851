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
from helpers import save_volume
from PIL import Image
from scripts.images.writing import write_image, write_object


def test_images_are_written_as_png_and_nifti(tmp_path):
    image = np.linspace(0, 1, 24, dtype=np.float32).reshape(6, 4)
    write_image(image, tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), (image.T * 255).round())
    write_image(image, tmp_path / "a.nii.gz", pixel_mm=1.5)
    volume = nibabel.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.get_fdata(), image[..., None])
    assert volume.header.get_zooms()[:2] == (1.5, 1.5)


def test_an_object_is_marked_on_the_grid_of_its_volume(tmp_path):
    volume = np.zeros((20, 16, 12), np.float32)
    volume[5:15, 4:10, 3:9] = 100
    source = save_volume(tmp_path / "v.nii.gz", volume, voxel=(1.0, 2.0, 3.0), axcodes="PSR")
    write_object(str(source), tmp_path / "mask.nii.gz", 3)
    given, mask = nibabel.load(source), nibabel.load(tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(mask.affine, given.affine)
    values = np.asarray(mask.dataobj)
    assert values.dtype == np.uint8 and set(np.unique(values)) == {0, 3}
    inside, marked = given.get_fdata() > 0, values == 3
    assert marked[inside].all() and marked.sum() < 2.5 * inside.sum()  # it is found on a smoothed volume
