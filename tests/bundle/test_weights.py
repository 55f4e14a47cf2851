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

from pathlib import Path

import pytest
import torch
from data.make_generative import AUTOENCODER, CHANNELS, CONDITIONS, DIFFUSION
from helpers import ROOT
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from scripts.bundle.files import sha256_of_file
from scripts.bundle.weights import load_weights, save_weights

OLD = ROOT / "tests" / "data" / "generative_0.2.3.pt"


def network(name: str, include_fc: bool) -> torch.nn.Module:
    """MONAI's network of the same architecture, with other weights."""
    torch.manual_seed(1)
    if name == "autoencoder":
        return AutoencoderKL(channels=CHANNELS, include_fc=include_fc, **AUTOENCODER)
    conditions = {"with_conditioning": True, "cross_attention_dim": CONDITIONS} if name == "conditioned" else {}
    return DiffusionModelUNet(channels=CHANNELS, include_fc=include_fc, **DIFFUSION, **conditions)


@pytest.fixture
def old(tmp_path):
    """A function that writes one of the old networks' weights: (path, inputs, output)."""
    found = torch.load(OLD, weights_only=True)

    def write(name: str, change=lambda state: state):
        torch.save(change(found[name]["state"]), tmp_path / "old.pt")
        return tmp_path / "old.pt", found[name]["inputs"], found[name]["output"]

    return write


@pytest.mark.parametrize(
    ("name", "include_fc"),
    [("autoencoder", True), ("autoencoder", False), ("plain", True), ("plain", False), ("conditioned", True)],
)
def test_weights_of_monai_generative_give_its_output(old, name, include_fc):
    path, inputs, expected = old(name)
    loaded = load_weights(network(name, include_fc), path)
    with torch.no_grad():
        got = loaded.reconstruct(**inputs) if name == "autoencoder" else loaded(**inputs)
    assert expected.std() > 0.01
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    assert not loaded.training


def test_monais_own_loader_is_wrong_without_a_word(old):
    # the reason for ours; once MONAI is right, ours can go
    path, inputs, expected = old("autoencoder")
    plain = network("autoencoder", True).eval()
    plain.load_old_state_dict(torch.load(path, weights_only=True))
    with torch.no_grad():
        assert (plain.reconstruct(**inputs) - expected).abs().max() > 1e-3


def test_cross_attention_without_its_projection_is_an_error(old):
    with pytest.raises(ValueError, match="expected a network with include_fc: true"):
        load_weights(network("conditioned", False), old("conditioned")[0])


def test_other_architectures_and_missing_weights_are_errors(old):
    path, _, _ = old("plain", lambda state: {k: v for k, v in state.items() if not k.startswith("out.")})
    with pytest.raises(ValueError, match="expected weights of DiffusionModelUNet as network_def configures it"):
        load_weights(network("plain", True), path)
    with pytest.raises(ValueError, match="expected weights of AutoencoderKL"):
        load_weights(network("autoencoder", True), old("plain")[0])


def test_saved_weights_load_and_nothing_else_is_left(tmp_path):
    first, second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    save_weights(first, tmp_path / "new" / "model.pt")
    load_weights(second, tmp_path / "new" / "model.pt")
    assert torch.equal(first.weight, second.weight)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.pt"]


def test_sha256_of_file_equals_the_published_value(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-4, one-block example
    assert sha256_of_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def small() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(), torch.nn.Linear(4, 2))


def test_weights_are_loaded_bare_or_under_model(tmp_path):
    x, network = torch.rand((2, 3), generator=torch.Generator().manual_seed(1)), small().eval()
    for number, content in enumerate((network.state_dict(), {"model": network.state_dict(), "epoch": 3})):
        torch.save(content, tmp_path / f"{number}.pt")
        fresh = small().train()
        with torch.no_grad():
            assert not torch.equal(fresh(x), network(x))
            got = load_weights(fresh, tmp_path / f"{number}.pt")
            assert got is fresh and not got.training
            torch.testing.assert_close(got(x), network(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1, 2], "expected a state dict, bare or under 'model'"),
        (torch.nn.Linear(7, 2).state_dict(), "expected weights of Linear"),
        (Path("x"), "expected a state dict, found a file that weights_only=True refuses"),
        (b"text", "expected a state dict, found a file that weights_only=True refuses"),
        (b"PK\x03\x04text", "expected weights, found a file that is cut off or damaged"),
        (b"", "expected weights, found an empty file"),
        (None, "expected a file with weights, found none"),
    ],
)
def test_wrong_weights_are_an_error_that_names_the_checkpoint(tmp_path, content, sentence):
    path = tmp_path / "w.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(FileNotFoundError if content is None else ValueError, match=f"w.pt: {sentence}"):
        load_weights(torch.nn.Linear(3, 2), path)
