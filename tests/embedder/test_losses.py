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

from __future__ import annotations

import numpy as np
import pytest
import torch
from heads import head
from helpers import MISALIGN
from scipy.ndimage import gaussian_filter
from scripts.embedder.losses import (
    CopyLoss,
    FingerprintLoss,
    PairwiseSSIMLoss,
    PosedLoss,
    PoseLoss,
    TwoViewContrastiveLoss,
)
from scripts.embedder.networks import Estimate
from scripts.images.augmentations import RandMisalignd
from scripts.images.foreground import foreground
from scripts.images.geometry import warp
from skimage.metrics import structural_similarity


@pytest.fixture
def images() -> torch.Tensor:
    """(7, 1, 32, 29) in [0, 1]: unrelated objects, near-copies, an exact copy and an inverted one."""
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.normal(size=(4, 32, 29)), (0, 2, 2))
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    smooth[:, :6] = 0  # background
    near = np.clip(smooth[:1] + 0.03 * rng.normal(size=(1, 32, 29)), 0, 1)
    return torch.from_numpy(np.concatenate([smooth, near, smooth[1:2], 1 - smooth[:1]])).float()[:, None]


@pytest.fixture
def embeddings() -> torch.Tensor:
    vectors = torch.randn((7, 5), generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(vectors, dim=1)


def reference_ssim(images: torch.Tensor, form: str) -> np.ndarray:
    """SSIM of every two images by scikit-image, pair after pair."""
    result = np.eye(len(images))
    masks = foreground(images)[:, 0, 3:-3, 3:-3].numpy()
    x = images[:, 0].double().numpy()
    for i in range(len(x)):
        for j in range(len(x)):
            if i != j:
                ssim = structural_similarity(x[i], x[j], data_range=1.0, full=True)[1][3:-3, 3:-3]
                result[i, j] = ssim[masks[i] | masks[j]].mean() if form == "foreground" else ssim.mean()
    return result


def reference_loss(embeddings, images, form="foreground", bins=10, balance=0.5, power=2) -> float:
    target, e = reference_ssim(images, form), embeddings.double().numpy()
    pairs = [(i, j) for i in range(len(e)) for j in range(i + 1, len(e))]
    bin_of = {pair: min(int(max(target[pair], 0) * bins), bins - 1) for pair in pairs}
    total = weights = 0.0
    for i, j in pairs:
        weight = sum(other == bin_of[i, j] for other in bin_of.values()) ** -balance
        total += weight * abs(e[i] @ e[j] - target[i, j]) ** power
        weights += weight
    return total / weights


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"form": "symmetric"},
        {"form": "published", "bins": 4},
        {"balance": 1.0, "power": 1},
        {"balance": 0.0, "power": 1, "form": "symmetric"},
    ],
)
def test_loss_equals_a_double_loop_over_scikit_image(embeddings, images, arguments):
    got = PairwiseSSIMLoss(**arguments)(embeddings, images)
    assert float(got) == pytest.approx(reference_loss(embeddings, images, **arguments), abs=1e-5)


def test_no_balance_is_the_plain_mean_and_so_is_one_bin(embeddings, images):
    first, second = np.triu_indices(7, 1)
    error = ((embeddings @ embeddings.T).numpy() - reference_ssim(images, "foreground"))[first, second]
    for arguments in ({"balance": 0}, {"bins": 1, "balance": 1}):
        assert float(PairwiseSSIMLoss(**arguments)(embeddings, images)) == pytest.approx((error**2).mean(), abs=1e-5)
    assert float(PairwiseSSIMLoss(balance=1)(embeddings, images)) != pytest.approx((error**2).mean(), rel=0.05)


def test_full_balance_is_the_mean_over_the_occupied_bins(embeddings, images):
    first, second = np.triu_indices(7, 1)
    target = reference_ssim(images, "symmetric")[first, second]
    error = np.abs((embeddings @ embeddings.T).numpy()[first, second] - target)
    bins = np.clip((target * 5).astype(int), 0, 4)
    expected = np.mean([error[bins == b].mean() for b in np.unique(bins)])
    got = PairwiseSSIMLoss(form="symmetric", bins=5, balance=1, power=1)(embeddings, images)
    assert float(got) == pytest.approx(expected, abs=1e-5)


