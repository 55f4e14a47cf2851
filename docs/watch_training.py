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
"""Watch a small diffusion model for memorization while it trains; the same as configs/watch_training.yaml, in Python.

python docs/watch_training.py [OUTPUT_DIR]

It is trained on twenty-four images of the demo; the other subjects, which it never sees, are the null.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from monai.data import DataLoader, Dataset
from monai.engines import DiffusionPrepareBatch, SupervisedTrainer
from monai.handlers import StatsHandler, TensorBoardImageHandler, TensorBoardStatsHandler
from monai.inferers import DiffusionInferer
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from monai.utils import set_determinism
from torch.nn.functional import avg_pool2d, interpolate

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # not needed where the package is installed: `import deepssim as scripts`

import scripts  # noqa: E402


def load_demo() -> tuple[torch.Tensor, list[str]]:
    """Return the demo's training images (N, 1, H, W) in [0, 1] and whose they are."""
    preprocessing = scripts.component(scripts.bundle_file("configs/inference.yaml"), "preprocessing")
    items = scripts.find_images(ROOT / "demo" / "train")
    images = torch.stack([torch.as_tensor(preprocessing(dict(item))["image"]).float() for item in items])
    return images, [item["subject_id"] for item in items]


def load_embedder() -> torch.nn.Module:
    """Return the network that the bundle ships."""
    network = scripts.component(scripts.bundle_file("configs/inference.yaml"), "network_def")
    return scripts.load_weights(network, scripts.bundle_file("models/model.pt"))


def generator() -> DiffusionModelUNet:
    """Return a small diffusion model of images (N, 1, H, W) in [-1, 1]."""
    return DiffusionModelUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=(32, 64, 64),
        attention_levels=(False, False, True),
        num_res_blocks=1,
        num_head_channels=32,
        norm_num_groups=16,
    )


def main(output_dir: str = "eval/watch_training", training_images: int = 24, epochs: int = 60) -> SupervisedTrainer:
    """Train, measure every five epochs, and return the trainer."""
    set_determinism(0)
    images, ids = load_demo()
    seen, unseen = slice(training_images), slice(training_images, None)
    # what the metric needs: real images, whose they are, and an embedder
    metric = scripts.MemorizationMetric(images[seen], load_embedder(), ids[seen], images[unseen], ids[unseen])

    small = avg_pool2d(images[seen], 2) * 2 - 1  # half the size, values in [-1, 1]
    network = generator()
    inferer = DiffusionInferer(DDPMScheduler(num_train_timesteps=1000))
    sampler = DDIMScheduler(num_train_timesteps=1000)
    sampler.set_timesteps(25)

    def sample() -> torch.Tensor:
        """Return generated images as the metric's: (B, 1, H, W) in [0, 1]."""
        drawn = torch.as_tensor(inferer.sample(torch.randn(32, *small.shape[1:]), network, sampler, verbose=False))
        return interpolate(drawn / 2 + 0.5, scale_factor=2, mode="bilinear").clip(0, 1)

    watch = scripts.MemorizationHandler(
        metric,
        sample,
        interval=5,
        stop_above=0.5,
        output_dir=output_dir,
        handlers=[
            StatsHandler(iteration_log=False),
            TensorBoardStatsHandler(log_dir=output_dir, iteration_log=False),
            TensorBoardImageHandler(log_dir=output_dir),
            scripts.MemorizationMetricsSaver(output_dir),  # a row for each generated image
        ],
    )
    data = [{"image": image} for image in small]
    order = torch.utils.data.RandomSampler(data, replacement=True, num_samples=16 * 40)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(Dataset(data), batch_size=16, sampler=order),
        network=network,
        prepare_batch=DiffusionPrepareBatch(num_train_timesteps=1000),
        inferer=inferer,
        loss_function=torch.nn.MSELoss(),
        optimizer=torch.optim.AdamW(network.parameters(), lr=4e-4),
        decollate=False,
        train_handlers=[watch],
    )
    trainer.run()
    return trainer


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "eval/watch_training")
