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

"""The DeepSSIM embedder: an image in, a unit vector out whose inner products are SSIM values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
from monai.networks.nets.resnet import ResNet

__all__ = ["DeepSSIM", "GeM"]


class GeM(nn.Module):
    """Generalised mean over all spatial axes, (B, C, ...) -> (B, C); p = 1 is the mean, large p the maximum.

    Source: Radenovic et al., TPAMI 41(7), 2019, eq. 3; p is learned, one for all channels.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-4) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(p))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # float32 throughout: powers of bfloat16 activations lose the small ones
        p = self.p.float()
        return x.float().clamp(min=self.eps).pow(p).flatten(2).mean(-1).pow(1.0 / p)


class DeepSSIM(ResNet):
    """Embed images (B, 1, H, W) or (B, 1, H, W, D) as unit vectors (B, embedding_dim), float32.

    MONAI's residual network; the generalised means of its four stages are concatenated, as DeepSSIM v2 does
    (arXiv 2509.16582, released code), and projected. Any field size works; one size a data set makes sense.

    Args:
        spatial_dims: 2 or 3.
        embedding_dim: length of the vectors.
        channels: features of the four stages.
        layers: residual blocks of the four stages.
        hidden: width of the projection's hidden layer.
        dropout: share of hidden units dropped in training.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        embedding_dim: int = 256,
        channels: Sequence[int] = (32, 64, 128, 256),
        layers: Sequence[int] = (1, 1, 1, 1),
        hidden: int = 512,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            block="basic",
            layers=list(layers),
            block_inplanes=list(channels),
            spatial_dims=spatial_dims,
            n_input_channels=1,
            conv1_t_size=5,
            conv1_t_stride=2,
            no_max_pool=True,
            feed_forward=False,
            bias_downsample=False,
        )
        self.pools = nn.ModuleList([GeM() for _ in channels])
        width = sum(channels)
        self.head = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, embedding_dim),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.bn1(self.conv1(x)))
        # written out: torch.jit.script follows no loop over modules of different types
        first = self.layer1(x)
        second = self.layer2(first)
        third = self.layer3(second)
        fourth = self.layer4(third)
        pooled = [pool(x) for pool, x in zip(self.pools, (first, second, third, fourth))]  # (B, C, H, W) -> (B, C)
        embedding = self.head(torch.cat(pooled, dim=1))
        return nn.functional.normalize(embedding.float(), dim=1)
