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

"""The published system: DeepSSIM's two networks as their authors' code builds them, on transformers' ConvNeXt.

Source: github.com/brAIn-science/DeepSSIM, `src/train/embedder_net.py` and `src/utils/gem.py`: version 1 of November
2025, and version 2, which took its place. Written anew from what they compute.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..bundle.weights import State, read_state

__all__ = ["GeM", "PublishedV1", "PublishedV2", "z_scores"]

COLOURS = 3  # channels of ImageNet's images, to which the grey one is repeated
STRIDE = 32  # pixels a side that become one of the last stage
STAGES = "abcd"  # how the authors' version 2 names them


def z_scores(images: torch.Tensor) -> torch.Tensor:
    """Return images (N, C, H, W), or volumes, less their mean, over their standard deviation, each over all pixels.

    The deviation is NumPy's, of the population. A constant image gives zeros; the published code gives NaN.
    """
    axes = tuple(range(1, images.ndim))
    deviation, mean = torch.std_mean(images, axes, correction=0, keepdim=True)
    return (images - mean) / deviation.clamp(min=1e-6)


class GeM(nn.Module):
    """Return the generalised mean over space, (N, C), of maps (N, C, H, W): the p-th root of the mean p-th power.

    Radenovic et al., TPAMI 2019, eq. 3, with one learned `p`; values below `eps` count as `eps`, negative ones too.

    Args:
        p: to begin with; 1 is the mean, infinity the maximum.
        eps: least value, above 0.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p, self.eps = nn.Parameter(torch.full((1,), p)), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # float32 under autocast too: in bfloat16 a power of 3 keeps two digits
        return x.float().clamp(min=self.eps).pow(self.p).mean((2, 3)).pow(1 / self.p)


