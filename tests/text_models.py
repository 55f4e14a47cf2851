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

"""Text models with random weights in folders as transformers saves them, for tests that embed sentences."""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = "<pad> <start> <end> <unknown> brain mri sex m f age years axial , . % white grey matter".split()
WORDS += [*"0123456789", "cerebrospinal", "fluid"]
SIZE = {"vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 32}
SIZE |= {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer that knows a few words and splits numbers into digits."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unknown>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<start>", eos_token="<end>", unk_token="<unknown>"
    )
    fast.save_pretrained(folder)


def write_clip(folder: Path, dim: int = 512, safe: bool = True) -> Path:
    """Write CLIP's text tower with its projection to `dim` entries, in safetensors or as PyTorch's file."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(0)
    config = CLIPTextConfig(projection_dim=dim, pad_token_id=0, bos_token_id=1, eos_token_id=2, **SIZE)
    return write_model(folder, CLIPTextModelWithProjection(config), safe)


def write_bert(folder: Path) -> Path:
    """Write BERT's encoder."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    return write_model(folder, BertModel(BertConfig(pad_token_id=0, **SIZE)))


def write_model(folder: Path, model: torch.nn.Module, safe: bool = True) -> Path:
    """Write a model and its tokenizer."""
    model.save_pretrained(folder)
    if not safe:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    write_tokenizer(folder)
    return folder
