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

import json
import pickle
import sys

import numpy as np
import pytest
import torch
from scripts.ldm.text_encoder import TextEncoder
from text_models import WORDS, write_bert, write_clip, write_model

transformers = pytest.importorskip("transformers", reason="text models need the extra `published`")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:transformers")

TEXTS = ["Brain MRI, sex M, age 36 years", "brain", "Brain MRI, sex F, age 71 years, 12.5% grey matter"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


def test_clips_texts_are_its_projected_embeddings(clip):
    vectors = TextEncoder(clip)(TEXTS)
    assert vectors.shape == (3, 512) and vectors.dtype == np.float32
    model = transformers.CLIPTextModelWithProjection.from_pretrained(clip).eval()
    for text, vector in zip(TEXTS, vectors):  # one at a time, by hand
        words = text.lower().replace(",", " ,").replace("%", " %").replace(".", " . ").split()
        words = [part for word in words for part in (word if word.isdecimal() else [word])]
        tokens = torch.tensor([[1, *(WORDS.index(word) for word in words), 2]])
        with torch.no_grad():
            np.testing.assert_allclose(vector, model(tokens).text_embeds[0].numpy(), rtol=1e-4, atol=1e-5)


def test_of_other_encoders_the_mean_over_a_texts_own_tokens_is_taken(tmp_path):
    folder = write_bert(tmp_path)
    vectors = TextEncoder(folder)(TEXTS)
    model = transformers.BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        alone = model(torch.tensor([[1, WORDS.index("brain"), 2]])).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(vectors[1], alone.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("write", [write_clip, write_bert])
def test_vectors_do_not_depend_on_the_batch(tmp_path, write):
    folder = write(tmp_path)
    together, alone = TextEncoder(folder)(TEXTS), TextEncoder(folder, batch_size=1)(TEXTS)
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_the_weights_may_be_pytorchs_but_run_no_code(tmp_path, clip):
    folder = write_clip(tmp_path / "bin", safe=False)
    np.testing.assert_allclose(TextEncoder(folder)(TEXTS), TextEncoder(clip)(TEXTS), rtol=1e-5, atol=1e-6)
    assert TextEncoder(folder).identity != TextEncoder(clip).identity

    class Harm:
        def __reduce__(self):
            return (tmp_path / "harm").touch, ()

    torch.save({"weight": Harm()}, folder / "pytorch_model.bin")
    with pytest.raises((ValueError, pickle.UnpicklingError)):
        TextEncoder(folder)(TEXTS)
    assert not (tmp_path / "harm").exists()


def test_a_folders_own_classes_are_not_run(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}})
    )
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w')")
    with pytest.raises(ValueError, match="expected a text model, as transformers saves it, found another folder"):
        TextEncoder(tmp_path)(TEXTS)
    assert not (tmp_path / "harm").exists()


def test_a_text_that_would_be_cut_is_refused(clip):
    assert TextEncoder(clip)(["age " * 62]).shape == (1, 512)
    with pytest.raises(ValueError, match="expected texts of at most 64 tokens, found 65 in 'age age .*; shorten text"):
        TextEncoder(clip)(["brain", "age " * 63])


def test_weights_that_the_folder_lacks_are_not_drawn(tmp_path):
    config = transformers.CLIPTextConfig.from_pretrained(write_clip(tmp_path))
    write_model(tmp_path, transformers.CLIPTextModel(config))  # without a projection
    with pytest.raises(
        ValueError, match="expected all weights of CLIPTextModelWithProjection, found none of text_proj"
    ):
        TextEncoder(tmp_path)(TEXTS)


def test_an_encoder_with_a_decoder_is_refused(tmp_path):
    transformers.T5Config(d_model=8, d_ff=8, num_layers=1, num_heads=1, vocab_size=9).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="an encoder with a decoder, t5"):
        TextEncoder(tmp_path)(TEXTS)


def test_a_folder_without_a_model_and_no_transformers_are_errors(tmp_path, clip, monkeypatch):
    with pytest.raises(FileNotFoundError, match="expected the folder of a text model with config.json"):
        TextEncoder(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match="expected the package transformers for a folder, found none"):
        TextEncoder(clip)(TEXTS)
