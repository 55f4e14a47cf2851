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
from helpers import COPY, MISALIGN
from monai.data import DataLoader
from monai.transforms import MapTransform, Randomizable
from scripts.embedder.groups import LevelSampler, PrepareMoved, SliceGroups, SubjectViews, Views, fit_projection
from scripts.images.augmentations import RandCopyd, RandMisalignd

# (series, level) of every slice; the grey value of slice n is n / 16, so that an image tells which one it is
SLICES = [("a", 0.0), ("a", 4.0), ("a", 9.0), ("a", 30.0), ("b", 0.0), ("b", 6.0), ("b", 6.5), ("c", 4.0), (None, None)]


class Add(Randomizable, MapTransform):
    """Adds `value` to the image: a random transform, as far as its interface goes."""

    def __init__(self, value: float) -> None:
        super().__init__("image")
        self.value = value

    def __call__(self, data):
        return {**data, "image": data["image"] + self.value}


def items() -> list[dict]:
    result = []
    for n, (series, level) in enumerate(SLICES):
        item = {"image": torch.full((1, 8, 8), n / 16), "subject_id": f"s{n}"}
        result.append(item if series is None else {**item, "series": series, "level": level})
    return result


def groups(**more) -> SliceGroups:
    return SliceGroups(**{"data": items(), "copy": Add(0), "misalign": Add(0), "seed": 3, **more})


def value(image: torch.Tensor) -> float:
    assert image.shape == (1, 8, 8) and image.dtype == torch.float32
    return float(image.mean())


def test_a_group_is_anchor_neighbour_copies_and_mixture_with_the_label_before_misalignment():
    # values are below 1, copies above 100, misaligned images above 1000
    data = groups(copy=Add(100), misalign=Add(1000), copies=2)
    for index in range(len(data)):
        group = data[index]
        assert isinstance(group, list) and len(group) == 5
        anchor, neighbour, *copies, mixture = (value(entry["label"]) for entry in group)
        assert anchor == index / 16
        assert copies == pytest.approx([anchor + 100] * 2)
        assert 0 <= mixture < 1 and 0 <= neighbour < 1
        for entry in group:
            assert set(entry) == {"image", "label"}
            assert value(entry["image"]) == pytest.approx(value(entry["label"]) + 1000)
        assert value(data.items[index]["image"]) == index / 16  # what the data set holds is not touched


def test_neighbours_are_near_and_of_the_same_series():
    near = {0: {1}, 1: {0, 2}, 2: {1}, 4: {5}, 5: {4, 6}, 6: {5}}
    seen: dict[int, set[int]] = {index: set() for index in near}
    for seed in range(12):
        data = groups(seed=100 * seed)
        for index in near:
            seen[index].add(round(16 * value(data[index][1]["label"])))
    assert seen == near
    assert {round(16 * value(groups(neighbour_mm=100, seed=s)[3][1]["label"])) for s in range(30)} == {0, 1, 2}


def test_an_image_without_a_neighbour_gets_a_mixture_that_is_no_near_duplicate():
    """The anchor itself would be told apart from its copies, which the loss of copies does with neighbours."""
    data = groups(seed=None, mixture=0.4).set_random_state(0)
    # the slice of 8 / 16 mixed with darker ones: by how much is seen where the other is 0
    values = np.array([value(data[8][1]["label"]) for _ in range(300)])
    assert values.min() == pytest.approx((1 - 0.4) * 0.5, abs=0.02)
    others = values[values < 0.4999]  # it may be mixed with itself
    assert len(others) > 200 and others.max() <= 0.5 - 0.2 / 16 + 1e-6


def test_a_mixture_holds_no_more_of_the_other_image_than_told():
    for mixture, least in ((0.0, 0.0), (0.25, 0.15)):
        data = groups(mixture=mixture, seed=None).set_random_state(0)
        # images of 0 and of 8 / 16: the share of the brightest, 8 / 16, is seen in the dark anchor
        shares = [value(data[0][-1]["label"]) / (8 / 16) for _ in range(200)]
        assert max(shares) <= mixture and max(shares) >= least and min(shares) >= 0


