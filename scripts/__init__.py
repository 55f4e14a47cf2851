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

from .auditing.audit import Audit
from .auditing.degradation import RoundTrip
from .auditing.detail import CloseUp
from .auditing.findings import SetFit
from .auditing.fit import FitTest
from .auditing.neighbors import nearest_subjects
from .auditing.result import AuditResult, Tier, Verdict
from .bundle.arguments import check_arguments, run_settings
from .bundle.components import bundle_file, bundle_root, choice, component
from .bundle.errors import run_or_exit
from .bundle.files import file_hashes, keep_private
from .bundle.inferers import AutocastDiffusionInferer, AutocastInferer, AutocastLatentInferer
from .bundle.training import (
    BestModelSaver,
    ClipGradients,
    SameWeights,
    SeededEpochs,
    TrainingProgress,
    WholeFileSaver,
    train_or_exit,
)
from .bundle.weights import load_weights, save_weights
from .bundle.workflow import BundleWorkflow
from .commands import audit, compare, sample, train
from .decision.criteria import Criteria
from .decision.decide import Decision, decide
from .decision.labels import Label
from .decision.null import p_values
from .decision.rates import benjamini_hochberg, leaked_subjects
from .decision.statistic import LocalStatistic, local_statistic
from .detect import AuditData, detect, run_audit
from .embedder.attribution import Explainer, cosine_map, layer_cam
from .embedder.embedder import Embedder
from .embedder.embedding_set import EmbeddingSet
from .embedder.evaluation import held_out_summary
from .embedder.file_loader import ImageError
from .embedder.fingerprint import fingerprint
from .embedder.groups import LevelSampler, PrepareMoved, SliceGroups, SubjectViews, Views, fit_projection
from .embedder.losses import CopyLoss, FingerprintLoss, PairwiseSSIMLoss, PosedLoss, PoseLoss, TwoViewContrastiveLoss
from .embedder.networks import DeepSSIM, Posed
from .embedder.published import PublishedV1, PublishedV2
from .handlers import MemorizationHandler, MemorizationMetricHandler, MemorizationMetricsSaver
from .images.array_augmentations import RandCopy, RandImage, RandMisalign
from .images.augmentations import RandCopyd, RandMisalignd
from .images.correction import Correctd, Correction, Stretchd, ZeroBackgroundd
from .images.datalists import find_images
from .images.demographics import with_people
from .images.foreground import foreground
from .images.loading import LoadFiled, prepared_images
from .images.planar_field import PlanarFieldd, SliceFieldd
from .images.readers import GreyImageReader, image_readers
from .images.slices import AxialSlicesd, PerDimensionalityd, PlanarSliced, ShrinkToFitd, SkullStripd
from .images.subjects import split_subjects, with_and_without_mask
from .images.volume_field import VolumeFieldd, whole_volumes
from .ldm.autoencoder import AutoencoderLoss, LastOutputInferer, ReconstructionInferer
from .ldm.conditions import Condition, tissue_shares
from .ldm.latents import Latents, draw_copies
from .ldm.sampling import LatentModel, Sampler, set_timesteps
from .ldm.text_encoder import TextEncoder
from .ldm.texts import TextVectors
from .lookup import Lookup, LookupAnswer
from .metrics import MemorizationMetric, MemorizationSummary
from .ray_shards import shards_on_ray
from .report.compare import compare_reports
from .report.notebook import ShownResult
from .report.report import Report
from .similarity.ssim import SSIMForm, ssim_cross, ssim_matrix, ssim_pairs
from .similarity.verification import Verifier
from .similarity.volume_verification import VolumeVerifier

__all__ = [
    "Audit",
    "BestModelSaver",
    "ClipGradients",
    "SameWeights",
    "SeededEpochs",
    "TrainingProgress",
    "WholeFileSaver",
    "train_or_exit",
    "AuditData",
    "AuditResult",
    "AutocastDiffusionInferer",
    "AutocastInferer",
    "AutocastLatentInferer",
    "AutoencoderLoss",
    "AxialSlicesd",
    "BundleWorkflow",
    "CloseUp",
    "Condition",
    "CopyLoss",
    "Correctd",
    "Correction",
    "Criteria",
    "Decision",
    "DeepSSIM",
    "Embedder",
    "EmbeddingSet",
    "Explainer",
    "FingerprintLoss",
    "FitTest",
    "GreyImageReader",
    "ImageError",
    "Label",
    "LastOutputInferer",
    "LatentModel",
    "Latents",
    "LevelSampler",
    "LocalStatistic",
    "LoadFiled",
    "Lookup",
    "LookupAnswer",
    "MemorizationHandler",
    "MemorizationMetric",
    "MemorizationMetricHandler",
    "MemorizationMetricsSaver",
    "MemorizationSummary",
    "PairwiseSSIMLoss",
    "PerDimensionalityd",
    "PlanarFieldd",
    "PlanarSliced",
    "Posed",
    "PosedLoss",
    "PublishedV1",
    "PublishedV2",
    "PoseLoss",
    "PrepareMoved",
    "RandCopy",
    "RandCopyd",
    "RandImage",
    "RandMisalign",
    "RandMisalignd",
    "ReconstructionInferer",
    "Report",
    "RoundTrip",
    "Sampler",
    "SetFit",
    "ShownResult",
    "ShrinkToFitd",
    "SkullStripd",
    "SliceFieldd",
    "SliceGroups",
    "SSIMForm",
    "Stretchd",
    "SubjectViews",
    "TextEncoder",
    "TextVectors",
    "TwoViewContrastiveLoss",
    "Tier",
    "Verdict",
    "Verifier",
    "Views",
    "VolumeFieldd",
    "VolumeVerifier",
    "ZeroBackgroundd",
    "audit",
    "benjamini_hochberg",
    "bundle_file",
    "bundle_root",
    "check_arguments",
    "choice",
    "compare",
    "compare_reports",
    "component",
    "cosine_map",
    "decide",
    "detect",
    "draw_copies",
    "file_hashes",
    "find_images",
    "fingerprint",
    "fit_projection",
    "foreground",
    "held_out_summary",
    "image_readers",
    "keep_private",
    "layer_cam",
    "leaked_subjects",
    "load_weights",
    "local_statistic",
    "nearest_subjects",
    "p_values",
    "prepared_images",
    "run_audit",
    "run_or_exit",
    "run_settings",
    "sample",
    "save_weights",
    "set_timesteps",
    "shards_on_ray",
    "split_subjects",
    "ssim_cross",
    "ssim_matrix",
    "ssim_pairs",
    "tissue_shares",
    "train",
    "whole_volumes",
    "with_and_without_mask",
    "with_people",
]
