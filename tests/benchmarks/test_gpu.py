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


"""The check of a GPU passes where the device is the processor itself, and fails where a part differs."""

from __future__ import annotations

import gpu
import pytest
from scripts.images.datalists import find_images

PARTS = {
    "embedder": "0.0e+00",
    "search": "0 of 48 candidates differ",
    "alignment": "by 0.0e+00 at most for copies",
    "ssim": "pairs a second",
}


@pytest.mark.parametrize(("part", "words"), PARTS.items())
def test_the_processor_agrees_with_itself(part, words, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "BATCHES", (8,))
    monkeypatch.setattr(gpu, "PAIRED", 16)
    monkeypatch.setattr(gpu, "SEARCHED", (16, 64, 8))
    monkeypatch.setattr(gpu, "COMPARED", 8)
    monkeypatch.setattr(gpu, "ALIGNED", 3)
    monkeypatch.setattr(gpu, "OTHERS", 1)
    monkeypatch.setattr(gpu, "BLOCKS", (8,))
    monkeypatch.setattr(gpu, "find_images", lambda folder, warn: find_images(folder, warn=warn)[:6])
    assert gpu.main(["--device", "cpu", "--parts", part]) == 0
    printed = capsys.readouterr().out
    assert words in printed and "all parts agree" in printed


def test_a_part_that_differs_or_fails_is_named_and_the_others_run(capsys, monkeypatch):
    def fails(_: str) -> bool:
        raise RuntimeError("no memory")

    monkeypatch.setattr(gpu, "PARTS", {"a": fails, "b": lambda _: False, "c": lambda _: True})
    assert gpu.main(["--device", "cpu"]) == 1
    printed = capsys.readouterr().out
    assert "a: no memory" in printed and "differ or failed: a, b" in printed


def test_without_a_gpu_it_says_that_it_did_not_run(capsys, monkeypatch):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 0 and "not run" in capsys.readouterr().out