def test_a_seed_fixes_every_group_whatever_came_before():
    copy, misalign = RandCopyd("image", **COPY), RandMisalignd("image", **MISALIGN)
    image = torch.rand((1, 24, 24), generator=torch.Generator().manual_seed(0))
    data = [{"image": image, "subject_id": f"{n}"} for n in range(4)]

    def draw(dataset, order):
        found = {index: dataset[index] for index in order}
        return [torch.stack([torch.cat([e["image"], e["label"]]) for e in found[index]]) for index in range(4)]

    first = draw(SliceGroups(data, copy, misalign, seed=7), [0, 1, 2, 3])
    again = draw(
        SliceGroups(data, RandCopyd("image", **COPY), RandMisalignd("image", **MISALIGN), seed=7), [2, 2, 0, 3, 1]
    )
    for a, b in zip(first, again):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert (first[0] != first[1]).any()  # the same image, drawn on its own
    other = draw(SliceGroups(data, copy, misalign, seed=8), range(4))
    assert all((a != b).any() for a, b in zip(first, other))
    free = SliceGroups(data, copy, misalign).set_random_state(0)
    assert (draw(free, range(4))[0] != draw(free, range(4))[0]).any()


def test_volumes_of_slices_and_plain_items_make_one_list_that_the_loader_flattens():
    nested = groups(data=[items()[:3], items()[3], items()[4:]])
    assert len(nested) == len(SLICES) and nested.series == groups().series
    assert nested.series[-1] == "s8"  # no series: the subject
    batches = list(DataLoader(nested, batch_size=4, num_workers=0))
    assert [len(batch["image"]) for batch in batches] == [16, 16, 4]
    torch.testing.assert_close(batches[0]["label"][::4, 0, 0, 0], torch.arange(4) / 16)


def levels(count: int = 400) -> SliceGroups:
    rng = np.random.default_rng(0)
    entry = torch.zeros(1, 8, 8)
    data = [{"image": entry, "subject_id": f"{n}", "level": x} for n, x in enumerate(rng.uniform(0, 100, count))]
    for n, item in enumerate(data):
        item["variant"] = "masked" if n % 3 == 0 else "whole"
    return groups(data=data)


@pytest.mark.parametrize(("share", "together"), [(1.0, 20), (0.6, 12), (0.0, 0)])
def test_a_share_of_every_batch_is_of_one_level_and_variant(share, together):
    data = levels()
    sampler = LevelSampler(data, batch_size=20, batches=30, share=share, band_mm=4.0)
    torch.manual_seed(0)
    indices = list(sampler)
    assert len(indices) == len(sampler) == 600 and set(indices) <= set(range(400))
    spreads = []
    for batch in np.reshape(indices, (30, 20)):
        near, rest = batch[:together], batch[together:]
        if together:
            assert np.ptp(sampler.levels[near]) <= 8 and len(set(sampler.variants[near])) == 1
        spreads += [np.ptp(sampler.levels[rest])] if len(rest) else []
    assert all(spread > 30 for spread in spreads)  # the rest comes from everywhere
    variants = {sampler.variants[index] for index in indices[::20]}
    assert variants == {"masked", "whole"} and np.ptp(sampler.levels[indices]) > 80


def test_sampling_follows_the_global_seed_and_changes_with_every_epoch():
    sampler = LevelSampler(levels(), batch_size=5, batches=4)
    torch.manual_seed(1)
    first, second = list(sampler), list(sampler)
    torch.manual_seed(1)
    assert list(sampler) == first != second


def test_items_without_a_level_are_drawn_uniformly():
    data = groups(data=[{"image": torch.zeros(1, 8, 8), "subject_id": f"{n}"} for n in range(6)])
    sampler = LevelSampler(data, batch_size=30, batches=40, share=1.0)
    torch.manual_seed(2)
    counts = np.bincount(list(sampler), minlength=6)
    assert counts.sum() == 1200 and (np.abs(counts - 200) < 5 * np.sqrt(200 * 5 / 6)).all()  # five deviations


