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

"""The bundle's test for the Model Zoo, in the zoo's style: as ci/unit_tests/test_deepssim.py it runs there, too."""

import os
import shutil
import sys
import tempfile
import unittest

import numpy as np
import torch
from monai.bundle import ConfigWorkflow
from monai.utils import set_determinism
from PIL import Image

IN_ZOO = "models/deepssim"
BUNDLE_ROOT = IN_ZOO if os.path.isdir(IN_ZOO) else os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
SUBJECTS = 8
SMALL_TRAINING = {
    "train#trainer#max_epochs": 1,
    "epochs": 1,
    "iterations": 1,
    "groups": 2,
    "num_workers": 0,
    "projection_images": 8,
    "validation_share": 0.25,
}
SMALL_AUDIT = {"control_images": 2, "bends": [], "thumbnails": False}


def write_image(path, seed, shift=0):
    """A bright ellipse with a texture of its own on black, 60 x 52 pixels."""
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[-1:1:60j, -1:1:52j]
    coarse = Image.fromarray((rng.rand(6, 5) * 255).astype(np.uint8)).resize((52, 60), Image.Resampling.BICUBIC)
    image = (0.3 + 0.7 * np.asarray(coarse) / 255) * (y**2 + x**2 < 0.7)
    Image.fromarray((np.roll(image, shift, axis=1) * 255).astype(np.uint8)).save(path)


def check_workflow(workflow, check_properties):
    """As the function of this name in the zoo's ci/unit_tests/utils.py."""
    workflow.initialize()
    if check_properties:
        check_result = workflow.check_properties()
        if check_result is not None and len(check_result) > 0:
            raise ValueError(f"check properties for workflow failed: {check_result}")
    workflow.run()
    workflow.finalize()


class TestDeepSSIM(unittest.TestCase):
    def setUp(self):
        self.dataset_dir = tempfile.mkdtemp()
        self.train_dir, self.generated_dir, self.output_dir = (
            os.path.join(self.dataset_dir, name) for name in ("train", "generated", "output")
        )
        for folder in (self.train_dir, self.generated_dir, self.output_dir):
            os.makedirs(folder)
        for subject in range(SUBJECTS):
            for level in range(2):
                write_image(os.path.join(self.train_dir, f"sub-{subject:02}_z{level}.png"), 10 * subject + level)
        for sample, seed in enumerate([0, 40, 900, 901]):  # two copies, two new ones
            write_image(os.path.join(self.generated_dir, f"sample_{sample}.png"), seed, shift=2)
        self.path, self.umask = list(sys.path), os.umask(0o022)
        sys.path = [BUNDLE_ROOT, *sys.path]  # the bundle's own code

    def tearDown(self):
        sys.path = self.path
        os.umask(self.umask)  # a training narrows it to that of its images
        set_determinism(seed=None)  # and a training sets it
        shutil.rmtree(self.dataset_dir)

    def workflow(self, configs, workflow_type, **override):
        return ConfigWorkflow(
            workflow_type=workflow_type,
            config_file=[os.path.join(BUNDLE_ROOT, "configs", config) for config in configs],
            logging_file=os.path.join(BUNDLE_ROOT, "configs/logging.conf"),
            meta_file=os.path.join(BUNDLE_ROOT, "configs/metadata.json"),
            bundle_root=BUNDLE_ROOT,
            output_dir=self.output_dir,
            **override,
        )

    def test_train_eval_config(self):
        override = {"dataset_dir": self.train_dir, **SMALL_TRAINING}
        check_workflow(self.workflow(["train.json"], "train", **override), check_properties=True)
        checkpoint = os.path.join(self.output_dir, "model.pt")
        state = torch.load(checkpoint, weights_only=True)
        self.assertTrue(all(isinstance(value, torch.Tensor) for value in state.values()))
        override["checkpoint"] = checkpoint
        # evaluate.yaml overrides train.json, so the workflow is "train" rather than "eval"
        check_workflow(self.workflow(["train.json", "evaluate.yaml"], "train", **override), check_properties=True)
        self.assertTrue(os.path.isfile(os.path.join(self.output_dir, "held_out.json")))

    def test_infer_config(self):
        inferrer = self.workflow(["inference.json"], "infer", dataset_dir=self.generated_dir, batch_size=2)
        check_workflow(inferrer, check_properties=True)
        with open(os.path.join(self.output_dir, "embeddings.csv")) as file:
            rows = [line.split(",") for line in file]
        self.assertEqual([os.path.basename(row[0]) for row in rows], [f"sample_{number}.png" for number in range(4)])
        lengths = np.linalg.norm(np.array([row[1:] for row in rows], dtype=float), axis=1)
        np.testing.assert_allclose(lengths, 1, atol=1e-3)

    def test_detect_config(self):
        folders = {"train_dir": self.train_dir, "generated_dir": self.generated_dir}
        auditor = self.workflow(["detect.yaml"], None, **folders, **SMALL_AUDIT)
        check_workflow(auditor, check_properties=False)
        self.assertTrue(os.path.isfile(os.path.join(self.output_dir, "report.json")))


if __name__ == "__main__":
    unittest.main()
