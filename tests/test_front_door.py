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

# a table of sentences
# flake8: noqa: B950

"""What a user may get wrong, and the sentence that each mistake gives. The table is the documentation of the errors."""

from __future__ import annotations

import contextlib
import errno
import functools
import gzip
import io
import json
import logging
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import scripts
import torch
from helpers import ROOT, run_config
from PIL import Image

DETECT = str(ROOT / "configs" / "detect.yaml")
pytestmark = [
    pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning"),  # MONAI: parse only what one trusts
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # MONAI's PILReader, of a truncated file
    pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning"),  # runpy
]


@pytest.fixture
def shell(tmp_path, monkeypatch) -> Callable[..., tuple[str, str]]:
    """Runs MONAI's command line in this process, in a folder with `train` and `generated`; returns its last words.

    The folder holds four subjects of the demo, two images each, and three generated images.
    """
    monkeypatch.chdir(tmp_path)
    for name, start, count in (("train", "train", 8), ("generated", "generated", 3)):
        (tmp_path / name).mkdir()
        for path in sorted((ROOT / "demo" / start).iterdir())[:count]:
            shutil.copy(path, tmp_path / name)

    def run(*arguments: str, config: str = DETECT) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["bundle", "run", "--config_file", config, *arguments])
        level = logging.getLogger("scripts").level
        out, error = io.StringIO(), ""
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            try:
                runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
            except SystemExit as stop:
                error = stop.code if isinstance(stop.code, str) else f"exit {stop.code}" if stop.code else ""
            finally:
                logging.getLogger("scripts").setLevel(level)
        return error, out.getvalue()

    return run


INCONCLUSIVE = "exit 3"  # four subjects are too few for an answer
OWN = (
    "--train_dir",
    "train",
    "--generated_dir",
    "generated",
    "--output_dir",
    "out",
    "--control_images",
    "4",
    "--bends",
    "[]",
)

# arguments, then the whole sentence
ARGUMENTS = [
    (("--trian_dir", "x"), "--trian_dir: expected a key of the config, found none of this name; did you mean --train_dir?"),
    (("--thumbnail", "False"), "--thumbnail: expected a key of the config, found none of this name; did you mean --thumbnails?"),
    (("--train_dir", "train"), "--generated_dir: expected beside --train_dir, found none, which would audit the demo; give both"),
    (("--generated_dir", "generated"), "--train_dir: expected beside --generated_dir, found none, which would audit the demo; give both"),
    (("--train_dir", "--generated_dir", "generated"), "--train_dir: expected a path, found True"),
    (("--train_dir", "None", "--generated_dir", "generated"), "--train_dir: expected a value, found None, which MONAI drops in favour of the default; leave the flag out"),
    (("--train_dir", "null", "--generated_dir", "generated"), "--train_dir: expected a path, found 'null'; leave the flag out, or write ./null for a file of that name"),
    (("--train_dir", "2024", "--generated_dir", "generated"), "--train_dir: expected a path, found '2024', which MONAI reads as 2024; write ./2024"),
    (("--train_dir", "1e3", "--generated_dir", "generated"), "--train_dir: expected a path, found '1e3', which MONAI reads as 1000.0; write ./1e3"),
    (("--train_dir", "a,b", "--generated_dir", "generated"), "--train_dir: expected a path, found 'a,b', which MONAI reads as ('a', 'b'); write ./a,b"),
    (("--train_dir", "a#b", "--generated_dir", "generated"), "--train_dir: expected a path, found 'a#b', which MONAI reads as 'a'; use a name or a link without '#'"),
    (("--train_dir", "/a#b", "--generated_dir", "generated"), "--train_dir: expected a path, found '/a#b', which MONAI reads as '/a::b'; use a name or a link without '#'"),
    (("--output_dir", "$out"), "--output_dir: expected a path, found '$out', which MONAI evaluates as it starts with '$' (name 'out' is not defined); write ./$out"),
    (("--output_dir", ""), "--output_dir: expected a path, found ''"),
    (("--holdout_dir", "false"), "--holdout_dir: expected a path, found 'false'; leave the flag out, or write ./false for a file of that name"),
    (("--k", "2.5"), "--k: expected a whole number, found 2.5"),
    (("--k", "None"), "--k: expected a value, found None, which MONAI drops in favour of the default; leave the flag out"),
    (("--fdr", "null"), "--fdr: expected a number, found 'null'"),
    (("--fdr", "5"), "fdr must be in (0, 1), got 5"),
    (("--amp", "false"), "--amp: expected True or False, found 'false'"),
    (("--slice_levels", "12"), "--slice_levels: expected 2 numbers, as \"[12.0, 112.0]\", found 12"),
    (("--control_images", "0"), "control_images must be at least 1, got 0"),
    (("--subject_images", "0"), "subject_images, or part_images of parts, must be at least 1, got 0"),
    (("--array_layout", "NXY"), "array_layout: expected letters for the axes, as NHW, NCHW, NHWC, NXYZ or XYZ, found 'NXY'; N are samples, C channels, HW rows and columns, XYZ or DHW a volume"),
    (("--p_value", "tial"), "p_value must be tail or rank, got 'tial'"),
    (("--on_error", "ignore"), "on_error must be raise or skip, got 'ignore'"),
    (("--max_skipped", "10"), "max_skipped must be a share, 0 to 1, got 10"),
    (("--subject_pattern", "((("), "subject_pattern: expected a regular expression, found '(((' (missing ), unterminated subpattern at position 2)"),
    (("--subject_pattern", "2024"), "--subject_pattern: expected text, found '2024', which MONAI reads as 2024; quote it twice, as \"'...'\""),
    (("--audit::unknown", "3"), "TypeError: Audit.__init__() got an unexpected keyword argument 'unknown'"),
    (("--checkpoint", "no.pt"), "checkpoint no.pt: expected a file with weights, found none; check the path"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "sentence"), ARGUMENTS, ids=[" ".join(a) for a, _ in ARGUMENTS])
