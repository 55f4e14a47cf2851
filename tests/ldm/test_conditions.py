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
import pytest
from scripts.ldm.conditions import Categories, Condition, Standardised, tissue_shares

PEOPLE = [{"id": f"{i}.png", "age": 20 + 10 * i, "sex": "MF"[i % 2]} for i in range(4)]


def test_tissue_shares_of_a_label_map(tmp_path):
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0], labels[1, :2], labels[1, 2:] = 1, 7, 9  # 16, 8 and 8 voxels
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), tmp_path / "mask.nii.gz")
    shares = tissue_shares(tmp_path / "mask.nii.gz", {"a": [1], "b": [7, 9], "none": [200]})
    assert shares == {"a": 0.5, "b": 0.5, "none": 0.0}
    nibabel.save(nibabel.Nifti1Image(0 * labels, np.eye(4)), tmp_path / "empty.nii.gz")
    with pytest.raises(ValueError, match="expected a label map, found no voxel above 0"):
        tissue_shares(tmp_path / "empty.nii.gz", {"a": [1]})


def test_variables_are_standardised_and_texts_coded():
    vectors = np.stack([Condition("variables", ["age", "sex"]).fit(PEOPLE)(item) for item in PEOPLE])
    age = np.array([20, 30, 40, 50])
    np.testing.assert_allclose(vectors[:, 0], (age - age.mean()) / age.std(), rtol=1e-6)
    np.testing.assert_array_equal(vectors[:, 1], [1, 0, 1, 0])  # M; F is the first
    assert Condition().fit(PEOPLE)(PEOPLE[0]).shape == (0,)
    constant = Condition("variables", ["age"]).fit(PEOPLE[:1])
    np.testing.assert_array_equal(constant(PEOPLE[0]), [0])


def test_embedding_is_read_from_its_file(tmp_path):
    np.save(tmp_path / "text.npy", np.arange(5.0))
    condition = Condition("embedding", ["text"]).fit([])
    np.testing.assert_array_equal(condition({"text": tmp_path / "text.npy"}), np.arange(5, dtype=np.float32))
    np.save(tmp_path / "text.npy", np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="expected a finite vector"):
        condition({"text": tmp_path / "text.npy"})
    np.save(tmp_path / "text.npy", np.array([{"runs": "code"}]), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        condition({"text": tmp_path / "text.npy"})


@pytest.mark.parametrize(
    ("kind", "columns", "change", "sentence"),
    [
        ("text", ["age"], {}, "condition: expected none, variables or embedding, got 'text'"),
        ("variables", [], {}, "condition_columns: expected some"),
        ("embedding", ["a", "b"], {}, "condition_columns: expected one"),
        ("variables", ["weight"], {}, "0.png: expected a value in column 'weight'"),
        ("variables", ["age"], {"age": "n/a"}, "0.png: expected a value in column 'age'"),
        ("variables", ["age"], {"age": "old"}, "0.png: column 'age': expected a number, found 'old'; correct it"),
        ("variables", ["sex"], {"sex": "X"}, "0.png: column 'sex': expected one of F, M, found 'X'; correct it"),
    ],
)
def test_conditions_that_cannot_be_had_are_errors(kind, columns, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        Condition(kind, columns).fit(PEOPLE)(PEOPLE[0] | change)


def test_scales_are_learnt_and_told_as_plain_lists():
    scales = Condition("variables", ["age", "sex"]).fit(PEOPLE).scales
    assert scales == {"age": Standardised(35.0, pytest.approx(125**0.5)), "sex": Categories(("F", "M"))}
    assert scales["age"].facts() == pytest.approx([35, 125**0.5]) and scales["sex"].facts() == ["F", "M"]
    assert scales["age"].code("35") == [0.0] and Categories(("a", "b", "c")).code("c") == [0.0, 1.0]
