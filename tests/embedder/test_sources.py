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

import sys

import pytest
from scripts.embedder.sources import Sources

FILES = {
    "__init__.py": "from . import everything\n",
    "everything.py": "",
    "start.py": "from . import sibling\nfrom .sub import name, module\nimport other_package\n",
    "sibling.py": "def late():\n    from .sub.deep import deepest\n    import of_ours.absolute\n",
    "sub/__init__.py": "name = 1\n",
    "sub/module.py": "from ..start import late\nfrom ... import beyond\n",
    "sub/unused.py": "",
    "sub/deep/__init__.py": "",
    "sub/deep/deepest.py": "from ...sibling import late\n",
    "absolute.py": "import of_ours.sub.deep.deepest as again\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Modules that never run: only the one that is added has to be imported."""
    for name, text in FILES.items():
        path = tmp_path / "of_ours" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    module = type(sys)("of_ours.start")
    module.__file__ = str(tmp_path / "of_ours" / "start.py")
    monkeypatch.setitem(sys.modules, "of_ours.start", module)
    return tmp_path / "of_ours"


def test_imports_within_the_package_are_followed_wherever_they_stand(package):
    sources = Sources()
    assert sources.add("of_ours.start")
    found = [line.split()[0].removeprefix("of_ours/") for line in sources.lines()]
    # `from . import sibling` runs the package's own __init__, and what that imports
    assert found == sorted(set(FILES) - {"sub/unused.py"})


def test_a_line_changes_with_its_file_alone(package):
    before, after = Sources(), Sources()
    before.add("of_ours.start")
    (package / "sub" / "module.py").write_text("# edited\n")
    after.add("of_ours.start")
    changed = [a.split()[0] for a, b in zip(before.lines(), after.lines()) if a != b]
    assert changed == ["of_ours/sub/module.py"] and len(before.lines()) == len(after.lines())


def test_of_versioned_libraries_only_the_module_itself_is_read():
    sources = Sources()
    assert sources.add("torch.nn.modules.conv") and sources.add("torch.nn.modules.conv")
    assert [line.split()[0] for line in sources.lines()] == ["torch/nn/modules/conv.py"]


@pytest.mark.parametrize("name", ["json", "builtins", "sys"])
def test_the_standard_library_does_not_count(name):
    sources = Sources()
    assert sources.add(name) and sources.lines() == []


@pytest.mark.parametrize("name", [None, "no.such_module", "torch._C"])
def test_what_has_no_source_is_told(name):
    sources = Sources()
    assert not sources.add(name) and sources.lines() == []


def test_of_a_library_the_module_alone_counts(package, monkeypatch):
    monkeypatch.setattr("scripts.embedder.sources.LIBRARIES", ("of_ours",))
    sources = Sources()
    assert sources.add("of_ours.start")
    assert [line.split()[0] for line in sources.lines()] == ["of_ours/start.py"]
    assert sources.packages() == {"of_ours"}
