from .augmentations import RandCopyd, RandMisalignd
from .components import component
from .datalists import find_images, split_subjects, with_and_without_mask
from .losses import PairwiseSSIMLoss
from .networks import DeepSSIM
from .slices import AxialSlicesd, GreyImageReader, PerDimensionalityd, ShrinkToFrame, SkullStripd, foreground
from .ssim import SSIMForm, ssim_matrix, ssim_pairs
from .training import AutocastInferer, LevelSampler, SliceGroups