def test_perfect_embeddings_have_no_loss_and_no_others_do(images):
    chosen = images[[0, 1, 2, 4]]  # no two alike: their SSIM matrix is positive definite
    vectors = torch.from_numpy(np.linalg.cholesky(reference_ssim(chosen, "foreground"))).float()
    for power in (1, 2):
        loss = PairwiseSSIMLoss(power=power)
        assert float(loss(vectors, chosen)) == pytest.approx(0, abs=1e-5)
        assert float(loss(vectors[[1, 0, 2, 3]], chosen)) > 1e-3
    copies = images[:1].expand(3, -1, -1, -1)
    assert float(PairwiseSSIMLoss()(torch.eye(3)[[0, 0, 0]], copies)) == pytest.approx(0, abs=1e-5)
    assert float(PairwiseSSIMLoss()(torch.eye(3), copies)) == pytest.approx(1, abs=1e-5)  # cosine 0 where SSIM is 1


def test_the_order_of_a_batch_does_not_matter(embeddings, images):
    order = torch.tensor([3, 6, 0, 5, 1, 4, 2])
    loss = PairwiseSSIMLoss()
    torch.testing.assert_close(loss(embeddings[order], images[order]), loss(embeddings, images))


def test_descent_along_the_gradient_lowers_the_loss(embeddings, images):
    loss, vectors = PairwiseSSIMLoss(), embeddings.clone().requires_grad_()
    before = loss(vectors, images)
    before.backward()
    assert torch.isfinite(vectors.grad).all()
    assert loss(vectors.detach() - 0.1 * vectors.grad, images) < before


def test_images_without_an_object_have_a_finite_loss(embeddings):
    black = torch.zeros(7, 1, 16, 16)
    expected = 1 - (embeddings @ embeddings.T)[tuple(torch.triu_indices(7, 7, 1))]  # equal constants: SSIM 1
    torch.testing.assert_close(PairwiseSSIMLoss()(embeddings, black), (expected**2).mean())


@pytest.mark.parametrize(("vectors", "pictures"), [(1, 1), (0, 0), (3, 2)])
def test_a_batch_of_less_than_two_or_of_two_sizes_is_an_error(embeddings, images, vectors, pictures):
    with pytest.raises(ValueError, match=f"one batch of at least 2, got {vectors} and {pictures}"):
        PairwiseSSIMLoss()(embeddings[:vectors], images[:pictures])


def test_an_unknown_form_is_an_error():
    with pytest.raises(ValueError, match="'colour' is not a valid SSIMForm"):
        PairwiseSSIMLoss(form="colour")


def test_disjoint_pairs_are_those_published(embeddings, images):
    """Two by two, SSIM of the first one's range, every pair alike; a last image without partner is left out."""
    got = PairwiseSSIMLoss("published", bins=1, disjoint=True, data_range=None)(embeddings, images)
    expected = []
    for i in range(0, 6, 2):
        x, y = images[i, 0].double().numpy(), images[i + 1, 0].double().numpy()
        ssim = structural_similarity(x, y, data_range=np.ptp(x), full=True)[1][3:-3, 3:-3].mean()
        expected.append((float(embeddings[i] @ embeddings[i + 1]) - ssim) ** 2)
    assert float(got) == pytest.approx(np.mean(expected), abs=1e-5)


def test_targets_of_z_scores_are_those_of_the_published_code(embeddings, images):
    loss = PairwiseSSIMLoss(form="published", bins=1, disjoint=True, data_range=None, standardize=True)
    x = images[:6, 0].double().numpy()
    scores = [(image - image.mean()) / image.std() for image in x]
    pairs = [(scores[i], scores[i + 1]) for i in (0, 2, 4)]
    target = [structural_similarity(first, second, data_range=np.ptp(first)) for first, second in pairs]
    cosine = (embeddings[0:6:2] * embeddings[1:6:2]).sum(1).double().numpy()
    expected = np.mean((cosine - target) ** 2)
    assert loss(embeddings[:6], images[:6]).item() == pytest.approx(expected, rel=1e-4)
    assert loss(embeddings[:6], images[:6] / 3 + 0.2).item() == pytest.approx(expected, rel=1e-4)


