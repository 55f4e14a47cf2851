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
from scripts.ldm.texts import TextVectors

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


def test_embeddings_may_lie_in_an_archive_as_the_published_ones_do(tmp_path):
    np.savez(tmp_path / "text.npz", data=np.arange(1.0, 5.0)[None])
    condition = Condition("embedding", ["text"])
    np.testing.assert_array_equal(condition({"text": tmp_path / "text.npz"}), [1, 2, 3, 4])
    np.savez(tmp_path / "text.npz", a=np.ones(4), b=np.ones(4))
    with pytest.raises(ValueError, match="expected one array, or one named data, found a, b"):
        condition({"text": tmp_path / "text.npz"})


def test_embeddings_have_one_length_and_say_something(tmp_path):
    for name, vector in (("a", np.ones(3)), ("b", np.ones(4)), ("c", np.zeros(3))):
        np.save(tmp_path / f"{name}.npy", vector)
    condition = Condition("embedding", ["text"])
    condition({"id": "a", "text": tmp_path / "a.npy"})
    with pytest.raises(
        ValueError, match="b: expected a vector of 3 entries, found 4; correct condition_columns or emb"
    ):
        condition({"id": "b", "text": tmp_path / "b.npy"})
    with pytest.raises(ValueError, match="c.npy: expected a vector of a length above 0, found zeros"):
        condition({"id": "c", "text": tmp_path / "c.npy"})
    with pytest.raises(ValueError, match="a: expected a vector of 512 entries, found 3"):
        Condition("embedding", ["text"], dim=512)({"id": "a", "text": tmp_path / "a.npy"})


def test_a_sentence_is_embedded_by_the_encoder():
    def embed(texts):
        return [[len(text), ord(text[0])] for text in texts]

    condition = Condition("text", text="{sex} {age:.0f}", vectors=TextVectors(embed)).fit(PEOPLE)
    np.testing.assert_array_equal(condition(PEOPLE[1]), [4, ord("F")])
    assert condition.sentence(PEOPLE[1]) == "F 30" and condition.columns == ["sex", "age"]
    assert Condition().sentence(PEOPLE[1]) is None
    with pytest.raises(
        ValueError, match="0.png: expected a vector of 512 entries, found 2; correct text_encoder or emb"
    ):
        Condition("text", text="{sex}", vectors=TextVectors(embed), dim=512)(PEOPLE[0])
    with pytest.raises(ValueError, match="text_encoder: expected a folder of a text model or a callable, found none"):
        Condition("text", text="{sex}").fit(PEOPLE)


@pytest.mark.parametrize(
    ("kind", "columns", "change", "sentence"),
    [
        ("words", ["age"], {}, "condition: expected none, variables, embedding or text, got 'words'"),
        ("text", ["age"], {}, "text: expected a sentence with columns in braces"),
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
