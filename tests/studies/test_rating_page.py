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

"""The page on which people rate pairs, as it is written and in a real browser."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import read, run_config, write_pictures
from pages import Parsed
from scripts.bundle.files import write_table
from scripts.studies.pairs_to_rate import PairToRate
from scripts.studies.rating_page import write_rating_page

try:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait
except ImportError:
    pass  # the tests that take the fixture `browser` are skipped, no others


def chain(item):
    """Images, or slices of volumes at these levels, that only the number in the path tells apart."""
    number, *levels = (float(part) for part in Path(item["image"]).stem.split("_"))
    image = torch.linspace(0, 1, 64).reshape(1, 8, 8).roll(int(number))
    made = [{"image": image / (1 + n), "level": level, "slice": n} for n, level in enumerate(levels)]
    return made or {"image": image, "level": np.nan, "slice": -1}


def written(folder: Path, count: int = 8, **changed: int) -> Path:
    pairs = [PairToRate(f"p{n}", f"secret/{n}.png", f"secret/{n + 100}.png", "duplicate") for n in range(count)]
    return write_rating_page(pairs, chain, folder, **changed)


def block(page: Path) -> list:
    text = re.search(r'<script type="application/json" id="pairs">(.*?)</script>', page.read_text(), re.DOTALL)[1]
    return json.loads(text)["pairs"]


def test_page_and_tables_are_written_and_the_page_is_blind(tmp_path):
    page = written(tmp_path)
    assert read(tmp_path / "pairs.csv")[1] == {"pair_id": "p1", "image_a": "secret/1.png", "image_b": "secret/101.png"}
    assert read(tmp_path / "methods.csv")[1] == {"pair_id": "p1", "audit": "duplicate"}
    pairs = block(page)
    assert [pair[0] for pair in pairs] == [f"p{n}" for n in range(8)]
    uris = [uri for _, first, second in pairs for uri in first + second]
    assert len(set(uris)) == 16 and all(uri.startswith("data:image/png;base64,") for uri in uris)
    content = page.read_text()
    for uri in uris:
        content = content.replace(uri, "")
    assert "secret" not in content and "101" not in content and "audit" not in content
    assert content.count("duplicate") == len(
        re.findall('<dt>duplicate|data-answer="duplicate"|</kbd>duplicate', content)
    )
    parsed = Parsed(page.read_text())
    assert "You will see 8 pairs" in parsed.text
    (policy,) = (a["content"] for a in parsed.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;") and "script-src 'sha256-" in policy
    assert not [a for _, a in parsed.tags for name in a if name in ("src", "href", "action") or name.startswith("on")]


def test_labels_of_an_earlier_audit_do_not_stay_beside_a_tables_pairs(tmp_path):
    written(tmp_path)
    write_rating_page([PairToRate("a", "1.png", "2.png")], chain, tmp_path)
    assert not (tmp_path / "methods.csv").exists() and len(read(tmp_path / "pairs.csv")) == 1


def test_of_volumes_some_slices_are_shown_beside_those_of_the_same_level(tmp_path):
    levels = [10.0, 20, 30, 40, 50, 60, 70]
    names = ["1_" + "_".join(map(str, levels)), "1_" + "_".join(map(str, levels[::-1]))]
    page = write_rating_page([PairToRate("a", *(f"{name}.nii" for name in names))], chain, tmp_path, slices=3)
    ((_, first, second),) = block(page)
    same = write_rating_page([PairToRate("a", *(f"{names[1]}.nii" for _ in range(2)))], chain, tmp_path, slices=7)
    ((_, every, _),) = block(same)
    # rows 1, 3 and 5 of the first, whose levels the second has in the reverse order
    assert [every.index(uri) for uri in second] == [5, 3, 1] and len(first) == 3 and len(every) == 7
    planar = write_rating_page([PairToRate("a", "1.png", f"{names[0]}.nii")], chain, tmp_path)
    ((_, first, second),) = block(planar)
    assert len(first) == len(second) == 1


def test_no_slices_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="slices: expected at least 1, found 0"):
        written(tmp_path, slices=0)


def test_the_same_page_twice_is_the_same_file(tmp_path):
    assert written(tmp_path / "a").read_text() == written(tmp_path / "b").read_text()


@pytest.fixture
def opened(browser, tmp_path):
    browser.get(written(tmp_path).as_uri())
    return browser


def begin(browser, name: str) -> None:
    browser.find_element(By.ID, "name").send_keys(name, Keys.ENTER)


def press(browser, *keys: str) -> None:
    for key in keys:
        browser.find_element(By.TAG_NAME, "body").send_keys(key)


def saved(browser, folder: Path, name: str) -> list[dict[str, str]]:
    """The rows of the file that the button saves."""
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    browser.find_element(By.ID, "save").click()
    WebDriverWait(browser, 20, 0.05).until(lambda _: (folder / name).exists())
    return read(folder / name)


def order_of(browser, folder: Path, name: str) -> list[str]:
    begin(browser, name)
    press(browser, *"12312312")
    return [row["pair_id"] for row in saved(browser, folder, f"ratings_{name}.csv")]


def test_a_rater_answers_by_keys_goes_back_and_saves_a_file(opened, tmp_path):
    begin(opened, "A. B")
    assert opened.find_element(By.ID, "count").text == "1 of 8"
    assert not opened.find_element(By.ID, "back").is_enabled() and not opened.find_element(By.ID, "on").is_enabled()
    time.sleep(0.3)
    press(opened, "1", "2", "4", Keys.ARROW_RIGHT)  # four is no answer, and there is no going on without one
    assert opened.find_element(By.ID, "count").text == "3 of 8"
    press(opened, Keys.ARROW_LEFT)
    chosen = opened.find_element(By.CSS_SELECTOR, "[aria-pressed=true]")
    assert chosen.get_attribute("data-answer") == "similar"
    opened.find_element(By.CSS_SELECTOR, "[data-answer=duplicate]").click()  # another answer to the second pair
    assert opened.find_element(By.ID, "progress").get_attribute("value") == "2"
    press(opened, *"333333")
    assert not opened.find_element(By.ID, "rate").is_displayed()
    press(opened, "1")  # after the last pair nothing is answered
    rows = saved(opened, tmp_path, "ratings_A._B.csv")
    assert list(rows[0]) == ["rater", "pair_id", "answer", "seconds"] and {row["rater"] for row in rows} == {"A. B"}
    assert [row["answer"] for row in rows] == ["different", *["duplicate"] * 7]
    assert sorted(row["pair_id"] for row in rows) == [f"p{n}" for n in range(8)]
    assert float(rows[0]["seconds"]) >= 0.3
    opened.find_element(By.ID, "again").click()
    assert opened.find_element(By.ID, "count").text == "8 of 8"


def test_raters_see_the_pairs_in_orders_of_their_own(browser, tmp_path):
    page = written(tmp_path, seed=1)
    orders = []
    for number, name in enumerate(("anna", "bert", "anna")):
        browser.get(page.as_uri())
        (tmp_path / str(number)).mkdir()
        orders.append(order_of(browser, tmp_path / str(number), name))
    assert orders[0] != orders[1] and orders[0] == orders[2]
    assert sorted(orders[0]) == sorted(orders[1]) != orders[0]


@pytest.mark.parametrize("name", ["", "  ", "=1+1", "a,b", "-x"])
def test_a_name_that_a_table_cannot_hold_does_not_begin(opened, name):
    begin(opened, name)
    assert opened.find_element(By.ID, "start").is_displayed()
    assert not opened.find_element(By.ID, "begin").is_enabled()


def test_no_request_leaves_the_page_and_no_other_script_runs(opened):
    begin(opened, "anna")
    for side in ("first", "second"):
        width = f"return document.querySelector('#{side} img').naturalWidth"
        assert WebDriverWait(opened, 20, 0.05).until(lambda driver, width=width: driver.execute_script(width)) == 8
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith(("file:", "data:")) for url in asked), asked
    assert not [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"]
    title = opened.execute_script(
        "const s = document.createElement('script'); s.textContent = 'document.title = 3';"
        "document.body.append(s); return document.title"
    )
    assert title == "Rating of pairs of images"


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_screen(opened, width):
    opened.set_window_size(width, 800)
    for step in (lambda: None, lambda: begin(opened, "anna")):
        step()
        assert opened.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_the_configs_make_a_page_and_evaluate_what_was_saved(tmp_path):
    items = write_pictures(tmp_path, *range(4))
    matches = [
        {
            "generated_path": items[n % 2]["image"],
            "train_path": items[2 + n // 3]["image"],
            "memorized": int(n < 3),
            "label": "duplicate" if n < 3 else "different",
        }
        for n in range(6)
    ]
    write_table(tmp_path / "audit" / "matches.csv", matches)
    run = run_config("rate.yaml", tmp_path, "--audit_dir", "audit")
    assert run.returncode == 0, run.stderr
    out = tmp_path / "eval" / "rating"
    assert len(block(out / "rating.html")) == len(read(out / "pairs.csv")) == len(read(out / "methods.csv")) == 6
    for rater, answers in {"anna": "233000", "bert": "333001"}.items():
        words = {"0": "different", "1": "similar", "2": "similar", "3": "duplicate"}
        rows = [
            {"rater": rater, "pair_id": row["pair_id"], "answer": words[answer], "seconds": 2.5}
            for row, answer in zip(read(out / "pairs.csv"), answers)
        ]
        write_table(out / "ratings" / f"ratings_{rater}.csv", rows)
    run = run_config("agreement.yaml", tmp_path, "--methods_file", "eval/rating/methods.csv", "--draws", "100")
    assert run.returncode == 0, run.stderr
    found = json.loads((out / "agreement.json").read_text())
    assert found["raters"] == {"anna": 6, "bert": 6} and found["seconds"] == {"anna": 2.5, "bert": 2.5}
    assert found["ties"] == 2 and found["methods"]["audit"]["kappa"] == 1 and found["methods"]["audit"]["pairs"] == 4
    assert (out / "agreement.md").read_text() in run.stdout and "| anna and bert | 6 | 0." in run.stdout
    wrong = run_config("rate.yaml", tmp_path)
    assert (
        wrong.returncode == 1 and "pairs_file: expected a table of pairs or an audit_dir, found neither" in wrong.stderr
    )
    (out / "ratings" / "ratings_bert.csv").unlink()
    wrong = run_config("agreement.yaml", tmp_path)
    assert wrong.returncode == 1 and "expected .csv files of at least two raters, found 1 ('anna')" in wrong.stderr