@pytest.mark.parametrize("count", [1, 2])
def test_views_are_the_image_misaligned_anew_each_time(count):
    class Move(Add):
        def __call__(self, data):
            return {**data, "image": data["image"] + 1 + self.R.rand()}

    data = Views([items()[:3], items()[3]], Move(0), count)
    data.set_random_state(0)
    assert len(data) == 4
    seen = [entry for index in range(4) for entry in data[index]]
    assert len(seen) == 4 * count
    assert [value(entry["label"]) for entry in seen] == [n / 16 for n in range(4) for _ in range(count)]
    assert len({value(entry["image"]) - value(entry["label"]) for entry in seen}) == 4 * count


# (subject, variant, level): slice n is again n / 16; "c" has one image, and of "d" no level is known
OF_SUBJECTS = [
    ("a", "whole", 0.0),
    ("a", "whole", 4.0),
    ("a", "whole", 20.0),
    ("a", "masked", 0.0),
    ("b", "whole", 0.0),
]
OF_SUBJECTS += [("b", "whole", 6.0), ("c", "whole", 0.0), ("d", "whole", np.nan), ("d", "whole", np.nan)]


def test_views_of_a_subject_are_near_one_another():
    data = [
        {"image": torch.full((1, 8, 8), n / 16), "subject_id": subject, "variant": variant, "level": level}
        for n, (subject, variant, level) in enumerate(OF_SUBJECTS)
    ]
    views = SubjectViews([data[:3], *data[3:]], Add(1000), 2, neighbour_mm=6.0)
    views.set_random_state(0)
    assert len(views) == 4 and views.group == 2
    seen = {
        (index, *(round(16 * value(one["label"])) for one in views[index])) for index in range(4) for _ in range(60)
    }
    # slices 2 and 3 of "a" have no neighbour, nor has "c"; they stand for themselves
    assert seen == {(0, 0, 1), (0, 1, 0), (0, 2, 2), (0, 3, 3), (1, 4, 5), (1, 5, 4), (2, 6, 6), (3, 7, 8), (3, 8, 7)}
    assert all(value(one["image"]) > 999 for one in views[0])


def test_a_batch_becomes_images_and_what_was_done_to_them():
    data = SliceGroups(items(), RandCopyd("image", **COPY), RandMisalignd("image", **MISALIGN), copies=2, seed=1)
    assert data.group == 5
    batch = next(iter(DataLoader(data, batch_size=2, num_workers=0)))
    images, label = PrepareMoved()(batch, "cpu", False)
    assert set(label) == {"image", "matrix"} and len(images) == 10
    torch.testing.assert_close(images, batch["image"])
    torch.testing.assert_close(label["image"], batch["label"])
    torch.testing.assert_close(label["matrix"], batch["image_misalignment"])
    assert label["matrix"].shape == (10, 2, 3)


def test_the_projection_is_fitted_to_some_training_images():
    class Network(torch.nn.Module):
        def fit_projection(self, images):
            self.images = images

    data, network = groups(), Network()
    fit_projection(network, data, 4, seed=0)
    chosen = [value(image) for image in network.images]
    assert len(set(chosen)) == 4 and set(chosen) <= {n / 16 for n in range(9)}
    fit_projection(network, data, 100, seed=0)
    assert sorted(value(image) for image in network.images) == [n / 16 for n in range(9)]


def test_the_projection_takes_images_though_an_index_is_a_subject():
    class Network(torch.nn.Module):
        def fit_projection(self, images):
            self.images = images

    data = [{**item, "subject_id": "one"} for item in items()]
    network = Network()
    fit_projection(network, SubjectViews(data, Add(0)), 100, seed=0)
    assert len(network.images) == len(data)


def test_a_network_without_a_projection_stays_as_it_is():
    network = torch.nn.Linear(64, 4)
    before = network.weight.clone()
    fit_projection(network, groups(), 4, seed=0)
    torch.testing.assert_close(network.weight, before, rtol=0, atol=0)