def test_wrong_arguments(shell, arguments, sentence):
    assert shell(*arguments) == (f"error: {sentence}", "")
    assert not Path("eval").exists() and not Path("out").exists()


def volume(array: np.ndarray, spacing: float = 2.0) -> nib.Nifti1Image:
    return nib.Nifti1Image(array.astype(np.float32), np.diag([spacing] * 3 + [1.0]))


def ball() -> np.ndarray:
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (60, 70, 60)), indexing="ij")
    return np.where(x**2 + y**2 + z**2 < 0.8, 100 + 30 * x - 20 * y + 40 * z * x, 0)


def truncated_gzip(path: Path) -> None:
    nib.save(volume(ball()), path)
    path.write_bytes(path.read_bytes()[:5000])


def short_gzip(path: Path) -> None:
    """A whole gzip of half a NIfTI file."""
    with gzip.open(path, "wb") as file:
        file.write(volume(ball()).to_bytes()[:9000])


# the generated file's name, how it is made, and the reason in the sentence
FILES = {
    "empty.png": (lambda path: path.touch(), "no reader of .png files takes it"),
    "text.png": (lambda path: path.write_text("x"), "no reader of .png files takes it"),
    "cut.png": (lambda path: path.write_bytes((ROOT / "demo/generated/sample_00.png").read_bytes()[:900]), "damaged"),
    "cut.nii.gz": (truncated_gzip, "end-of-stream marker"),
    "short.nii.gz": (short_gzip, "expected .* bytes, as its header says, found .*; copy it again"),
    "nan.npy": (lambda path: np.save(path, np.where(np.eye(60) > 0, np.nan, 1)), "expected finite values, found NaN"),
    "nan.nii": (
        lambda path: nib.save(volume(np.where(ball() > 0, ball(), np.nan)), path),
        "expected finite values, found NaN",
    ),
    "inf.npy": (lambda path: np.save(path, np.where(np.eye(60) > 0, np.inf, 1)), "expected finite values, found NaN"),
    "pickle.npy": (lambda path: np.save(path, np.array([{}])), "no reader of .npy files takes it"),
    "flat.png": (lambda path: Image.new("L", (64, 64), 7).save(path), "expected an image, found a constant one"),
    "dot.png": (lambda path: Image.new("L", (1, 1), 7).save(path), "expected at least 7 pixels a side, found 1 x 1"),
    "line.npy": (
        lambda path: np.save(path, np.arange(9.0)),
        "expected an image or a stack of them, found an array of 9 numbers",
    ),
    "time.nii": (lambda path: nib.save(volume(np.stack([ball()] * 2, -1)), path), "one channel, found 2"),
    "black.nii": (lambda path: nib.save(volume(np.zeros((60, 70, 60))), path), "shows no object"),
    "small.nii": (lambda path: nib.save(volume(ball()[::4, ::4, ::4]), path), "no slice between .* lower min_foreg"),
    "sagittal.nii": (lambda path: nib.save(volume(ball()[30:31]), path), "found one of another plane"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_cannot_be_audited(shell, name):
    make, reason = FILES[name]
    path = Path("generated", name)
    make(path)
    error, _ = shell(*OWN)
    assert error.startswith(f"error: {path.absolute()}: cannot be audited (")
    assert error.endswith("); repair or exclude the file, or pass --on_error skip")
    assert "\n" not in error
    assert re.search(reason, error), error
    assert not Path("out", "report.html").exists()


def test_files_that_cannot_be_audited_are_skipped_where_asked_for(shell):
    for name, (make, _) in FILES.items():
        make(Path("generated", name))
    error, out = shell(*OWN, "--on_error", "skip", "--max_skipped", "0.9")
    assert error == INCONCLUSIVE and f"Skipped: {len(FILES)} files" in out
    skipped = json.loads(Path("out", "report.json").read_text())["inputs"]["generated"]["skipped"]
    reasons = {entry["id"]: entry["reason"] for entry in skipped}
    assert reasons.keys() == FILES.keys()
    assert not [name for name, (_, reason) in FILES.items() if not re.search(reason, reasons[name])]
    page = Path("out", "report.html").read_text()
    assert not [name for name in FILES if name not in page]
    error, _ = shell(*OWN, "--on_error", "skip")
    assert f"and with it more than 10% of {3 + len(FILES)} files; repair the files or raise max_skipped" in error


def test_a_stack_of_samples_is_audited_and_said(shell):
    samples = np.stack([np.asarray(Image.open(path)) for path in sorted(Path("generated").iterdir())])
    Path("stack").mkdir()
    np.savez("stack/samples.npz", images=samples[:, None] / 127.5 - 1, seeds=np.arange(3))
    error, out = shell(*OWN, "--generated_dir", "stack", "--pseudonymize", "True")
    assert error == INCONCLUSIVE
    assert "Generated images: 3 of .npz stacks; planar, 112 x 96 pixels (rows x columns); values -1 to " in out
    assert (
        "Training images: 8 .png; planar, 112 x 96 pixels (rows x columns), of 6 that were looked at; values 0" in out
    )
    assert "4 subjects, by names of BIDS.\n" in out  # no example: names are hidden
    error, out = shell(*OWN, "--generated_dir", "stack", "--thumbnails", "False")
    assert "  samples.npz: 3 images, N x C x H x W = 3 x 1 x 112 x 96." in out and ".png is sub-" in out
    page = Path("out", "report.html").read_text()
    assert "samples.npz: 3 images, N x C x H x W" in page and "samples.npz#2" in page
    error, _ = shell(*OWN, "--generated_dir", "stack", "--array_layout", "NHW", "--output_dir", "other")
    assert "cannot be audited (expected the axes NHW of array_layout, found 3 x 1 x 112 x 96;" in error


def write_list(text: str) -> str:
    Path("list.csv").write_text(text)
    return "list.csv"


def link(path: str, target: str) -> None:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).symlink_to(Path(target).absolute())


def checkpoint(content, cut: int | None = None) -> str:
    torch.save(content, "w.pt")
    Path("w.pt").write_bytes(Path("w.pt").read_bytes()[:cut])
    return "w.pt"


def script() -> str:
    torch.jit.script(torch.nn.ReLU()).save("w.pt")
    return "w.pt"


def move_output() -> str:
    Path("train", "out").mkdir()
    shutil.copy("train/sub-01_z08.png", "train/out/embedding.png")
    return "train/out"


def nothing(kind: str) -> str:
    Path(kind).mkdir()
    return kind


def notes() -> str:
    Path("scans").mkdir()
    Path("scans", "1.doc").touch()
    return "scans"


def first(path: str = "train") -> str:
    return sorted(Path(path).iterdir())[0].name


# what is wrong, the key, its value made in the folder, and the sentence; {} is the folder
SETTINGS = {
    "no folder": ("train_dir", lambda: "none", "none: expected an existing folder or a .json/.csv/.tsv datalist, found nothing; check the path"),
    "a file as folder": ("train_dir", lambda: "train/" + first(), "train/sub-01_z08.png: expected an existing folder or a .json/.csv/.tsv datalist, found another file; give the folder that it lies in"),
    "an empty folder": ("train_dir", lambda: nothing("empty"), "empty: expected images (.bmp .dcm .dicom .gif .h5 .hdf5 .ima .img .jp2 .jpeg .jpg .mgh .mgz .mha .mhd .nhdr .nii .nii.gz .npy .npz .nrrd .png .pt .tar .tif .tiff .webp), found none; check the folder"),
    "other files": ("train_dir", notes, "scans: expected images (.bmp .dcm .dicom .gif .h5 .hdf5 .ima .img .jp2 .jpeg .jpg .mgh .mgz .mha .mhd .nhdr .nii .nii.gz .npy .npz .nrrd .png .pt .tar .tif .tiff .webp), found none, beside other files (1 .doc); check the folder"),
    "globs that keep none": ("include", lambda: "*.nii", "train: expected images (.bmp .dcm .dicom .gif .h5 .hdf5 .ima .img .jp2 .jpeg .jpg .mgh .mgz .mha .mhd .nhdr .nii .nii.gz .npy .npz .nrrd .png .pt .tar .tif .tiff .webp), found 8, of which include and exclude keep none; check the folder and the globs"),
    "a loop of links": ("train_dir", lambda: link("train/again", "train"), "train/again: expected a folder, found a link to one that it stands in; remove the link"),
    "a dangling link": ("train_dir", lambda: link("train/a.png", "gone.png"), "train/a.png: expected an image, found a link to nothing; fetch the file or remove the link"),
    "train inside generated": ("generated_dir", lambda: ".", "{}/train/sub-01_z08.png: expected a training or a generated image, found it (8 such) in train_dir and in generated_dir; exclude one, or choose folders that do not hold each other"),
    "capitals in a column": ("train_dir", lambda: write_list("Image,Subject_ID\ntrain/sub-01_z08.png,a\n"), "list.csv: expected a column 'image', found 'Image'; rename it"),
    "a key of no array": ("array_key", lambda: "3", "--array_key: expected text, found '3', which MONAI reads as 3; quote it twice, as \"'...'\""),
    "a pattern that misses": ("subject_pattern", lambda: "(?P<subject>P[0-9]+)", "sub-01_z08.png: subject_pattern '(?P<subject>P[0-9]+)' does not match; change the pattern or exclude the file"),
    "a pattern without group": ("subject_pattern", lambda: "sub-[0-9]+", "subject_pattern must have a group named subject, as in '(?P<subject>P[0-9]+)', got 'sub-[0-9]+'"),
    "a list without column": ("train_dir", lambda: write_list("file\na.png\n"), "list.csv: expected a column 'image' with a path, found none in row 1 (columns file); name or fill it"),
    "a list of a missing file": ("train_dir", lambda: write_list("image\na.png\n"), "a.png: expected a file, as list.csv lists it under 'image', found none; correct the list"),
    "a list with a long row": ("train_dir", lambda: write_list("image\na.png,b\n"), "list.csv: expected 1 cells in row 1, as the header has, found 2; quote cells that hold the separator"),
    "a file listed twice": ("train_dir", lambda: write_list("image\ntrain/sub-01_z08.png\n./train/sub-01_z08.png\n"), "list.csv: expected every image once, found train/sub-01_z08.png more than once; remove the repetition"),
    "subjects for some": ("train_dir", lambda: write_list("image, subject_id\ntrain/sub-01_z08.png,\ntrain/sub-02_z08.png, b"), "list.csv: expected a subject for every image or for none, found none for train/sub-01_z08.png; fill it in"),
    "a list in Latin-1": ("train_dir", lambda: Path("l.csv").write_bytes(b"image\n\xe9.png\n") and "l.csv", "l.csv: expected a datalist in UTF-8, found another encoding; save it as UTF-8"),
    "a shared subject": ("holdout_dir", lambda: shutil.copytree("train", "more"), "more: expected subjects that the generator never saw, found 4 of train, such as sub-01; take them out of one of the two"),
    "an unknown group": ("group_column", lambda: "prompt", "sample_00.png: expected a datalist column 'prompt', found none; check group_column"),
    "output inside train": ("output_dir", move_output, "train/out: expected an output_dir that holds no input, found the train image out/embedding.png in it; choose another output_dir"),
    "output below a file": ("output_dir", lambda: "train/sub-01_z08.png/out", "train/sub-01_z08.png/out/embeddings/#: a part of this path is a file; choose another folder"),
    "an empty checkpoint": ("checkpoint", lambda: checkpoint({}, 0), "checkpoint w.pt: expected weights, found an empty file; copy it again"),
    "a truncated one": ("checkpoint", lambda: checkpoint({"a": torch.zeros(9999)}, 9000), "checkpoint w.pt: expected weights, found a file that is cut off or damaged; copy it again"),
    "another architecture": ("checkpoint", lambda: checkpoint({"a": torch.zeros(9)}), "checkpoint w.pt: expected weights of DeepSSIM as network_def configures it, found others (# names or shapes differ, such as a); change network_def or the checkpoint"),
    "another content": ("checkpoint", lambda: checkpoint([1, 2]), "checkpoint w.pt: expected a state dict, bare or under 'model', found other content; save network.state_dict()"),
    "a pickle": ("checkpoint", lambda: checkpoint(Path("x")), "checkpoint w.pt: expected a state dict, found a file that weights_only=True refuses, as it is damaged or could run code; save network.state_dict()"),
    "TorchScript": ("checkpoint", script, "checkpoint w.pt: expected a state dict, found TorchScript, which could run code; save network.state_dict()"),
    "a network of no name": ("network", lambda: "vgg", "network: expected one of deepssim, published_v1, published_v2, got 'vgg'"),
    "another hash": ("checkpoint_sha256", lambda: "ab", "checkpoint #model.pt: expected the SHA-256 ab, found #; give it if you trust the file"),
    "weights that are not finite": ("checkpoint", lambda: checkpoint({k: v * np.nan for k, v in torch.load(ROOT / "models/model.pt", weights_only=True).items()}), "checkpoint w.pt: expected finite weights, found NaN or infinite ones in #"),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_wrong_settings(shell, name):
    key, make, sentence = SETTINGS[name]
    value = make()
    error, out = shell(*OWN, *(() if value is None else (f"--{key}", value)))
    expected = "error: " + sentence.format(os.getcwd())
    for left, right in zip(expected.split("#"), error_parts(error, expected)):
        assert left == right
    assert out == "" and not any(Path(".").rglob("report.html"))


def error_parts(error: str, expected: str) -> list[str]:
    """Cut out of `error` what the wildcards # of `expected` stand for."""
    found = re.fullmatch("(.+)".join(f"({re.escape(part)})" for part in expected.split("#")), error, re.DOTALL)
    assert found, f"\n{error}\n{expected}"
    return list(found.groups())[::2]


TAKES_NO_MORE = {
    errno.ENOSPC: "the disk is full; free some space and run again, what is finished is kept",
    errno.EROFS: "the file system is read-only; choose another output_dir",
    errno.EACCES: "permission denied; change the file's mode or choose another folder",
}


@pytest.mark.parametrize("writer", ["numpy.save", "pathlib.Path.write_text"])
def test_a_disk_that_takes_no_more(shell, monkeypatch, writer):
    """The shells of this suite may be root's, to whom no folder is read-only: the call fails instead."""
    assert shell(*OWN)[0] == INCONCLUSIVE
    before = {path: path.read_bytes() for path in Path("out").iterdir() if path.is_file()}
    for number, sentence in TAKES_NO_MORE.items():

        def fail(*_, number=number, **__):
            raise OSError(number, os.strerror(number), "out/file")

        with monkeypatch.context() as patch:
            patch.setattr(writer, fail)
            error, out = shell(*OWN, "--smoothing", "1.0", "--seed", "3")
        assert (error, out) == (f"error: out/file: {sentence}", "")
        assert {path: path.read_bytes() for path in Path("out").iterdir() if path.is_file()} == before


def test_what_no_user_can_cause_keeps_its_traceback(shell, monkeypatch):
    def fail(*_):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("scripts.Audit.__call__", fail)
    with pytest.raises(RuntimeError):
        shell(*OWN)


def test_verbose_keeps_the_traceback_and_says_more(shell):
    with pytest.raises(RuntimeError, match="Failed to"):
        shell("--verbose", "--checkpoint", "none.pt")
    quiet, loud = (run_config("detect.yaml", Path.cwd(), *OWN, *more) for more in ((), ("--verbose",)))
    assert quiet.stdout == loud.stdout != ""
    assert "%|" not in quiet.stderr and "DEBUG" not in quiet.stderr  # no terminal, no progress bar
    assert "DEBUG train: 8 files of 4 subjects" in loud.stderr and "DEBUG generated: 3 images, 0 of them" in loud.stderr


def test_ctrl_c_is_one_sentence(shell):
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", DETECT, "--output_dir", "out", "--verbose"]
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # jobs in the background inherit deaf ears
    pipes: dict = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "preexec_fn": heard}
    with subprocess.Popen(command, **pipes) as process:
        for line in process.stderr:
            if "null, search and decisions" in line:  # the demo takes seconds from here
                process.send_signal(signal.SIGINT)
                break
        out, error = process.communicate()
    assert process.returncode == 1 and out == ""
    last = error.strip().splitlines()[-1]
    assert last == "error: stopped by the user; what is finished is kept, the same command goes on from there"
    assert "Traceback" not in error and not Path("out", "report.html").exists()


def test_outputs_are_no_wider_than_the_inputs(shell):
    for path in Path("train").iterdir():
        path.chmod(0o640)
    Path("generated", first("generated")).chmod(0o600)
    assert shell(*OWN)[0] == INCONCLUSIVE
    for path in Path("out").rglob("*"):
        if path.name == ".lock":  # always empty
            continue
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    Path("later").touch()
    assert Path("later").stat().st_mode & 0o044  # the process has its own mode back


def test_a_cache_that_others_may_read_is_closed(shell):
    assert shell(*OWN)[0] == INCONCLUSIVE
    Path("out", "embeddings").chmod(0o755)
    Path("train", first()).chmod(0o600)
    assert shell(*OWN)[0] == INCONCLUSIVE
    assert Path("out", "embeddings").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", [".lock", "embeddings", "report.html", "matches.csv"])
def test_a_planted_link_is_refused(shell, name):
    Path("out").mkdir()
    Path("victim").write_text("kept")
    Path("out", name).symlink_to(Path("victim").absolute())
    error, out = shell(*OWN)
    assert error == (
        f"error: out/{name}: expected a file or folder of an audit, found a link to {Path('victim').absolute()}; remove "
        "the link, or choose another output_dir"
    )
    assert out == "" and Path("victim").read_text() == "kept"


def test_pseudonyms_hide_every_name_in_every_output(shell, caplog, capfd):
    shutil.copy(Path("train", first()), "train/sub-88_x.png")  # one person under two ids
    Path("train", "sub-77_x.png").touch()
    Path("generated", first("generated")).rename("generated/like_sub-03_z08.png")
    shutil.copytree("train", "secret/train")
    text = ""
    for hidden in ("True", "False"):
        more = ("--on_error", "skip", "--max_skipped", "0.5", "--pseudonymize", hidden, "--verbose", "True")
        found = shell("--train_dir", "secret/train", *OWN[2:], *more)
        assert found[0] == INCONCLUSIVE
        caught = capfd.readouterr()
        text = "".join((*found, caplog.text, caught.out, caught.err))
        text += "".join(path.read_text() for path in Path("out").iterdir() if path.is_file())
        for name in ("sub-", "secret", os.getcwd()):
            assert (name in text) is (hidden == "False"), name
        caplog.clear()
        shutil.rmtree("out")


def test_what_a_name_could_make_a_terminal_or_a_spreadsheet_do_is_shown(shell):
    evil = "=cmd\x1b[2J\u202egnp.png"
    Path("generated", first("generated")).rename(Path("generated", evil))
    _, out = shell(*OWN, "--seed", "4")
    row = Path("out", "matches.csv").read_text(encoding="utf-8")
    page = Path("out", "report.html").read_text(encoding="utf-8")
    for text in (out, row, page):
        assert "\x1b" not in text and "\u202e" not in text
    assert "'=cmd\\x1b[2J\\u202egnp.png" in row
    Path("generated", evil).write_bytes(b"no image")
    assert "\\x1b" in (error := shell(*OWN)[0]) and "\x1b" not in error


@pytest.mark.parametrize("subjects", [1, 4])
def test_fewer_than_five_subjects_have_no_null(shell, subjects):
    for path in sorted(Path("train").iterdir())[2 * subjects :]:
        path.unlink()
    error, out = shell(*OWN)
    assert error == INCONCLUSIVE and "\nINCONCLUSIVE: copies among 3 generated images could not have" in out
    assert f"There are {subjects} training subjects, and at least 6 are needed." in out
    assert "Null: none, as there are fewer than 6 subjects" in out
    report = json.loads(Path("out", "report.json").read_text())
    assert report["calibration"]["null"] == "none" and report["memorized"]["count"] == 0


def test_overlays_may_have_keys_of_their_own_if_they_use_them(shell):
    Path("mine.yaml").write_text("base: generated\ngenerated_dir: $@base + '/'\ntrain_dir: train\n")
    both = f"['{DETECT}','mine.yaml']"
    error, out = shell("--output_dir", "out", config=both)
    assert error == INCONCLUSIVE and "among 3 generated images" in out
    Path("mine.yaml").write_text("generated_dri: generated\n")
    error, _ = shell(config=both)
    assert error.endswith("did you mean --generated_dir?")


def test_an_expression_needs_a_running_config():
    with pytest.raises(RuntimeError, match="must be called by an expression"):
        scripts.check_arguments(DETECT)


@pytest.mark.parametrize(
    ("config", "arguments", "sentence"),
    [
        ("inference", ("--datset_dir", "x"), "--datset_dir: expected a key of the config, found none of this name; did you mean --dataset_dir?"),
        ("inference", ("--dataset_dir", "x"), "x: expected an existing folder or a .json/.csv/.tsv datalist, found nothing; check the path"),
        ("train", ("--epoch", "2"), "--epoch: expected a key of the config, found none of this name; did you mean --epochs?"),
        ("train", ("--split_file", "x.json"), "x.json: expected a file or folder, found none; check the path"),
        ("planted_copies", ("--draw", "2"), "--draw: expected a key of the config, found none of this name; did you mean --draws?"),
    ],
)  # fmt: skip
def test_every_config_has_the_same_door(shell, config, arguments, sentence):
    assert shell(*arguments, config=str(ROOT / "configs" / f"{config}.yaml"))[0] == f"error: {sentence}"
