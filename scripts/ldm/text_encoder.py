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

"""Vectors of texts by a text model that lies in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..bundle.files import sha256_of_file

__all__ = ["TextEncoder"]

MODEL_FILES = (".json", ".txt", ".model", ".safetensors", ".bin")  # of a folder that transformers saves
WITHOUT_LIMIT = 10**6  # tokens; a tokenizer that knows no limit says a number far above


class TextEncoder:
    """Vectors of texts by a text model in a local folder, as transformers saves it; nothing is fetched.

    Of CLIP the projected embedding, (N, 512) in its published size; of an encoder such as BERT the mean of the last
    layer over a text's tokens. No code of the folder is run: neither its own classes nor a pickle.

    Args:
        folder: with config.json, the tokenizer's files and the weights, safetensors where there are any.
        batch_size: texts at a time.
        device: that computes.

    Raises:
        FileNotFoundError: if there is no such folder.
    """

    def __init__(self, folder: str | Path, batch_size: int = 64, device: torch.device | str = "cpu") -> None:
        self.folder, self.batch_size, self.device = Path(folder).expanduser(), batch_size, device
        if not (self.folder / "config.json").is_file():
            raise FileNotFoundError(
                f"{folder}: expected the folder of a text model with config.json, as transformers saves it, found "
                "none; check text_encoder"
            )

    @cached_property
    def identity(self) -> str:
        """A hash of the model's files: vectors of another one are not reused."""
        files = sorted(path for path in self.folder.iterdir() if path.suffix in MODEL_FILES and path.is_file())
        return hashlib.sha256("".join(f"{f.name} {sha256_of_file(f)}\n" for f in files).encode()).hexdigest()

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the texts' vectors (N, D).

        Raises:
            ModuleNotFoundError: without the package transformers.
            ValueError: for a folder of another model, or a text that is longer than the model can take, which would be
                cut.
        """
        tokenizer, model, limit = self._loaded
        vectors = []
        for first in range(0, len(texts), self.batch_size):
            batch = list(texts[first : first + self.batch_size])
            tokens = tokenizer(batch, padding=True, return_tensors="pt").to(self.device)
            if (length := int(tokens["attention_mask"].sum(1).max())) > limit:
                longest = batch[int(tokens["attention_mask"].sum(1).argmax())]
                raise ValueError(
                    f"{self.folder}: expected texts of at most {limit} tokens, found {length} in {longest!r}; shorten "
                    "text"
                )
            with torch.no_grad():
                vectors.append(_pooled(model(**tokens), tokens["attention_mask"]).float().cpu())
        return torch.cat(vectors).numpy()

    @cached_property
    def _loaded(self) -> tuple[Any, Any, int]:
        """The tokenizer, the model in evaluation mode, and how many tokens it takes."""
        try:
            import transformers  # only where a model is conditioned on texts
        except ImportError as error:
            raise ModuleNotFoundError(
                "text_encoder: expected the package transformers for a folder, found none; pip install "
                "'transformers>=5.0', or 'deepssim[published]'"
            ) from error
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            config = transformers.AutoConfig.from_pretrained(self.folder, **local)
            if getattr(config, "is_encoder_decoder", False):
                raise ValueError(f"an encoder with a decoder, {config.model_type}")
            tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder, **local)
            clip = config.model_type in ("clip", "clip_text_model")
            kind: Any = transformers.CLIPTextModelWithProjection if clip else transformers.AutoModel
            if clip:
                del local["trust_remote_code"]  # a class of the package
            safe = True if list(self.folder.glob("*.safetensors")) else None
            model, found = kind.from_pretrained(
                self.folder, use_safetensors=safe, weights_only=True, output_loading_info=True, **local
            )
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise ValueError(
                f"{self.folder}: expected a text model, as transformers saves it, found another folder ({reason}); "
                "check text_encoder"
            ) from error
        # of what is not in the file the weights would be random; a pooler is not asked
        if missing := sorted(key for key in found["missing_keys"] if not key.startswith("pooler.")):
            raise ValueError(
                f"{self.folder}: expected all weights of {type(model).__name__}, found none of {missing[0]}; check "
                "text_encoder"
            )
        text = getattr(config, "text_config", None) or config
        limits = (tokenizer.model_max_length, getattr(text, "max_position_embeddings", WITHOUT_LIMIT))
        return tokenizer, model.to(self.device).eval(), int(min(WITHOUT_LIMIT, *limits))


def _pooled(output: Any, mask: torch.Tensor) -> torch.Tensor:
    """Return a vector a text, (N, D), of what a text model gives."""
    if getattr(output, "text_embeds", None) is not None:
        return output.text_embeds
    weight = mask[..., None].to(output.last_hidden_state.dtype)  # (N, L, 1)
    return (output.last_hidden_state * weight).sum(1) / weight.sum(1)
