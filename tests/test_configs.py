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

"""The real configs, run as a user runs them, on the demo and on tiny files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from helpers import DEMO, ROOT, read, run_config
from monai.bundle import ConfigParser
from PIL import Image, ImageFilter
from scripts import RandMisalign, component, load_weights
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

FEW = ("--control_images", "8", "--bends", "[]", "--null_slices", "1")  # enough where the decisions are not the point


def without_digits(text: str) -> str:
    return re.sub(r"\d+", "#", text)


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """The demo's output folder, made from a folder that is not the bundle's."""
    folder = tmp_path_factory.mktemp("caller")
    result = run_config("detect.yaml", folder)
    assert result.returncode == 0, result.stderr
    return folder / "eval" / "detect", result


def test_demo_finds_the_planted_copies_and_their_sources(demo):
    truth = {row["generated_id"]: row for row in read(ROOT / "demo" / "truth.csv")}
    matches = {row["generated_id"]: row for row in read(demo[0] / "matches.csv")}
    assert matches.keys() == truth.keys()
    copies = {name for name, row in truth.items() if row["train_id"]}
    called = {name for name, row in matches.items() if row["memorized"] == "1"}
    assert called == copies
    for name in copies:
        assert matches[name]["train_id"] == truth[name]["train_id"]
        assert matches[name]["train_subject"] == truth[name]["subject_id"]
        assert float(matches[name]["q_value"]) <= 0.05
        assert matches[name]["label"] in ("similar", "duplicate")


def test_demo_writes_the_contract(demo):
    matches = (demo[0] / "matches.csv").read_text().splitlines()[0]
    assert matches == (
        "generated_id,generated_path,train_id,train_path,train_subject,similarity,aligned_ssim,mirrored,statistic,"
        "p_value,q_value,label,memorized,verdict,part"
    )
    report = json.loads((demo[0] / "report.json").read_text())
    train = report["inputs"]["train"]
    seen = train.pop("understood")
    assert train == {"images": 96, "slices": 96, "subjects": 48, "repeated": [], "skipped": []}
    assert seen["formats"] == {".png": 96} and seen["rule"] == "names of BIDS"
    assert report["calibration"]["null"] == "leave-one-subject-out"
    assert report["calibration"]["n"] == 48
    assert report["memorized"]["count"] == 16
    assert report["leaked_subjects"]["count"] == 16
    assert report["candidates"] == {"count": 0, "ids": []}  # what is called is no candidate
    assert read(demo[0] / "candidates.csv") == []
    assert report["positive_control"]["recall"] >= 0.9
    assert sum(report["labels"].values()) == 40
    assert {"schema_version", "bundle", "checkpoint", "fdr", "set_level", "timing"} <= report.keys()
    assert len(report["checkpoint"]["sha256"]) == 64


def test_reports_fit_their_schema(demo):
    schema = json.loads((ROOT / "configs" / "report.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    report = json.loads((demo[0] / "report.json").read_text())
    jsonschema.validate(report, schema)
    for wrong in ({"fdr": 5}, {"verdict": "private"}, {"checkpoint": {"path": "a", "sha256": "b"}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(report | wrong, schema)


def test_summary_says_what_was_found_and_where_it_lies(demo):
    for words in ("Copies: 16. Likenesses: 0. Of 40", "leaked: 16 of 48", "Positive control:", "report.html"):
        assert words in demo[1].stdout


def test_readme_shows_lines_of_the_real_output(demo):
    """Which pairs are strongest, how they lie and all digits may differ between processors; the sentences may not."""
    block = (ROOT / "README.md").read_text().split("$ make detect\n")[1].split("```")[0]
    shown, real = (
        [without_digits(line.replace(" mirrored,", "")) for line in text.strip("\n").splitlines()]
        for text in (block, demo[1].stdout)
    )
    assert len(shown) == 5
    places = [real.index(line) for line in shown]
    assert places == sorted(places) and places[0] == 2 and places[-1] == len(real) - 1  # after what was understood
    assert any("<-" in line for line in shown) and any("Positive control" in line for line in shown)


def test_report_is_self_contained_and_shows_pairs(demo):
    page = (demo[0] / "report.html").read_text()
    assert "http:" not in page and "https:" not in page
    assert page.count('alt="training, aligned"') >= 16
    assert "patient data" in page


@pytest.mark.slow
def test_second_run_embeds_nothing_and_finds_the_same(demo, tmp_path):
    shutil.copytree(demo[0], tmp_path / "again")
    result = run_config("detect.yaml", tmp_path, "--output_dir", "again")
    assert result.returncode == 0, result.stderr
    first, second = (json.loads((folder / "report.json").read_text()) for folder in (demo[0], tmp_path / "again"))
    assert second["timing"]["embedded"] == 0 < first["timing"]["embedded"]
    assert (demo[0] / "matches.csv").read_text() == (tmp_path / "again" / "matches.csv").read_text()


def test_pseudonyms_and_no_thumbnails(demo, tmp_path):
    shutil.copytree(demo[0], tmp_path / "again")
    result = run_config(
        "detect.yaml", tmp_path, "--output_dir", "again", "--pseudonymize", "True", "--thumbnails", "False", *FEW
    )
    assert result.returncode == 0, result.stderr
    for name in ("matches.csv", "report.json", "report.html"):
        assert not re.search(r"sub-\d\d", (tmp_path / "again" / name).read_text()), name
    assert 'alt="training' not in (tmp_path / "again" / "report.html").read_text()


def test_copies_of_parts_are_looked_for(tmp_path):
    """The left half of a training image in a new image, and two new images."""
    new = [row["generated_id"] for row in read(ROOT / "demo" / "truth.csv") if not row["train_id"]][:3]
    (tmp_path / "generated").mkdir()
    for name in new:
        pixels = np.asarray(Image.open(ROOT / "demo" / "generated" / name)).copy()
        if name == new[0]:
            half = pixels.shape[1] // 2
            pixels[:, :half] = np.asarray(Image.open(ROOT / "demo" / "train" / "sub-16_z08.png"))[:, :half]
        Image.fromarray(pixels).save(tmp_path / "generated" / name)
    folders = ("--train_dir", DEMO["train_dir"], "--generated_dir", "generated")
    quick = ("--parts_k", "12", "--part_images", "1", *FEW)
    result = run_config("detect.yaml", tmp_path, *folders, "--window", "16", "--output_dir", "out", *quick)
    assert result.returncode == 0, result.stderr
    first, *others = read(tmp_path / "out" / "matches.csv")
    assert first["train_id"] == "sub-16_z08.png" and first["memorized"] == "1"
    row, column, side = map(int, first["part"].split())
    assert side in (16, 20, 24) and row + side / 2 < 48, "in the left half"
    assert [row["memorized"] for row in others] == ["0", "0"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    jsonschema.validate(report, json.loads((ROOT / "configs" / "report.schema.json").read_text()))
    assert [part["pixels"] for part in report["positive_control"]["parts"]] == [20, 30]
    assert "copies of parts of training images, 30 pixels wide, would have been called" in result.stdout
    assert "The yellow square is the part that decided" in (tmp_path / "out" / "report.html").read_text()


def test_markup_in_file_names_is_escaped(tmp_path):
    generated = tmp_path / "generated"
    generated.mkdir()
    for number, source in enumerate(sorted((ROOT / "demo" / "generated").iterdir())[:3]):
        shutil.copy(source, generated / f"{number}<b>x.png")
    result = run_config(
        "detect.yaml",
        tmp_path,
        "--train_dir",
        DEMO["train_dir"],
        "--generated_dir",
        str(generated),
        "--output_dir",
        "out",
        *FEW,
    )
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<b>x" not in page and "&lt;b&gt;x" in page


@pytest.mark.slow
def test_unreadable_file_is_one_sentence_or_skipped(tmp_path):
    generated = tmp_path / "generated"
    shutil.copytree(ROOT / "demo" / "generated", generated)
    (generated / "broken.png").write_bytes(b"no image")
    arguments = ["--train_dir", DEMO["train_dir"], "--generated_dir", str(generated), "--output_dir", "out", *FEW]
    result = run_config("detect.yaml", tmp_path, *arguments)
    assert result.returncode == 1
    assert "broken.png" in result.stderr.splitlines()[-1] and "on_error" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "report.html").exists()
    result = run_config("detect.yaml", tmp_path, *arguments, "--on_error", "skip")
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [entry["id"] for entry in report["inputs"]["generated"]["skipped"]] == ["broken.png"]


def test_holdout_gives_the_null(tmp_path):
    """Subjects 25 to 48 of the demo as holdout: copies of the others are still found, none of the new images."""
    items = sorted((ROOT / "demo" / "train").iterdir())
    for name, part in (("train", items[:48]), ("holdout", items[48:])):
        (tmp_path / name).mkdir()
        for path in part:
            shutil.copy(path, tmp_path / name)
    result = run_config(
        "detect.yaml",
        tmp_path,
        "--train_dir",
        "train",
        "--generated_dir",
        DEMO["generated_dir"],
        "--holdout_dir",
        "holdout",
        "--output_dir",
        "out",
        *("--bends", "[]", "--control_images", "20", "--thumbnails", "False"),
    )
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "out" / "report.json").read_text())["calibration"]
    assert found["null"] == "holdout" and found["leave_one_out"]["agrees"]
    assert found["leave_one_out"]["calls"] == pytest.approx(found["calls"]["tail"], abs=2)
    truth = {row["generated_id"]: row["subject_id"] for row in read(ROOT / "demo" / "truth.csv")}
    planted = {name for name, subject in truth.items() if subject and int(subject[4:]) <= 24}
    called = {row["generated_id"] for row in read(tmp_path / "out" / "matches.csv") if row["memorized"] == "1"}
    assert len(called & planted) >= 0.8 * len(planted)
    assert len(called - planted) <= 1


@pytest.mark.slow
def test_null_passes_the_generators_autoencoder_by_an_overlay(tmp_path):
    autoencoder = {
        "_target_": "AutoencoderKL", "spatial_dims": 2, "in_channels": 1, "out_channels": 1, "channels": [4, 4],
        "latent_channels": 1, "num_res_blocks": 1, "norm_num_groups": 2, "attention_levels": [False, False],
        "with_encoder_nonlocal_attn": False, "with_decoder_nonlocal_attn": False,
    }  # fmt: skip
    overlay = {"null_transform": {"_target_": "scripts.RoundTrip", "autoencoder": autoencoder}}
    (tmp_path / "overlay.json").write_text(json.dumps(overlay))
    files = f"['{ROOT / 'configs' / 'detect.yaml'}','overlay.json']"
    result = run_config(files, tmp_path, "--output_dir", "out", *FEW)
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["calibration"]["null_transform"] == "RoundTrip"
    assert "RoundTrip, then blur" in (tmp_path / "out" / "report.html").read_text()
    jsonschema.validate(report, json.loads((ROOT / "configs" / "report.schema.json").read_text()))


def test_copies_are_found_among_images_that_were_saved_in_another_way(demo, tmp_path):
    """Turned and inverted arrays, as a sampling script leaves them, in place of the demo's pictures."""
    (tmp_path / "generated").mkdir()
    for path in (ROOT / "demo" / "generated").iterdir():
        picture = np.asarray(Image.open(path), np.float32)
        np.save(tmp_path / "generated" / f"{path.stem}.npy", 1 - 2 * np.rot90(picture)[..., None] / 255)  # in [-1, 1]
    result = run_config(
        "detect.yaml", tmp_path, "--train_dir", DEMO["train_dir"], "--generated_dir", "generated", "--output_dir",
        "out", "--bends", "[]", "--control_images", "20", "--thumbnails", "False",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert [line.split(":")[0] for line in result.stdout.splitlines()].count("Undone") == 2

    def called(folder: Path) -> dict[str, str]:
        rows = read(folder / "matches.csv")
        return {row["generated_id"].split(".")[0]: row["train_id"] for row in rows if row["memorized"] == "1"}

    assert called(tmp_path / "out") == called(demo[0])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["verdict"] == "copies" and report["fit"]["correction"]["transposed"]
    assert [finding["kind"] for finding in report["fit"]["findings"]] == ["orientation", "polarity"]
    jsonschema.validate(report, json.loads((ROOT / "configs" / "report.schema.json").read_text()))


def test_too_few_subjects_call_nothing(tmp_path):
    (tmp_path / "train").mkdir()
    for path in sorted((ROOT / "demo" / "train").iterdir())[:8]:
        shutil.copy(path, tmp_path / "train")
    result = run_config(
        "detect.yaml", tmp_path, "--train_dir", "train", "--generated_dir", DEMO["generated_dir"], "--output_dir", "out"
    )
    assert result.returncode == 3, result.stderr
    matches = read(tmp_path / "out" / "matches.csv")
    assert {row["p_value"] for row in matches} == {"1.0"}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["calibration"]["null"] == "none"
    jsonschema.validate(report, json.loads((ROOT / "configs" / "report.schema.json").read_text()))


def test_inference_writes_a_vector_an_image(tmp_path):
    result = run_config("inference.yaml", tmp_path, "--output_dir", str(tmp_path))
    assert result.returncode == 0, result.stderr
    rows = [line.split(",") for line in (tmp_path / "embeddings.csv").read_text().splitlines()]
    assert len(rows) == 40
    vectors = np.array([row[1:] for row in rows], float)
    assert vectors.shape == (40, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)


def test_training_begins_with_given_weights(tmp_path):
    """With next to no learning rate they stay what they were, the projection too."""
    shipped = ROOT / "models" / "model.pt"
    small = ["--epochs", "1", "--iterations", "1", "--groups", "4", "--num_workers", "0", "--output_dir", str(tmp_path)]
    rates = ["--lr", "1e-12", "--projection_lr", "1e-12"]
    result = run_config("train.yaml", tmp_path, *small, *rates, "--start_file", str(shipped))
    assert result.returncode == 0, result.stderr
    before, after = (torch.load(path, weights_only=True) for path in (shipped, tmp_path / "model.pt"))
    learned = [name for name, value in before.items() if value.is_floating_point() and "running" not in name]
    assert any("projection" in name for name in learned)
    for name in learned:
        torch.testing.assert_close(after[name], before[name], rtol=1e-5, atol=1e-6)
    result = run_config("train.yaml", tmp_path, *small, "--start_file", str(ROOT / "models" / "autoencoder.pt"))
    assert result.returncode == 1 and "autoencoder.pt" in result.stderr and "Traceback" not in result.stderr


def copy_private(source: str, target: str) -> None:
    """A file that only its owner may read."""
    shutil.copyfile(source, target)
    Path(target).chmod(0o600)


def test_training_writes_a_checkpoint_and_resumes(tmp_path):
    small = [
        "--epochs",
        "2",
        "--iterations",
        "2",
        "--groups",
        "4",
        "--num_workers",
        "0",
    ]  # fewer epochs than val_interval
    shutil.copytree(ROOT / "demo" / "train", tmp_path / "private", copy_function=copy_private)
    small += ["--output_dir", str(tmp_path), "--dataset_dir", "private"]
    result = run_config("train.yaml", tmp_path, *small)
    assert result.returncode == 0, result.stderr
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir() if path.is_file()} == {0}
    assert (tmp_path / "model.pt").exists()
    log = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in log.Scalars("train_loss")] == [1, 2, 3, 4]
    assert [event.step for event in log.Scalars("val_ssim_error")] == [2]
    summary = json.loads((tmp_path / "held_out.json").read_text())
    assert summary["subjects"] == 5 and set(summary["recall"]) == {"1"}  # a tenth of 48
    assert f"Moved copies whose own subject is found: {summary['recall']['1']:.1%} within 1 of 5" in result.stdout
    overlay = f"['{ROOT}/configs/train.yaml','{ROOT}/configs/evaluate.yaml']"
    evaluated = ["--output_dir", str(tmp_path), "--dataset_dir", "private", "--num_workers", "0"]
    result = run_config(overlay, tmp_path, "--checkpoint", str(tmp_path / "model.pt"), *evaluated)
    assert result.returncode == 0, result.stderr
    assert "val_ssim_error" in result.stdout + result.stderr
    assert "Held-out subjects: 5" in result.stdout
    # as if it had been stopped after the first epoch
    undisturbed = [event.value for event in log.Scalars("train_loss")[2:]]
    for path in tmp_path.glob("events.out.*"):
        path.unlink()
    (tmp_path / "checkpoint_epoch=2.pt").unlink()
    result = run_config("train.yaml", tmp_path, *small, "--resume", str(tmp_path / "checkpoint_epoch=1.pt"))
    assert result.returncode == 0, result.stderr
    resumed = torch.load(tmp_path / "checkpoint_epoch=2.pt", weights_only=True)
    assert resumed["trainer"]["iteration"] == 4
    log = EventAccumulator(str(tmp_path)).Reload()
    again = [event.value for event in log.Scalars("train_loss")]
    # the next step's too, but for rounding: Adam's first updates follow the sign of gradients however small
    assert again[0] == pytest.approx(undisturbed[0], rel=0.01)
    # a model that cannot be bettered is kept
    state = torch.load(tmp_path / "checkpoint_epoch=1.pt", weights_only=True)
    state["best"] = {"saved": [[0.0, "model.pt"]], "best_metric": 0.0, "best_metric_epoch": 1}
    torch.save(state, tmp_path / "checkpoint_epoch=1.pt")
    before = (tmp_path / "model.pt").read_bytes()
    result = run_config("train.yaml", tmp_path, *small, "--resume", str(tmp_path / "checkpoint_epoch=1.pt"))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "model.pt").read_bytes() == before


