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

"""Read and write a network's weights; nothing that a file holds is run."""

from __future__ import annotations

import copy
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from .files import replacing, sha256_of_file

__all__ = ["load_weights", "read_state", "save_weights"]

State = Mapping[str, torch.Tensor]


@runtime_checkable
class RenamesWeights(Protocol):
    """A network that knows by which names others keep its weights."""

    def own_names(self, state: State, /) -> State:
        """Return the state dict under the network's own names."""
        ...


def load_weights(network: torch.nn.Module, checkpoint: str | os.PathLike, sha256: str | None = None) -> torch.nn.Module:
    """Return the network with the state dict of `checkpoint`, in evaluation mode.

    Accepts a bare state dict or a dict with one under `model`; read with ``weights_only=True``, so a file from
    elsewhere cannot run code. Of MONAI's AutoencoderKL and DiffusionModelUNet also those that monai-generative 0.2.3
    trained, under its names; of a network that says its weights' names elsewhere, these.

    Args:
        network: of the checkpoint's architecture.
        checkpoint: the file.
        sha256: as :func:`read_state`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no state dict, of another architecture, or not of this SHA-256.
    """
    state = read_state(checkpoint, sha256)
    if isinstance(network, RenamesWeights):
        state = network.own_names(state)
    expected = network.state_dict()
    if hasattr(network, "load_old_state_dict") and expected.keys() != state.keys():
        state = _from_generative(network, state, checkpoint) or state
    other = sorted(expected.keys() ^ state.keys()) or [
        name for name in expected if expected[name].shape != state[name].shape
    ]
    if other:
        raise ValueError(
            f"checkpoint {checkpoint}: expected weights of {type(network).__name__} as network_def configures it, "
            f"found others ({len(other)} names or shapes differ, such as {other[0]}); change network_def or the "
            "checkpoint"
        )
    if broken := [name for name, value in state.items() if not torch.isfinite(value).all()]:
        raise ValueError(f"checkpoint {checkpoint}: expected finite weights, found NaN or infinite ones in {broken[0]}")
    network.load_state_dict(state)
    return network.eval()


def read_state(checkpoint: str | os.PathLike, sha256: str | None = None) -> State:
    """Return the state dict of a file, on the CPU.

    Args:
        checkpoint: a state dict, bare or under `model`.
        sha256: the file's, which alone lets TorchScript be read: it can run code, so who writes its hash down says that
            he trusts the file. None reads state dicts only.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no state dict, or not of this SHA-256.
    """
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(f"checkpoint {checkpoint}: expected a file with weights, found none; check the path")
    if sha256 is not None and (found := sha256_of_file(checkpoint)) != sha256:
        raise ValueError(
            f"checkpoint {checkpoint}: expected the SHA-256 {sha256}, found {found}; give it if you trust the file"
        )
    if sha256 is not None and _is_torchscript(Path(checkpoint)):
        return torch.jit.load(str(checkpoint), map_location="cpu").state_dict()
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (PermissionError, FileNotFoundError):
        raise
    except Exception as error:  # torch names no type, and its own text advises weights_only=False
        raise ValueError(f"checkpoint {checkpoint}: {_refusal(Path(checkpoint))}") from error
    state = state.get("model", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(
            f"checkpoint {checkpoint}: expected a state dict, bare or under 'model', found other content; save "
            "network.state_dict()"
        )
    return state


def _from_generative(
    network: torch.nn.Module, state: State, checkpoint: str | os.PathLike
) -> dict[str, torch.Tensor] | None:
    """Return a state dict of monai-generative 0.2.3 under MONAI's names; None if it is none of this architecture.

    MONAI's own ``load_old_state_dict`` renames. What it does wrong without a word is undone here: it empties the dict
    that it is given, leaves weights random that the file lacks, and applies self-attention's `proj_attn`, which 0.2.3
    defined and never applied (MONAI issues 7991, 8030, 8544). Networks with `use_convtranspose` differ too much.
    """
    probe, left = copy.deepcopy(network), dict(state)
    with torch.no_grad():
        for value in probe.state_dict().values():
            value.fill_(torch.nan if value.is_floating_point() else 0)
    try:
        probe.load_old_state_dict(left)  # type: ignore[operator]  # of two MONAI networks, not of every module
    except (KeyError, RuntimeError):
        return None
    if dropped := [name for name in left if ".to_out.0." in name]:
        raise ValueError(
            f"checkpoint {checkpoint}: expected a network with include_fc: true, as monai-generative 0.2.3 projects "
            f"what cross-attention returns ({dropped[0]}); change network_def"
        )
    converted = probe.state_dict()
    for name, value in converted.items():
        if name.endswith(".attn.out_proj.weight"):
            value.copy_(torch.eye(len(value)))
        elif name.endswith(".attn.out_proj.bias"):
            value.zero_()
    unknown = [name for name in left if ".proj_attn." not in name]
    return None if unknown or any(value.isnan().any() for value in converted.values()) else converted


def _refusal(checkpoint: Path) -> str:
    """Say why torch.load refuses a file, from its first bytes."""
    with checkpoint.open("rb") as file:
        start = file.read(2)
    if not start:
        return "expected weights, found an empty file; copy it again"
    if start == b"PK":  # a zip file: torch's own format
        if _is_torchscript(checkpoint):
            return "expected a state dict, found TorchScript, which could run code; save network.state_dict()"
        if not zipfile.is_zipfile(checkpoint):
            return "expected weights, found a file that is cut off or damaged; copy it again"
    return (
        "expected a state dict, found a file that weights_only=True refuses, as it is damaged or could run code; save "
        "network.state_dict()"
    )


def _is_torchscript(file: Path) -> bool:
    return zipfile.is_zipfile(file) and any("/code/" in name for name in zipfile.ZipFile(file).namelist())


def save_weights(network: torch.nn.Module, path: str | os.PathLike) -> None:
    """Write a network's state dict, on the CPU, for :func:`load_weights`."""
    with replacing(path) as temporary:
        torch.save({name: value.detach().cpu() for name, value in network.state_dict().items()}, temporary)