def test_contrastive_loss_is_nt_xent_of_neighbours(embeddings):
    views = embeddings[:6]
    total = 0.0
    for i in range(6):
        partner = i + 1 if i % 2 == 0 else i - 1
        weights = [np.exp(float(views[i] @ views[j]) / 0.2) for j in range(6) if j != i]
        total -= np.log(np.exp(float(views[i] @ views[partner]) / 0.2) / sum(weights))
    assert float(TwoViewContrastiveLoss(0.2)(views)) == pytest.approx(total / 6, abs=1e-4)
    with pytest.raises(ValueError, match="two views of each image, got 7"):
        TwoViewContrastiveLoss()(embeddings)


def at(*degrees: float) -> torch.Tensor:
    """Unit vectors (N, 2) at these angles."""
    angles = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angles.cos(), angles.sin()], 1)


def test_triplets_are_those_of_torch():
    """Every image has one other subject's image nearer than its own subject's, or has to take the nearest."""
    views = at(0, 50, 30, 170)  # two subjects
    chosen = {0: (1, [2]), 1: (0, [2]), 2: (3, [0, 1]), 3: (2, [1])}
    triplet = torch.nn.TripletMarginLoss(margin=0.3, eps=0)
    expected = [
        np.mean([float(triplet(views[[a]], views[[p]], views[[n]])) for n in negatives])
        for a, (p, negatives) in chosen.items()
    ]
    assert float(FingerprintLoss(0.3)(views)) == pytest.approx(np.mean(expected), abs=1e-5)


def test_subjects_that_lie_apart_cost_nothing_and_equal_ones_the_margin():
    apart, equal = at(0, 0, 90, 90, 180, 180), at(0, 0, 0, 0).requires_grad_()
    assert float(FingerprintLoss(0.2)(apart)) == 0
    loss = FingerprintLoss(0.2)(equal)
    loss.backward()
    assert loss.item() == pytest.approx(0.2) and torch.isfinite(equal.grad).all()
    order = torch.tensor([4, 5, 0, 1, 3, 2])
    views = at(0, 20, 40, 10, 200, 30)
    assert float(FingerprintLoss()(views)) == pytest.approx(float(FingerprintLoss()(views[order])), abs=1e-6)


@pytest.mark.parametrize("count", [2, 5])
def test_triplets_need_two_images_of_two_subjects(count):
    with pytest.raises(ValueError, match=f"two images of each of 2 or more subjects, got {count} embeddings"):
        FingerprintLoss()(torch.ones(count, 3))


@pytest.fixture
def moved() -> torch.Tensor:
    """Matrices (24, 2, 3) of misaligned images."""
    transform = RandMisalignd("image", **{**MISALIGN, "affine_prob": 0.9})
    transform.set_random_state(0)
    return torch.stack([transform({"image": torch.zeros(1, 32, 40)})["image_misalignment"] for _ in range(24)])


def perfect(matrix: torch.Tensor, frame: torch.Tensor | None = None) -> Estimate:
    """The estimate that undoes the matrices, up to one `frame` (3, 3) for all images; worked out one by one."""
    orientation, undone = [], []
    for m in np.concatenate([matrix.double(), np.tile([[[0.0, 0, 1]]], (len(matrix), 1, 1))], 1):
        flips = np.diag([*np.sign(np.diag(m[:2, :2])), 1])
        orientation.append((flips[0, 0] < 0) + 2 * (flips[1, 1] < 0))
        undone.append((np.linalg.inv(m @ flips) @ (np.eye(3) if frame is None else frame))[:2])
    chosen, each = torch.tensor(orientation), torch.from_numpy(np.array(undone)).float()[:, None]
    scores = 40 * torch.nn.functional.one_hot(chosen, 4).float()
    return Estimate(scores, each.expand(-1, 4, -1, -1), chosen[:, None], each)


