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

import numpy as np
import pytest
import torch
from helpers import ROOT
from monai.bundle import ConfigParser
from scripts.ldm.texts import Template, TextVectors, sound_vector
from text_models import write_clip


class Counting:
    """Embeds a text as its length and its number of words, and counts the texts that it sees."""

    def __init__(self, identity=None):
        self.seen = []
        if identity is not None:
            self.identity = identity

    def __call__(self, texts):
        self.seen += texts
        return [[len(text), text.count(" ")] for text in texts]


def test_a_sentence_is_written_from_columns():
    template = Template("{sex}, {age:.0f} years, {csf:.1%} CSF {{{sex}}}")
    assert template.columns == ["sex", "age", "csf"]
    item = {"id": "a", "sex": "F", "age": "36.62", "csf": 0.1234}
    assert template.write(item) == "F, 37 years, 12.3% CSF {F}"
    assert Template("{text}").write({"text": "as it {is}"}) == "as it {is}"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("no column", "expected a sentence with columns in braces, as '{age}', found 'no column'"),
        ("", "expected a sentence with columns in braces"),
        ("{age", "expected a sentence with columns in braces, found '{age'"),
        ("{}", "expected a column, or column:form, in each pair of braces"),
        ("{age.__class__}", "expected a column, or column:form"),
        ("{age[0]}", "expected a column, or column:form"),
        ("{age!r}", "expected a column, or column:form"),
        ("{age:{sex}}", "expected a column, or column:form"),
    ],
)
def test_what_is_no_template_is_refused(text, sentence):
    with pytest.raises(ValueError, match=sentence.replace("[", r"\[").replace("{", r"\{")):
        Template(text)


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ({"id": "a"}, "a: expected a value in column 'age', on which the model is conditioned, found none"),
        ({"id": "a", "age": "n/a"}, "a: expected a value in column 'age'"),
        ({"id": "a", "age": "old"}, "a: column 'age': expected a number that {age:.0f} can write, found 'old'"),
    ],
)
def test_a_sentence_that_cannot_be_written_names_item_and_column(item, sentence):
    with pytest.raises(ValueError, match=sentence.replace("{", r"\{")):
        Template("{age:.0f} years").write(item)


def test_an_encoder_sees_a_text_once():
    encoder = Counting()
    vectors = TextVectors(encoder)
    np.testing.assert_array_equal(vectors(["a b", "a", "a b"]), [[3, 1], [1, 0], [3, 1]])
    np.testing.assert_array_equal(vectors(["a", "abc"]), [[1, 0], [3, 0]])
    assert encoder.seen == ["a", "a b", "abc"]


def test_an_overlay_may_name_any_callable_as_the_encoder(tmp_path):
    parser = ConfigParser()
    parser.read_config(str(ROOT / "configs" / "ldm" / "train_diffusion.yaml"))
    parser.update({"output_dir": str(tmp_path), "text_encoder": {"_target_": "torch.nn.Identity"}})
    assert isinstance(parser.get_parsed_content("vectors").encoder, torch.nn.Identity)
    parser = ConfigParser()
    parser.read_config(str(ROOT / "configs" / "ldm" / "train_diffusion.yaml"))
    assert parser.get_parsed_content("vectors").encoder is None


def test_kept_vectors_are_used_again_by_the_same_encoder_alone(tmp_path):
    cache = tmp_path / "out" / "texts.npz"
    first = TextVectors(Counting("one"), cache)(["a", "b c"])
    again = Counting("one")
    np.testing.assert_array_equal(TextVectors(again, cache)(["a", "b c"]), first)
    assert again.seen == []
    other = Counting("another")
    TextVectors(other, cache)(["a", "b c"])
    assert other.seen == ["a", "b c"]
    nameless = Counting()  # nobody knows whether it is the one of before
    TextVectors(nameless, tmp_path / "nameless.npz")(["a", "b c"])
    assert nameless.seen == ["a", "b c"] and not (tmp_path / "nameless.npz").exists()


def test_a_folders_vectors_are_kept_and_need_no_model_the_second_time(tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="text models need the extra `published`")
    folder = write_clip(tmp_path / "clip")
    first = TextVectors(str(folder), tmp_path / "texts.npz")(["brain", "age 3"])
    monkeypatch.setattr("scripts.ldm.text_encoder.TextEncoder.__call__", lambda self, texts: pytest.fail("again"))
    np.testing.assert_array_equal(TextVectors(str(folder), tmp_path / "texts.npz")(["brain", "age 3"]), first)
    (tmp_path / "texts.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="texts.npz: expected kept vectors of texts, found another file; remove it"):
        TextVectors(str(folder), tmp_path / "texts.npz")


@pytest.mark.parametrize(
    ("encoder", "sentence"),
    [
        (None, "text_encoder: expected a folder of a text model or a callable, found none"),
        (lambda texts: np.ones(3), r"text_encoder: expected vectors \(2, D\) of 2 texts, found \(3,\)"),
        (lambda texts: np.ones((1, 3)), r"expected vectors \(2, D\) of 2 texts, found \(1, 3\)"),
        (lambda texts: np.full((2, 3), np.nan), "text_encoder: 'a': expected a finite vector"),
        (lambda texts: np.zeros((2, 3)), "text_encoder: 'a': expected a vector of a length above 0, found zeros"),
        (lambda texts: np.ones((2, 3)), "expected vectors that tell 2 texts apart, found one for all"),
    ],
)
def test_what_no_encoder_gives_is_refused(encoder, sentence):
    with pytest.raises(ValueError, match=sentence):
        TextVectors(encoder)(["a", "b"])


def test_sound_vectors_are_single_precision():
    assert sound_vector(np.array([0.0, 2.0]), "x").dtype == np.float32
    with pytest.raises(ValueError, match=r"x: expected a finite vector \(D,\), found an array of shape \(1, 2\)"):
        sound_vector(np.ones((1, 2)), "x")
