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

"""DeepSSIM as a MONAI bundle; configs name these as ``_target_: scripts.<Name>``, installed as ``deepssim.<Name>``."""

from .arguments import check_arguments, run_or_exit
from .audit import Audit, AuditResult, Label
from .augmentations import RandCopyd, RandMisalignd
from .autoencoder import AutoencoderLoss, LastOutputInferer, ReconstructionInferer
from .calibration import benjamini_hochberg, leaked_subjects, local_statistic, p_values
from .compare import compare_reports
from .components import bundle_file, choice, component
from .datalists import find_images, split_subjects, with_and_without_mask
from .degradation import RoundTrip
from .detect import AuditData, detect, fingerprint, run_audit
from .embeddings import Embedder, EmbeddingSet, ImageError
from .handlers import MemorizationHandler
from .inferers import AutocastDiffusionInferer, AutocastInferer, AutocastLatentInferer
from .latents import Condition, Latents, draw_copies, planar_slices, tissue_shares
from .losses import CopyLoss, PairwiseSSIMLoss, PosedLoss, PoseLoss, TwoViewContrastiveLoss
from .metrics import MemorizationMetric, MemorizationSummary
from .neighbors import nearest_subjects
from .networks import DeepSSIM, Posed
from .report import Report
from .sampling import LatentModel, Sampler, file_hashes, set_timesteps
from .slices import (
    AxialSlicesd,
    GreyImageReader,
    PerDimensionalityd,
    PlanarSliced,
    ShrinkToFitd,
    SkullStripd,
    foreground,
)
from .ssim import SSIMForm, ssim_cross, ssim_matrix, ssim_pairs
from .training import LevelSampler, PrepareMoved, SliceGroups, Views, fit_projection, held_out_summary
from .verification import Verifier
from .weights import load_weights, save_weights

__all__ = [
    "Audit",
    "AuditData",
    "AuditResult",
    "AutocastDiffusionInferer",
    "AutocastInferer",
    "AutocastLatentInferer",
    "AutoencoderLoss",
    "AxialSlicesd",
    "Condition",
    "CopyLoss",
    "DeepSSIM",
    "Embedder",
    "EmbeddingSet",
    "GreyImageReader",
    "ImageError",
    "Label",
    "LastOutputInferer",
    "LatentModel",
    "Latents",
    "LevelSampler",
    "MemorizationHandler",
    "MemorizationMetric",
    "MemorizationSummary",
    "PairwiseSSIMLoss",
    "PerDimensionalityd",
    "PlanarSliced",
    "Posed",
    "PosedLoss",
    "PoseLoss",
    "PrepareMoved",
    "RandCopyd",
    "RandMisalignd",
    "ReconstructionInferer",
    "Report",
    "RoundTrip",
    "Sampler",
    "ShrinkToFitd",
    "SkullStripd",
    "SliceGroups",
    "SSIMForm",
    "TwoViewContrastiveLoss",
    "Verifier",
    "Views",
    "benjamini_hochberg",
    "bundle_file",
    "check_arguments",
    "choice",
    "compare_reports",
    "component",
    "detect",
    "draw_copies",
    "file_hashes",
    "find_images",
    "fingerprint",
    "fit_projection",
    "foreground",
    "held_out_summary",
    "leaked_subjects",
    "load_weights",
    "local_statistic",
    "nearest_subjects",
    "p_values",
    "planar_slices",
    "run_audit",
    "run_or_exit",
    "save_weights",
    "set_timesteps",
    "split_subjects",
    "ssim_cross",
    "ssim_matrix",
    "ssim_pairs",
    "tissue_shares",
    "with_and_without_mask",
]
