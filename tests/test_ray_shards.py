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

"""The shards of an audit as tasks of Ray, on a cluster of two nodes that this machine plays."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import ROOT, run_config
from scripts import ray_shards
from scripts.bundle.shares import Share
from scripts.detect import SHARED_STEPS, AuditData, shared_steps

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs ray; pip install -r requirements-dev.txt"
)
ON_RAY = f"['{ROOT}/configs/detect.yaml','{ROOT}/configs/ray_detect.yaml']"
FEW = ["--control_images", "4", "--bends", "[]", "--thumbnails", "False", "--output_dir", "out"]

# the inferer of an audit whose second shard is killed in its first embedding, once
KILLER = """
import os, signal
from pathlib import Path
from scripts import AutocastInferer

class Killer(AutocastInferer):
    def __init__(self, shard, folder, **keys):
        super().__init__(**keys)
        self.kills, self.folder = shard == "2/2", Path(folder)

    def __call__(self, *arguments, **keys):
        found = super().__call__(*arguments, **keys)
        (self.folder / f"{os.getpid()}.worked").touch()
        if self.kills and not (self.folder / "killed").exists():
            (self.folder / "killed").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return found
"""
KILLED = """
+imports: [$import killer]
inferer: {_target_: killer.Killer, shard: '@shard', folder: FOLDER, enabled: '@amp'}
"""


@pytest.fixture(scope="module", autouse=True)
def niceness():
    """Ray's workers are else the last to be scheduled, and wait for every other test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[str]:
    """A part of the demo: eight training subjects, two images each, and six generated images, two of them copies."""
    folder, flags = tmp_path_factory.mktemp("sets"), []
    for name, count in (("train", 16), ("generated", 6)):
        (folder / name).mkdir()
        for path in sorted((ROOT / "demo" / name).iterdir())[:count]:
            shutil.copy(path, folder / name)
        flags += [f"--{name}_dir", str(folder / name)]
    return [*flags, *FEW]


@pytest.fixture(scope="module")
def alone(folders, tmp_path_factory) -> bytes:
    """matches.csv of one process."""
    cwd = tmp_path_factory.mktemp("alone")
    assert run_config("detect.yaml", cwd, *folders).returncode in (0, 3)
    return (cwd / "out" / "matches.csv").read_bytes()


@pytest.fixture(scope="module")
def cluster():
    """The address of a cluster of two nodes with a core each."""
    import ray
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 100_000_000, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args=small)
    nodes.add_node(**{key: value for key, value in small.items() if key != "include_dashboard"})
    yield nodes.address
    nodes.shutdown()
    assert not ray.is_initialized()


@pytest.mark.slow  # the next one asks the same, and more
@needs_ray
def test_tasks_on_two_nodes_and_then_the_report_are_the_audit_alone(folders, alone, cluster, tmp_path):
    done = run_config(ON_RAY, tmp_path, *folders, "--shards", "2", "--address", cluster)
    assert done.returncode in (0, 3), done.stderr
    assert (tmp_path / "out" / "matches.csv").read_bytes() == alone
    assert done.stdout.count("Report: ") == 1 and "Shard" not in done.stdout
    said = done.stdout + done.stderr
    assert all(f"{step}: shard " in said for step in SHARED_STEPS) and "shard 2/2 is done" in said
    again = run_config(ON_RAY, tmp_path, *folders, "--shards", "2", "--address", "127.0.0.1:1")  # nobody is asked
    assert again.returncode == done.returncode and "shard 2/2" not in again.stdout + again.stderr


