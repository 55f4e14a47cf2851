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
"""MONAI's 2-D DDPM tutorial with a watch for memorization: what a user of MONAI adds to a training of one's own.

python docs/watch_training_ddpm.py [OUTPUT_DIR]

The loop is that of the tutorial (github.com/Project-MONAI/tutorials, generation/2d_ddpm), on the demo's images. Added
are the four blocks that begin with `# added`. It is made for a GPU; docs/watch_training.py is for a processor.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from ignite.handlers import ProgressBar
from monai.data import CacheDataset, DataLoader
from monai.engines import DiffusionPrepareBatch, Evaluator, SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanAbsoluteError, StatsHandler, ValidationHandler, from_engine
from monai.inferers import DiffusionInferer
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler
from monai.networks.utils import eval_mode
from monai.transforms import Compose, RandAffined
from monai.utils import set_determinism

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # not needed where the package is installed: `import deepssim as scripts`

import scripts  # noqa: E402


def main(
    output_dir: str,
    images: int = 48,  # to train on; the others validate
    epochs: int = 75,
    interval: int = 5,
    timesteps: int = 1000,
    batch_size: int = 16,
    samples: int = 32,
    channels: Sequence[int] = (64, 128, 128),
    attention: Sequence[bool] = (False, False, True),  # the tutorial's images of 64 x 64 allow one more
    head_channels: Sequence[int] = (0, 0, 128),
    groups: int = 32,
) -> SupervisedTrainer:
    """Train, measure every few epochs and once more at the end, and return the trainer."""
    set_determinism(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    # added: files with their subjects, and the chain that makes of each an image (1, 96, 112) in [0, 1]
    preprocessing = scripts.component(scripts.bundle_file("configs/inference.yaml"), "preprocessing")
    items = scripts.find_images(ROOT / "demo" / "train")

    move = RandAffined("image", prob=0.5, rotate_range=0.09, translate_range=1, scale_range=0.05, padding_mode="zeros")
    train_data = CacheDataset(items[:images], Compose([preprocessing, move]), progress=False)
    val_data = CacheDataset(items[images:], preprocessing, progress=False)
    train_loader = DataLoader(train_data, batch_size=batch_size, shuffle=True)
    val_loader = DataLoader(val_data, batch_size=batch_size)

    model = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=channels,
        attention_levels=attention,
        num_res_blocks=1,
        num_head_channels=head_channels,
        norm_num_groups=groups,
    ).to(device)
    scheduler = DDPMScheduler(num_train_timesteps=timesteps)
    inferer = DiffusionInferer(scheduler)
    prepare_batch = DiffusionPrepareBatch(num_train_timesteps=timesteps)

    # added: the real images, whose they are, and the embedder; what validates is the null
    network = scripts.component(scripts.bundle_file("configs/inference.yaml"), "network_def")
    embedder = scripts.load_weights(network, scripts.bundle_file("models/model.pt")).to(device)
    real = torch.stack([torch.as_tensor(preprocessing(dict(item))["image"]).float() for item in items])
    ids = [item["subject_id"] for item in items]
    metric = scripts.MemorizationMetric(real[:images], embedder, ids[:images], real[images:], ids[images:])

    def sample() -> torch.Tensor:
        """Return generated images as the metric's: (B, 1, H, W) in [0, 1]."""
        noise = torch.randn(samples, *real.shape[1:], device=device)
        with eval_mode(model):
            return torch.as_tensor(inferer.sample(noise, model, scheduler, verbose=False)).clip(0, 1)

    # added: the handler, which draws images and measures; training ends once surely more than a tenth are copies
    watch = scripts.MemorizationHandler(
        metric,
        sample,
        interval=interval,
        stop_above=0.1,
        output_dir=f"{output_dir}/watch",
        handlers=[StatsHandler(iteration_log=False), scripts.MemorizationMetricsSaver(f"{output_dir}/watch")],
    )

    evaluator = SupervisedEvaluator(
        device=device,
        val_data_loader=val_loader,
        network=model,
        inferer=inferer,
        prepare_batch=prepare_batch,
        key_val_metric={"val_mean_abs_error": MeanAbsoluteError(output_transform=from_engine(["pred", "label"]))},
        val_handlers=[StatsHandler(iteration_log=False)],
    )
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=epochs,
        train_data_loader=train_loader,
        network=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=2.5e-5),
        loss_function=torch.nn.MSELoss(),
        inferer=inferer,
        prepare_batch=prepare_batch,
        train_handlers=[ValidationHandler(validator=evaluator, interval=interval), watch],
    )
    ProgressBar().attach(trainer, output_transform=from_engine("loss", first=True))
    trainer.run()

    # added: the same of an evaluator that only samples, as of a model that is already trained
    audit = Evaluator(
        device=device,
        val_data_loader=range(1),  # batches
        iteration_update=lambda engine, batch: {"pred": sample()},
        key_val_metric={"memorized_rate": scripts.MemorizationMetricHandler(metric)},
        val_handlers=[StatsHandler(iteration_log=False), scripts.MemorizationMetricsSaver(f"{output_dir}/final")],
    )
    audit.run()
    return trainer


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "eval/watch_training_ddpm")
