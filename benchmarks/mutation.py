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

"""Change the code in one place at a time: does a test fail? Print a table, and the changes that no test noticed.

The modules and the tests stand in pyproject.toml, under mutmut. `make mutation` installs mutmut and runs this.

python benchmarks/mutation.py [--per_module 30] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from bundle_root import ROOT

NOTICED = ("killed", "timeout")


def drawn(names: list[str], count: int, seed: int, module: str) -> list[str]:
    """Return so many of a module's mutants at random, all where there are no more; other modules do not matter."""
    return sorted(random.Random(f"{seed} {module}").sample(sorted(names), min(count, len(names))))


def table(status: Mapping[str, Mapping[str, str]]) -> str:
    """Return how many mutants of each module were noticed, and of all, from `{module: {mutant: status}}`."""
    rows = [(name, len(of), sum(s in NOTICED for s in of.values())) for name, of in status.items()]
    rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    lines = [f"| {name} | {count} | {noticed} | {count - noticed} |" for name, count, noticed in rows]
    return "\n".join(["| module | mutants | killed | survived |", "|---|---|---|---|", *lines])


def main() -> None:
    """Draw the mutants, run mutmut on them and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per_module", type=int, default=30, help="mutants of a module, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    arguments = parser.parse_args()
    os.chdir(ROOT)  # where mutmut looks for its settings
    # not among the requirements: only for this
    from mutmut.mutation.diff_apply import get_diff_for_mutant
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.stats import status_by_exit_code
    from mutmut.utils.file_utils import walk_mutatable_files
    from mutmut.utils.format_utils import get_mutant_name

    sample: dict[Path, list[str]] = {}
    for file in sorted(walk_mutatable_files()):
        made = mutate_file_contents(str(file), file.read_text(encoding="utf-8")).mutant_names
        if made:
            sample[file] = drawn(
                [get_mutant_name(file, name) for name in made], arguments.per_module, arguments.seed, file.as_posix()
            )
    shutil.rmtree("mutants", ignore_errors=True)  # of another version of the code
    command = [str(Path(sys.executable).parent / "mutmut"), "run", "--max-children", "1"]
    # mutmut forks a process that has run numba, which OpenMP does not allow
    one_thread = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "NUMBA_THREADING_LAYER": "workqueue"}
    names = [name for of in sample.values() for name in of]
    if subprocess.run([*command, *names], env=os.environ | one_thread).returncode:
        sys.exit("mutmut failed")
    status: dict[str, dict[str, str]] = {}
    for file, of in sample.items():
        codes = json.loads(Path("mutants", f"{file}.meta").read_text(encoding="utf-8"))["exit_code_by_key"]
        status[file.as_posix()] = {name: status_by_exit_code[codes[name]] for name in of}
        for name in of:
            if status[file.as_posix()][name] not in NOTICED:
                print(f"\n# {name}: {status[file.as_posix()][name]}\n{get_diff_for_mutant(name, path=file)}")
    print(f"\n{table(status)}")


if __name__ == "__main__":
    main()
