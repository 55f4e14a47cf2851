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
"""Write generative_0.2.3.pt: tiny networks of monai-generative 0.2.3 with their inputs and outputs.

pip install --no-deps monai-generative==0.2.3 && python tests/data/make_generative.py
"""

from pathlib import Path

import torch

AUTOENCODER = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 2,
    "attention_levels": (False, True),
    "num_res_blocks": 1,
    "norm_num_groups": 2,
}
DIFFUSION = {
    "spatial_dims": 2,
    "in_channels": 2,
    "out_channels": 2,
    "attention_levels": (False, True),
    "num_res_blocks": 1,
    "norm_num_groups": 2,
    "num_head_channels": (0, 4),
}
CHANNELS = (2, 4)
CONDITIONS = 3


def main() -> None:
    from generative.networks.nets import AutoencoderKL, DiffusionModelUNet  # an extra: the tests read what it wrote

    torch.manual_seed(0)
    found = {}
    for name, kind, arguments in (
        ("autoencoder", AutoencoderKL, AUTOENCODER),
        ("plain", DiffusionModelUNet, DIFFUSION),
        ("conditioned", DiffusionModelUNet, DIFFUSION | {"with_conditioning": True, "cross_attention_dim": CONDITIONS}),
    ):
        network = kind(num_channels=CHANNELS, **arguments).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(0.3 * torch.randn_like(parameter))
            if name == "autoencoder":
                inputs = {"x": torch.rand(2, 1, 8, 8)}
                output = network.reconstruct(**inputs)
            else:
                inputs = {"x": torch.randn(2, 2, 8, 8), "timesteps": torch.tensor([3, 500])}
                inputs |= {"context": torch.randn(2, 1, CONDITIONS)} if name == "conditioned" else {}
                output = network(**inputs)
        found[name] = {"state": network.state_dict(), "inputs": inputs, "output": output}
    torch.save(found, Path(__file__).with_name("generative_0.2.3.pt"))


if __name__ == "__main__":
    main()