def test_a_perfect_estimate_shows_the_image_upright_and_has_the_least_pose_loss(moved):
    image = torch.rand((1, 1, 5, 7), generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.pad(torch.nn.functional.interpolate(image, (12, 16), mode="bicubic"), (12, 12, 10, 10))
    seen, estimate = warp(image.expand(24, -1, -1, -1), moved), perfect(moved)
    views = torch.stack([seen, seen.flip(2), seen.flip(3), seen.flip(2, 3)], 1)[torch.arange(24), estimate.chosen[:, 0]]
    upright = warp(views, estimate.refined[:, 0])
    assert (upright - image).abs().mean() < 0.2 * (seen - image).abs().mean()
    for group in (1, 4):
        least = float(PoseLoss((32, 40), group)(estimate, moved))
        assert least == pytest.approx(2 * 0.1 / 3, abs=1e-4)  # the square root is smoothed by 0.1 pixels
        torch.manual_seed(0)
        worse = estimate._replace(refined=estimate.refined + 0.05 * torch.randn_like(estimate.refined))
        assert float(PoseLoss((32, 40), group)(worse, moved)) > least + 0.05


def test_pose_loss_is_the_distance_of_points_in_units_of_three_pixels(moved):
    right = perfect(moved)
    shift = torch.tensor([[0.0, 0, 3], [0, 0, 4]])  # 5 pixels
    away = right._replace(coarse=right.coarse + shift, refined=right.refined + shift)
    assert float(PoseLoss((32, 40), 1)(away, moved)) == pytest.approx(10 / 3, abs=0.01)
    # where the right orientation is not followed, nothing is asked of the refinement
    other = away._replace(coarse=right.coarse, chosen=(right.chosen + 1) % 4)
    assert float(PoseLoss((32, 40), 1)(other, moved)) == pytest.approx(0.1 / 3, abs=1e-3)
    wrong = right._replace(scores=torch.zeros(24, 4))
    assert float(PoseLoss((32, 40), 1)(wrong, moved)) == pytest.approx(np.log(4) + 0.2 / 3, abs=1e-3)


def test_a_group_may_choose_its_frame_but_has_to_agree_on_it(moved):
    frame = np.array([[1, -0.1, 2], [0.1, 1, -3], [0, 0, 1]])
    estimate = perfect(moved, frame)
    agreed, alone = PoseLoss((32, 40), 4, 1.0), PoseLoss((32, 40), 4, 0.0)
    estimate = estimate._replace(coarse=perfect(moved).coarse)
    assert float(agreed(estimate, moved)) == pytest.approx(0.2 / 3, abs=1e-3)
    assert float(alone(estimate, moved)) > 1
    half = (torch.arange(24) % 2 == 0)[:, None, None, None]
    mixed = estimate._replace(refined=torch.where(half, estimate.refined, perfect(moved).refined))
    assert float(agreed(mixed, moved)) > 0.5


def test_pose_loss_of_another_number_of_images_is_an_error(moved):
    with pytest.raises(ValueError, match="matrix: expected one for each of 24 images in groups of 5, found 24"):
        PoseLoss((32, 40), 5)(perfect(moved), moved)
    with pytest.raises(ValueError, match="each of 24 images in groups of 1, found 4"):
        PoseLoss((32, 40))(perfect(moved), moved[:4])


def test_the_training_loss_adds_both(moved, embeddings, images):
    estimate, label = perfect(moved[:7]), {"image": images, "matrix": moved[:7]}
    parts = PairwiseSSIMLoss(), PoseLoss((32, 40))
    both = float(PosedLoss(*parts, weight=0.5)((embeddings, estimate), label))
    expected = float(parts[0](embeddings, images)) + 0.5 * float(parts[1](estimate, moved[:7]))
    assert both == pytest.approx(expected)
    alone = PosedLoss(parts[0], None, copy_loss=CopyLoss(7), copy_weight=0.1)  # of a network that estimates no pose
    expected = float(parts[0](embeddings, images)) + 0.1 * float(CopyLoss(7)(embeddings))
    assert float(alone(embeddings, label)) == pytest.approx(expected)


def test_copy_loss_equals_a_loop():
    embeddings = torch.nn.functional.normalize(torch.randn(12, 5, generator=torch.Generator().manual_seed(0)))
    losses = []
    for group in range(3):
        for own, partner in ((0, 2), (2, 0)):
            q, p = 4 * group + own, 4 * group + partner
            others = [n for n in range(12) if n // 4 != group] + [4 * group + 1]  # its neighbour, not its mixture
            logits = [float(embeddings[q] @ embeddings[n]) / 0.2 for n in [p, *others]]
            losses.append(np.log(np.exp(logits).sum()) - logits[0])
    assert float(CopyLoss(4, 0.2)(embeddings)) == pytest.approx(np.mean(losses), rel=1e-5)


def test_copy_loss_is_low_where_copies_alone_are_alike():
    anchors = torch.eye(8)[:3]
    neighbours, mixtures = torch.eye(8)[3:6], anchors
    groups = torch.stack([anchors, neighbours, anchors, mixtures], 1).flatten(0, 1)
    swapped = torch.stack([anchors, anchors, neighbours, mixtures], 1).flatten(0, 1)
    assert CopyLoss(4)(groups) < 0.001 < 5 < CopyLoss(4)(swapped)


def test_loss_of_volumes_is_that_of_scikit_image():
    volumes = torch.from_numpy(np.stack([head(seed)[::2, ::2, ::2] for seed in range(3)]))[:, None]
    vectors = torch.nn.functional.normalize(torch.randn(3, 5), dim=1)
    mask = foreground(volumes[:, 0], dims=3).numpy()
    errors = []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        a, b = volumes[i, 0].numpy(), volumes[j, 0].numpy()
        full = structural_similarity(a, b, data_range=1.0, full=True)[1]
        core = (slice(3, -3),) * 3
        errors.append(float(vectors[i] @ vectors[j]) - full[core][(mask[i] | mask[j])[core]].mean())
    assert float(PairwiseSSIMLoss(bins=1)(vectors, volumes)) == pytest.approx(np.square(errors).mean(), rel=1e-3)


def test_a_perfect_estimate_of_moved_volumes_has_the_least_pose_loss():
    transform = RandMisalignd("image", flip_prob=[0.5, 0, 0], affine_prob=1, rotation=20, shift=4, zoom=(0.9, 1.1))
    transform.set_random_state(0)
    matrix = torch.stack([transform({"image": torch.zeros(1, 8, 8, 8)})["image_misalignment"] for _ in range(12)])
    mirrored = (torch.linalg.det(matrix[:, :, :3]) < 0).long()
    mirror = torch.diag_embed(torch.stack([1.0 - 2 * mirrored, torch.ones(12), torch.ones(12)], 1))
    inverse = torch.linalg.inv(matrix[:, :, :3] @ mirror)
    right = torch.cat([inverse, -inverse @ matrix[:, :, 3:]], 2)
    coarse = torch.stack([right, right], 1)
    scores = 50.0 * torch.nn.functional.one_hot(mirrored, 2)
    chosen = torch.stack([mirrored, 1 - mirrored], 1)
    estimate = Estimate(scores, coarse, chosen, coarse)
    loss = PoseLoss((48, 56, 40), 1, mirrored_axes=(0,))
    assert float(loss(estimate, matrix)) == pytest.approx(2 * 0.1 / 3, abs=1e-3)
    off = estimate._replace(coarse=coarse + torch.tensor([0.0, 0, 0, 3.0])[None, None, None])
    assert float(loss(off, matrix)) == pytest.approx((27**0.5 + 0.1) / 3, abs=0.01)
    assert float(loss(estimate._replace(scores=-scores), matrix)) > 10