class _Published(nn.Module):
    """What both versions do alike: z-scores, three channels, ConvNeXt's four stages, a head, unit vectors.

    Images (N, 1, H, W) of at least 32 pixels a side, in any range, become float32 vectors (N, embedding_dim).
    """

    fc: nn.Module

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        stochastic_depth: float,
        imagenet_file: str | os.PathLike | None,
        cuts: Sequence[float],
    ) -> None:
        super().__init__()
        self.cuts = tuple(cuts)
        self.stem, self.stages = _convnext(depths, widths, stochastic_depth)
        if imagenet_file is not None:
            self._load_backbone(imagenet_file)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim != 4 or x.shape[1] != 1 or min(x.shape[2:]) < STRIDE:
            raise ValueError(
                f"images: expected (N, 1, H, W) of at least {STRIDE} pixels a side, found {list(x.shape)}; change "
                "spatial_size of the preprocessing"
            )
        x = z_scores(x.float()).expand(-1, COLOURS, -1, -1)
        maps = list(accumulate(self.stages, lambda last, stage: stage(last), initial=self.stem(x)))[1:]
        return F.normalize(self.fc(self._pooled(maps)).float(), dim=1)

    def _pooled(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Return what the head takes of the stages' maps, (N, C_i, H_i, W_i) each: the last one's."""
        return maps[-1]

    def labels(self, cosine: torch.Tensor) -> torch.Tensor:
        """Return the published labels of cosines: 0 different, 1 similar, 2 duplicate.

        The audit decides otherwise: by alignment and a false-discovery rate.
        """
        return torch.bucketize(cosine, torch.tensor(self.cuts, dtype=cosine.dtype, device=cosine.device))

    def own_names(self, state: State) -> State:
        """Return a state dict of the authors' network, or one of ImageNet's ConvNeXt, under this network's names.

        Names that belong to neither are left as they are.
        """
        backbone = [name for name in self.state_dict() if name.startswith(("stem.", "stages."))]
        for naming in NAMINGS:
            theirs = {naming(name): name for name in backbone}
            if theirs.keys() <= state.keys():
                theirs |= {f"gem_{letter}.p": f"gem.{number}.p" for number, letter in enumerate(STAGES)}
                renamed = {theirs.get(name, name): value for name, value in state.items()}
                # torchvision keeps a block's scale as (C, 1, 1)
                scales = {name: v.flatten() for name, v in renamed.items() if name.endswith("layer_scale_parameter")}
                return renamed | scales
        return state

    def _load_backbone(self, path: str | os.PathLike) -> None:
        state = self.own_names(read_state(path))
        own = self.state_dict()
        for name, value in own.items():
            if name not in state or state[name].shape != value.shape:
                found = "no such weight" if name not in state else f"the shape {list(state[name].shape)}"
                raise ValueError(
                    f"imagenet_file {path}: expected a ConvNeXt as torchvision, timm or transformers name them, "
                    f"{name} of the shape {list(value.shape)}, found {found}; give the file of this size"
                )
        self.load_state_dict({name: state[name] for name in own})


class PublishedV2(_Published):
    """The published network, version 2: GeM of ConvNeXt-Tiny's four stages, concatenated, and a head of two layers.

    LayerNorm - Linear - GELU - dropout - Linear, half as wide in between as what goes in and comes out together.

    Args:
        embedding_dim: length of the vectors.
        dropout: of the head.
        depths, widths: blocks and channels of the four stages.
        stochastic_depth: chance that the last block is left out in training, others less, as torchvision's Tiny.
        imagenet_file: state dict of ImageNet's ConvNeXt, as torchvision, timm or transformers name it; None leaves
            random weights.
        frozen: keep stem and first stage as they are, as published.
        cuts: cosines up to the first are `different`, above the second `duplicate`, as published.

    Raises:
        ModuleNotFoundError: without the package transformers.
        FileNotFoundError, ValueError: if `imagenet_file` is no such file.
    """

    def __init__(
        self,
        embedding_dim: int = 256,
        dropout: float = 0.1,
        depths: Sequence[int] = (3, 3, 9, 3),
        widths: Sequence[int] = (96, 192, 384, 768),
        stochastic_depth: float = 0.1,
        imagenet_file: str | os.PathLike | None = None,
        frozen: bool = True,
        cuts: Sequence[float] = (0.60, 0.85),
    ) -> None:
        super().__init__(depths, widths, stochastic_depth, imagenet_file, cuts)
        self.gem = nn.ModuleList(GeM() for _ in widths)
        total = sum(widths)
        hidden = (total + embedding_dim) // 2
        self.fc = nn.Sequential(
            nn.LayerNorm(total),
            nn.Linear(total, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, embedding_dim),
        )
        if frozen:
            for part in (self.stem, self.stages[0]):
                part.requires_grad_(False)

    def _pooled(self, maps: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([pool(x) for pool, x in zip(self.gem, maps)], dim=1)  # (N, sum of widths)


class PublishedV1(_Published):
    """The published network, version 1: ConvNeXt-Base's last stage, averaged over space, and a head of two layers.

    BatchNorm - Linear - GELU - dropout - Linear.

    Args:
        embedding_dim: length of the vectors.
        dropout: of the head.
        hidden: its width in between.
        depths, widths: blocks and channels of the four stages.
        stochastic_depth: chance that the last block is left out in training, others less, as torchvision's Base.
        imagenet_file: as :class:`PublishedV2`.
        frozen: keep the weights whose name in torchvision's `features` holds the digit 0 or 1, as published. The code
            says 'the first two stages'; of Base it is 58.6 % of the backbone's weights, from all stages.
        cuts: as :class:`PublishedV2`.

    Raises:
        ModuleNotFoundError, FileNotFoundError, ValueError: as :class:`PublishedV2`.
    """

    def __init__(
        self,
        embedding_dim: int = 256,
        dropout: float = 0.33,
        hidden: int = 512,
        depths: Sequence[int] = (3, 3, 27, 3),
        widths: Sequence[int] = (128, 256, 512, 1024),
        stochastic_depth: float = 0.5,
        imagenet_file: str | os.PathLike | None = None,
        frozen: bool = True,
        cuts: Sequence[float] = (0.60, 0.85),
    ) -> None:
        super().__init__(depths, widths, stochastic_depth, imagenet_file, cuts)
        if frozen:
            for name, weight in self.named_parameters():
                weight.requires_grad_(not {"0", "1"} & set(_torchvision(name)))
        self.fc = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.BatchNorm1d(widths[-1]),
            nn.Linear(widths[-1], hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, embedding_dim),
        )


def _convnext(depths: Sequence[int], widths: Sequence[int], stochastic_depth: float) -> tuple[nn.Module, nn.ModuleList]:
    """Return the stem and the four stages of Liu et al., CVPR 2022, with random weights."""
    try:
        from transformers import ConvNextConfig, ConvNextModel  # takes seconds to import
    except ImportError as error:
        raise ModuleNotFoundError(
            "network_def: expected the package transformers for the published networks, found none; "
            "pip install 'transformers>=5.0', or 'deepssim[published]'"
        ) from error
    config = ConvNextConfig(
        num_channels=COLOURS,
        depths=list(depths),
        hidden_sizes=list(widths),
        drop_path_rate=stochastic_depth,
        layer_scale_init_value=1e-6,
    )
    model = ConvNextModel(config)
    return model.embeddings, model.encoder.stages


def _replaced(name: str, parts: Mapping[str, str]) -> str:
    for ours, theirs in parts.items():
        name = name.replace(ours, theirs)
    return name


def _torchvision(name: str) -> str:
    """Return a weight's name in torchvision's `features`: 0 is the stem, odd numbers are stages, even what halves."""
    if name.startswith("stem."):
        return _replaced(name, {"stem.patch_embeddings": "0.0", "stem.layernorm": "0.1"})
    _, stage, kind, rest = name.split(".", 3)
    if kind == "downsampling_layer":
        return f"{2 * int(stage)}.{rest}"
    parts = {".dwconv": ".block.0", ".layernorm": ".block.2", ".pwconv1": ".block.3", ".pwconv2": ".block.5"}
    return f"{2 * int(stage) + 1}.{_replaced(rest, parts | {'layer_scale_parameter': 'layer_scale'})}"


def _authors_v2(name: str) -> str:
    part, rest = _torchvision(name).split(".", 1)
    return f"stage_{STAGES[int(part) // 2]}.{int(part) % 2}.{rest}"


def _timm(name: str) -> str:
    parts = {
        "stem.patch_embeddings": "stem.0", "stem.layernorm": "stem.1", "downsampling_layer": "downsample",
        "layers": "blocks", "dwconv": "conv_dw", "layernorm": "norm", "pwconv1": "mlp.fc1", "pwconv2": "mlp.fc2",
        "layer_scale_parameter": "gamma",
    }  # fmt: skip
    return _replaced(name, parts)


def _transformers(name: str) -> str:
    return "convnext." + _replaced(name, {"stem.": "embeddings.", "stages.": "encoder.stages."})


# how others name a backbone's weights, each by the name here
NAMINGS: tuple[Callable[[str], str], ...] = (
    lambda name: name,
    lambda name: f"features.{_torchvision(name)}",
    lambda name: f"feature_extractor.{_torchvision(name)}",  # the authors' version 1
    _authors_v2,
    _timm,
    _transformers,
    lambda name: _transformers(name).removeprefix("convnext."),
)