@needs_ray
def test_a_killed_process_is_one_more_try_and_the_result_the_same(folders, alone, cluster, tmp_path, monkeypatch):
    (tmp_path / "killer.py").write_text(KILLER)
    (tmp_path / "killed.yaml").write_text(KILLED.replace("FOLDER", str(tmp_path)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    files = ON_RAY.replace("]", f",'{tmp_path}/killed.yaml']")
    done = run_config(files, tmp_path, *folders, "--shards", "2", "--address", cluster)
    assert done.returncode in (0, 3), done.stderr
    victim = int((tmp_path / "killed").read_text())
    workers = {int(path.stem) for path in tmp_path.glob("*.worked")}
    assert victim in workers and len(workers) >= 2 and not Path(f"/proc/{victim}").exists()
    assert (tmp_path / "out" / "matches.csv").read_bytes() == alone


@pytest.mark.slow
@needs_ray
def test_a_process_that_dies_each_time_is_one_sentence(folders, cluster, tmp_path, monkeypatch):
    (tmp_path / "killer.py").write_text(KILLER.replace(".write_text(str(os.getpid()))", ".exists()"))
    (tmp_path / "killed.yaml").write_text(KILLED.replace("FOLDER", str(tmp_path)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    files = ON_RAY.replace("]", f",'{tmp_path}/killed.yaml']")
    done = run_config(files, tmp_path, *folders, "--shards", "2", "--address", cluster, "--retries", "1")
    sentence = "error: shard 2/2: expected it to end, found its process dead 2 times"
    assert done.returncode == 1 and f"\n{sentence}" in f"\n{done.stderr}", done.stderr  # Ray may speak after it


@pytest.mark.slow
@needs_ray
def test_a_shard_that_fails_says_why(folders, cluster, tmp_path):
    generated = Path(folders[folders.index("--generated_dir") + 1])
    shutil.copytree(generated, tmp_path / "generated")
    broken = sorted((tmp_path / "generated").iterdir())[3]
    broken.write_bytes(broken.read_bytes()[:200])
    arguments = [*folders, "--generated_dir", str(tmp_path / "generated"), "--shards", "2", "--address", cluster]
    done = run_config(ON_RAY, tmp_path, *arguments, "--retries", "0")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and re.match(f"error: shard ./2 failed: .*{broken.name}", last), last
    assert "Traceback" not in done.stderr and not (tmp_path / "out" / "report.html").exists()


@needs_ray
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--address", "127.0.0.1:1"], "address: expected local or a running Ray cluster, found none at 127.0.0.1:1"),
        (["--address", "nowhere"], "address: expected local or a running Ray cluster, found none at nowhere"),
        (["--num_gpus", "99"], "num_gpus: expected at most "),
        (["--shards", "0"], "shards: expected a whole number from 1 on, found 0"),
        (["--retries", "some"], "retries: expected a whole number from 0 on, found 'some'"),
        (["--num_gpus", "-1"], "num_gpus: expected a number from 0 on, found -1"),
        (["--window", "16"], "shard: expected window 0 and a store_dir, found other ones"),
        (["--shard", "3/2"], "shard: expected one from 1/2 to 2/2"),
        (["--retires", "2"], "did you mean --retries?"),
    ],
)
def test_what_cannot_be_is_one_sentence(folders, tmp_path, arguments, sentence):
    done = run_config(ON_RAY, tmp_path, *folders, *arguments)
    assert done.returncode == 1 and sentence in done.stderr.strip().splitlines()[-1], done.stderr
    assert "Traceback" not in done.stderr


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"expected the package ray, found none; pip install 'deepssim\[ray\]'"):
        with ray_shards._connected("local", {}):
            pass


def test_an_output_folder_that_is_not_shared_is_one_sentence(folders, tmp_path, monkeypatch):
    class Nothing:
        def __enter__(self):
            return None

        def __exit__(self, *error):
            return None

    ran: list[list[Share]] = []
    monkeypatch.setattr(ray_shards, "LAG", 0.0)
    monkeypatch.setattr(ray_shards, "_connected", lambda *_: Nothing())
    monkeypatch.setattr(ray_shards, "_task", lambda *_: None)
    monkeypatch.setattr(ray_shards, "_do", lambda ray, task, shares, step, retries: ran.append(shares))
    data = AuditData(folders[1], folders[3])
    audit, report = SimpleNamespace(check_share=lambda: None), SimpleNamespace(output_dir=tmp_path / "out")
    options = {"num_cpus": 1, "num_gpus": 0, "retries": 0}
    shared_steps(data.items(), report.output_dir, Share(1, 2)).done(SHARED_STEPS[0])
    with pytest.raises(ValueError, match="expected a folder that all machines of the cluster see, found nothing of 1"):
        ray_shards._run({}, data, audit, report, 2, "local", options)
    assert ran == [[Share(2, 2)]] * ray_shards.LOOKS  # what the folder shows as done is not run


def test_a_task_is_the_config_with_its_shard_in_the_folder_of_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = {"imports": ["$import os"], "shard": None, "said": "@shard", "run": ["$open(@said[0], 'w').close()"]}
    ray_shards._run_shard(config, "3/16", str(tmp_path))
    assert os.listdir(tmp_path) == ["3"] and config["shard"] is None
    with pytest.raises(ValueError, match="^no$"):
        ray_shards._run_shard({**config, "run": ["$(_ for _ in ()).throw(ValueError('no'))"]}, "1/1", str(tmp_path))
    with pytest.raises(OSError, match="nothing.txt: expected a file or folder, found none"):
        ray_shards._run_shard({**config, "run": ["$open('nothing.txt')"]}, "1/1", str(tmp_path))