RIVALS = {
    name: [str(ROOT / "configs" / file) for file in ("train.yaml", *(f"rivals/{part}.yaml" for part in parts))]
    for name, parts in {
        "contrastive": ["contrastive"],
        "fingerprint": ["fingerprint"],
        "pairwise_v1": ["pairwise_v1"],
        "pairwise_v2": ["pairwise_v1", "pairwise_v2"],
    }.items()
}


# the others take ten seconds each
@pytest.mark.parametrize(
    "name",
    [
        "pairwise_v2",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("contrastive", "fingerprint", "pairwise_v1")),
    ],
)
def test_rivals_train_on_as_many_images_a_step(tmp_path, name):
    small = ["--epochs", "1", "--iterations", "2", "--groups", "4", "--num_workers", "0", "--val_interval", "1"]
    result = run_config(str(RIVALS[name]), tmp_path, *small, "--output_dir", str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert torch.load(tmp_path / "checkpoint_epoch=1.pt", weights_only=True)["trainer"]["iteration"] == 2
    assert (tmp_path / "model.pt").exists()


def test_fingerprints_are_of_as_many_images_of_which_two_are_of_a_subject():
    parser = ConfigParser()
    parser.read_config(RIVALS["fingerprint"])
    assert parser.get_parsed_content("embedding_loss").margin == 0.2
    assert parser.get_parsed_content("copy_loss") is None
    data = parser["train"]["dataset"]
    assert (data["_target_"], data["count"]) == ("scripts.SubjectViews", 2)
    assert 2 * parser.get_parsed_content("train#dataloader#batch_size") == 128
    assert parser["train"]["sampler"]["num_samples"] == "$@groups * 4 // 2 * @iterations"


@pytest.mark.slow
def test_contrastive_training_goes_without_the_pose_loss(tmp_path):
    small = ["--epochs", "1", "--iterations", "2", "--groups", "4", "--num_workers", "0", "--val_interval", "1"]
    result = run_config(
        str(RIVALS["contrastive"]), tmp_path, *small, "--output_dir", str(tmp_path), "--pose_weight", "0"
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "model.pt").exists()


@pytest.mark.parametrize(
    ("name", "moves"),
    [
        ("pairwise_v1", {"flip_prob": 0.33, "affine_prob": 0.33, "rotation": 10.0, "gamma_prob": 0.33}),
        (
            "pairwise_v2",
            {
                "flip_prob": 0.25, "affine_prob": 0.75, "rotation": 5.2, "shift": 4.0, "zoom": [0.9, 1.05],
                "gamma_prob": 0.25, "bias_prob": 0.5, "bias": 0.3, "blur_prob": 0.25, "blur": 1.0,
            },
        ),
    ],
)  # fmt: skip
def test_the_published_recipes_are_as_published(name, moves):
    parser = ConfigParser()
    parser.read_config(RIVALS[name])
    misalign = parser.get_parsed_content("misalign").transform
    still = RandMisalign()
    for key in ("flip", "affine", "gamma", "bias", "blur", "noise"):
        chance = f"{key}_prob"
        assert getattr(misalign, chance) == moves.get(chance, 0.0), key
    for key in ("rotation", "shift", "zoom", "bias", "blur", "noise"):
        assert getattr(misalign, key) == moves.get(key, getattr(still, key)), key
    assert misalign.gamma == [0.5, 1.5]
    loss = parser.get_parsed_content("embedding_loss")
    assert (loss.form, loss.bins, loss.disjoint, loss.data_range, loss.power) == ("published", 1, True, None, 2)
    assert parser.get_parsed_content("copy_loss") is None
    assert parser["train"]["dataset"]["_target_"] == "scripts.Views" and parser["train"]["dataset"]["count"] == 1
    assert parser.get_parsed_content("train#dataloader#batch_size") == 128
    assert parser["train"]["sampler"]["num_samples"] == "$@groups * 4 * @iterations"


def test_explained_pairs_are_shown_where_asked_for(demo, tmp_path):
    assert "what made them alike" not in (demo[0] / "report.html").read_text()
    result = run_config("detect.yaml", tmp_path, "--output_dir", "out", "--explain", "True", *FEW)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('class="row four"') == page.count('alt="what made them alike"') >= 16
    (tmp_path / "plain.yaml").write_text(
        "network_def: {_target_: torch.nn.Flatten}\n"
        "embedding_network: '$@network_def'\n"
        f"inference_config: {ROOT / 'configs' / 'inference.yaml'}\n"
    )
    files = str([str(ROOT / "configs" / "detect.yaml"), str(tmp_path / "plain.yaml")])
    wrong = run_config(files, tmp_path, "--output_dir", "out", "--explain", "True")
    assert wrong.returncode == 1
    assert "explain: expected DeepSSIM, or layers of another network for LayerCAM, found Flatten" in wrong.stderr


@pytest.mark.slow
def test_groups_repetitions_and_the_curve_are_reported(tmp_path):
    names = sorted(path.name for path in Path(DEMO["generated_dir"]).glob("*.png"))
    twice = tmp_path / "again.bmp"  # another format of the same pixels
    Image.open(Path(DEMO["generated_dir"]) / names[0]).save(twice)
    rows = [f"{DEMO['generated_dir']}/{name},<b>{number % 4}</b>" for number, name in enumerate(names)]
    (tmp_path / "generated.csv").write_text("\n".join(["image,prompt", *rows, f"{twice},other"]))
    result = run_config(
        "detect.yaml", tmp_path, "--train_dir", DEMO["train_dir"], "--generated_dir", "generated.csv", "--output_dir",
        "out", "--group_column", "prompt", "--thumbnails", "False", "--bends", "[]",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    truth = {row["generated_id"]: row["train_id"] for row in read(ROOT / "demo" / "truth.csv")}
    jsonschema.validate(report, json.loads((ROOT / "configs" / "report.schema.json").read_text()))
    groups = report["groups"]
    assert sum(group["images"] for group in groups.values()) == 41
    for number in range(4):
        group = groups[f"<b>{number}</b>"]
        assert group["memorized"] == sum(bool(truth[name]) for name in names[number::4])
        assert group["leaks"] == (group["q_value"] <= 0.05) == (group["memorized"] > 0)
    assert [sorted(Path(name).name for name in ids) for ids in report["inputs"]["generated"]["repeated"]] == [
        ["again.bmp", names[0]]
    ]
    assert report["calibration"]["calls"]["tail"] == report["memorized"]["count"]
    assert report["calibration"]["calls"]["rank"] <= report["calibration"]["calls"]["tail"]
    curve = report["leaked_subjects"]["curve"]
    assert curve["samples"][0] == 0 and curve["samples"][-1] == 41 and curve["subjects"][-1] == 16
    assert (np.diff(curve["subjects"]) > 0).all()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "&lt;b&gt;3&lt;/b&gt;" in page and "<b>3</b>" not in page
    assert "The same image under several names: generated" in page


@pytest.mark.slow
def test_the_gpu_overlay_trains_on_images_of_the_published_size(tmp_path):
    overlay = f"['{ROOT}/configs/train.yaml','{ROOT}/configs/train_gpu.yaml']"
    small = ["--epochs", "1", "--iterations", "1", "--groups", "2", "--num_workers", "0", "--val_interval", "1"]
    result = run_config(overlay, tmp_path, *small, "--output_dir", str(tmp_path))
    assert result.returncode == 0, result.stderr
    weights = torch.load(tmp_path / "model.pt", weights_only=True)
    assert weights["projection.weight"].shape == (511, 112 * 136)


@pytest.mark.slow
def test_one_person_under_two_ids_is_merged(tmp_path):
    """A second scan of a copied subject under another id must not hide the copy: d1 and d2 would be alike."""
    shutil.copytree(ROOT / "demo" / "train", tmp_path / "train")
    for source in (tmp_path / "train").glob("sub-01_*"):
        image = Image.open(source).filter(ImageFilter.GaussianBlur(0.4))
        image.save(tmp_path / "train" / source.name.replace("sub-01", "sub-99"))
    result = run_config(
        "detect.yaml", tmp_path, "--train_dir", "train", "--generated_dir", DEMO["generated_dir"], "--output_dir", "out"
    )
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["merged_subjects"]["groups"] == [["sub-01", "sub-99"]]
    assert report["merged_subjects"]["memorized_before"] <= 16
    assert report["memorized"]["count"] == 16
    assert "sub-01+sub-99" in report["leaked_subjects"]["ids"]


def test_autoencoder_is_trained_and_goes_on_where_it_was_stopped(tmp_path):
    files = [str(ROOT / "configs" / "ldm" / name) for name in ("train_autoencoder.yaml", "autoencoder_cpu.yaml")]
    few = ["--iterations", "2", "--batch_size", "2", "--output_dir", "out", "--slice_spacing", "4.0"]
    first = run_config(str(files), tmp_path, *few, "--epochs", "1")
    assert first.returncode == 0, first.stderr
    resumed = run_config(str(files), tmp_path, *few, "--epochs", "2", "--resume", "out/checkpoint_epoch=1.pt")
    assert resumed.returncode == 0, resumed.stderr
    assert "Epoch[2] Metrics -- val_psnr" in resumed.stdout + resumed.stderr
    assert "Epoch[1] Metrics" not in resumed.stdout + resumed.stderr
    network = component(ROOT / "configs" / "ldm" / "model.yaml", "autoencoder_def", size="cpu")
    load_weights(network, tmp_path / "out" / "autoencoder.pt")
    evaluation = [*files, str(ROOT / "configs" / "ldm" / "evaluate_autoencoder.yaml")]
    psnr = []
    for weights in (ROOT / "models" / "autoencoder.pt", tmp_path / "out" / "autoencoder.pt"):
        result = run_config(str(evaluation), tmp_path, "--autoencoder_file", str(weights), "--output_dir", "evaluated")
        assert result.returncode == 0, result.stderr
        psnr.append(float(re.search(r"Metrics -- val_psnr: ([\d.]+)", result.stdout + result.stderr)[1]))
    assert psnr[0] > psnr[1] + 5  # a trained one against four steps
    wrong = run_config(str(evaluation), tmp_path, "--form", "skull")
    assert wrong.returncode == 1 and "form: expected one of brain, head" in wrong.stderr, wrong.stderr


@pytest.mark.parametrize("name", ["train", "watch_training", "ldm/train_autoencoder", "ldm/train_diffusion"])
def test_the_seed_is_set_before_the_networks_are_built(name):
    steps = ConfigParser.load_config_file(str(ROOT / "configs" / f"{name}.yaml"))["run"]
    seeded = next(i for i, step in enumerate(steps) if "set_determinism" in step)
    assert seeded < next(i for i, step in enumerate(steps) if re.search("build=.*trainer", step))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_what_a_config_writes_about_images_is_no_wider_than_they_are(path):
    """detect and compare do it themselves; embeddings of inference.yaml are MONAI's to write, as the caller asks."""
    config = ConfigParser.load_config_file(str(path))
    if "output_dir" not in config or "run" not in config or path.stem in ("detect", "compare", "inference"):
        return
    steps = list(config["run"])
    private = next((i for i, step in enumerate(steps) if "keep_private" in step), None)
    assert private is not None
    writes = re.compile("build=.*(trainer|study)|run_or_exit|train_or_exit|run_study|held_out_summary")
    assert private < next(i for i, step in enumerate(steps) if writes.search(step))
