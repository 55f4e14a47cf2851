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
"""The page of an audit, as it is written and in a real browser: the verdict, hostile names, no request to anywhere."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from pages import Parsed
from scripts.auditing.calibration import Calibration, Control
from scripts.auditing.findings import SetFit
from scripts.auditing.found import Found, Units
from scripts.auditing.result import AuditResult
from scripts.decision.criteria import Criteria
from scripts.decision.decide import Decision, NullComparison
from scripts.decision.labels import Label, Thresholds
from scripts.decision.null import Null
from scripts.decision.rates import leaked_subjects
from scripts.decision.set_level import SetLevel
from scripts.decision.statistic import LocalStatistic
from scripts.embedder.embedding_set import EmbeddingSet
from scripts.report.page import TABLE, draw_pictures, render_page
from scripts.report.provenance import Run
from scripts.report.summary import (
    Bounds,
    Candidates,
    Checkpoint,
    InputSet,
    LeakCurve,
    LeakedSubjects,
    Memorized,
    MergedSubjects,
    Skipped,
    Summary,
    Tiers,
    Timing,
)
from scripts.report.tables import MatchRow, MatchRows
from scripts.similarity.verification import Verifier

try:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait
except ImportError:
    pass  # the tests that take the fixture `browser` are skipped, no others

HOSTILE = '"><img src=x onerror="document.title=1"></script><script>document.title=2</script>.png'


def summary(result: AuditResult, matches: list[MatchRow]) -> Summary:
    part = InputSet(images=len(matches), slices=len(matches), subjects=100)
    called = int(result.memorized.sum())
    return Summary(
        schema_version="1.4",
        bundle="0.1.0",
        verdict=result.verdict,
        doubts=result.doubts,
        fit=result.fit,
        checkpoint=Checkpoint("model.pt", "0" * 64),
        inputs={"train": part, "generated": replace(part, skipped=[Skipped(HOSTILE, "flat")]), "holdout": part},
        calibration=result.calibration,
        positive_control=result.control,
        fdr=0.05,
        labels={"different": len(matches) - called, "similar": 0, "duplicate": called},
        thresholds=result.thresholds,
        memorized=Memorized(called, called / len(matches), (0.0, 0.1), 0.0),
        bounds=Bounds([1, 2, 3, 5], [1, 2, 2, 2]),
        tiers=Tiers(result.tier.count("copy"), result.tier.count("likeness")),
        candidates=Candidates(0, []),
        leaked_subjects=LeakedSubjects(0, 0.0, (0.0, 0.1), [], LeakCurve([], [])),
        merged_subjects=MergedSubjects([], None),
        set_level=result.set_level,
        timing=Timing(1.0, 0),
        run=Run("2026-01-02T03:04:05+00:00", f"python --train_dir {HOSTILE}", {"fdr": 0.05}, {"torch": "2"}),
    )


def page(
    count: int = 10_000, called: int = 3, kinds: tuple[float, ...] = (), fit: SetFit | None = None, nearest: float = 1.0
) -> str:
    """A page of `count` matches, of which the first `called` are called, the last of these as a likeness."""
    rng = np.random.RandomState(0)
    p, statistic, ssim = np.sort(rng.rand(count)), rng.normal(size=count), rng.rand(count, 6)
    q = np.r_[np.full(called, 0.001), np.full(count - called, 0.9)]
    null = Null(rng.normal(size=60), np.arange(60), np.full(60, np.nan), 1)
    row, rows = np.zeros((count, 6), int), np.arange(count)
    subject = np.repeat(rows[:, None] % 100, 6, 1)
    empty, pixels = np.zeros((count, 1), np.float32), np.zeros((count, 8, 8), np.float16)
    items = [{"id": f"{i}", "image": f"{i}", "subject_id": "a"} for i in range(count)]
    data = EmbeddingSet(items, rows, np.full(count, -1), np.full(count, np.nan), empty, pixels, [])
    result = AuditResult(
        train=data,
        generated=data,
        holdout=data,
        subject_names=[f"s{s:03d}" for s in range(100)],
        train_subject=np.zeros(count, int),
        units=Units(empty, pixels, rows, np.full(count, np.nan), np.full(count, -1)),
        found=Found(
            subject, ssim, statistic, row, ssim, ssim, np.zeros((count, 6, 2, 3)), row > 0, ssim, ssim.argmax(1)
        ),
        null=null,
        leave_one_out=null,
        decision=Decision(p, q, q <= 0.05, {"tail": called, "rank": 0}, leaked_subjects(np.zeros(0), np.zeros(0, int))),
        criteria=Criteria(),
        statistic_used=LocalStatistic(),
        verifier=Verifier(),
        calibration=Calibration(
            "holdout", "tail", count, 60, 0.02, 1, list(kinds), {"tail": called, "rank": 0}, 9, "auto", 0.3, 0.0, True,
            0.5, NullComparison(0, 0.7, False),
        ),
        control=Control(60, 0.7, (0.6, 0.8), 1.0, nearest=nearest, nearest_ci95=(nearest - 0.1, nearest)),
        set_level=SetLevel(0.6, [0.5, 0.7], 0.1),
        thresholds=Thresholds(0.5, 0.7, True),
        detail=np.where(rows < called, np.where(rows == called - 1, 0.9, 0.99), np.nan),
        fit=fit or SetFit(),
    )  # fmt: skip
    tiers = result.tier
    matches = [
        MatchRow(
            generated_id=HOSTILE if i == 0 else f"sample_{i:05d}.png",
            generated_path="",
            train_id=f"scan_{i % 100}.png",
            train_path="",
            train_subject=f"s{i % 100:03d}",
            similarity=0.5,
            aligned_ssim=float(ssim[i, 0]),
            mirrored=i % 2,
            statistic=None if i == 7 else float(statistic[i]),
            p_value=float(p[i]),
            q_value=float(q[i]),
            label=Label(2 if i < called else 0).name.lower(),
            memorized=int(i < called),
            verdict=tiers[i].value,
            part="",
        )
        for i in range(count)
    ]
    return render_page(result, matches, summary(result, matches))


@pytest.fixture
def opened(browser, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page(), encoding="utf-8")
    browser.get(path.as_uri())
    return browser


def column(browser, name: str) -> list[str]:
    place = TABLE.index(name) + 1
    return [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, f"#matches tbody td:nth-child({place})")]


def head(browser, name: str):
    return browser.find_element(By.CSS_SELECTOR, f"#matches th:nth-child({TABLE.index(name) + 1}) button")


@pytest.mark.parametrize(
    ("count", "called", "verdict"),
    [
        (20, 3, "Copies: 2. Likenesses: 1. Of 20 generated images"),
        (20, 0, "No copying found among 20 generated images"),
        (1, 0, "No copying found among 1 generated images"),
    ],
)
def test_the_written_page_tells_the_verdict_and_the_recall(count, called, verdict):
    text = Parsed(page(count, called)).text
    assert verdict in text and "70 % recall on the positive control" in text
    assert "The two nulls disagree." in text and "Null not matched." not in text


def test_weights_that_do_not_suit_are_said_to():
    assert "hardly knows" not in Parsed(page(20)).text
    text = Parsed(page(20, nearest=0.5)).text
    assert "The embedder hardly knows such images. It has the source as the nearest subject of 50 %" in text


def test_an_inconclusive_page_gives_no_share_of_copies():
    text = Parsed(page(20, 0, fit=SetFit(mixed=0.5))).text
    assert "Inconclusive: copies among 20 generated images" in text
    assert "? generated images copied: no share can be given" in text
    assert "20 generated images called" not in text and "all that the generator makes" not in text
    assert "60 degraded copies, saved as the training images are, of training images" in text


def test_a_page_of_many_images_shows_the_least_p_values_and_stays_small(monkeypatch):
    monkeypatch.setattr("scripts.report.page.MOST_ROWS", 50)
    small, large = page(count=50), page(count=5_000)
    assert "with the least p-values" not in small
    assert "Here stand the 50 of 5000 with the least p-values." in Parsed(large).text
    block = json.loads(re.search(r'<script type="application/json" id="rows">(.*?)</script>', large, re.DOTALL)[1])
    assert block["units"] == list(range(50)) and len(block["rows"]) == 50
    assert [row[TABLE.index("memorized")] for row in block["rows"][:4]] == [1, 1, 1, 0]
    assert len(large) < 1.2 * len(small)


def test_long_lists_end_with_how_many_more_there_are(monkeypatch):
    monkeypatch.setattr("scripts.report.page.MOST_LISTED", 2)
    text = Parsed(page(count=100, called=5)).text
    assert text.count(" and 3 more in report.json") == 1  # five subjects


def test_kinds_of_training_images_are_said():
    assert "training images are of" not in Parsed(page(count=20)).text
    text = Parsed(page(count=20, kinds=(0.6, 0.4))).text
    assert "The training images are of 2 kinds." in text and "60 %, 40 % of the subjects" in text


def test_how_often_the_very_image_is_named_is_said_where_a_subject_has_several():
    words = (
        "where the subject is right, 100 % are named with the very image that was copied (95 % interval 0 % to 100 %)"
    )
    assert words in Parsed(page(count=20)).text
    assert "the very image" not in Parsed(page(count=1, called=0)).text


def test_copies_and_likenesses_stand_apart_and_are_explained():
    text = Parsed(page(count=20)).text
    evidence = text[text.index("Evidence") :]
    cards = evidence[: evidence.index("Verified candidates")]
    places = [cards.index(words) for words in ("1 copy, 0 likenesses", "0 copies, 1 likeness ", "sample_00002.png")]
    assert places == sorted(places)
    assert "Of a copy the fine detail agrees" in text and "Of a likeness it does not" in text
    assert "of 1 at least 1, of 2 at least 2, of 3 at least 2; all hold together" in text
    assert "by 0.95 or more" in text and "2 copies, 1 likenesses" in text
    assert "Likenesses" not in Parsed(page(count=20, called=0)).text.replace("copies and likenesses", "")


def test_a_card_shows_all_that_was_called_of_a_person(monkeypatch):
    monkeypatch.setattr("scripts.report.page.SHOWN_PICTURES", 120)  # three beside the strongest on each of 40 cards
    written = Parsed(page(count=400, called=302))
    cards = [a for a in written.named("figure") if (a.get("id") or "").startswith("subject-")]
    people = written.text[written.text.index("Evidence") : written.text.index("Verified candidates")]
    assert len(cards) == 40 and "60 more subjects stand in the tables below" in people
    assert (
        people.count("4 copies, 0 likenesses") == 1
        and people.count("3 copies, 0 likenesses") == 38
        and "3 copies, 1 likeness" in people
    )
    numbers = [int(a["id"].removeprefix("pair-")) for _, a in written.tags if (a.get("id") or "").startswith("pair-")]
    assert len(numbers) == len(set(numbers)), "an id stands once, so that a link leads to one place"
    assert {0, 100, 200, 300} <= set(numbers), "all four of s000"
    links = {a["href"] for a in written.named("a")}
    assert {f"#subject-{n}" for n in range(40)} <= links


def test_the_first_block_says_when_with_what_and_how_it_was_run():
    text = Parsed(page(count=20)).text
    first = text[: text.index("Evidence")]
    for words in ("2026-01-02 03:04:05 UTC", "version 0.1.0", f"--train_dir {HOSTILE}", "fdr 0.05", "torch 2"):
        assert words in first, words
    assert "20 planar images of 100 subjects" in first and "1 could not be read" in first


def test_the_written_page_prints_the_criteria():
    text = Parsed(page(count=20)).text
    for words in (
        "the tail: 0.2 of the null subjects, 20 to 60",
        "both call 0.8 of what either calls",
        "a share of 0.05 may be two",
        "(99th percentile of the null)",
        "(5th of the positive control)",
        "AUC of the two nulls 0.700, 0.5 if they are alike",
    ):
        assert words in text, words


def test_a_hostile_name_opens_no_tag():
    hostile, harmless = Parsed(page(count=20)), Parsed(page(count=20).replace("onerror", "onfailure"))
    assert HOSTILE in hostile.text, "the name of a file that was passed over, shown as it is"
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in harmless.tags]
    assert not [name for _, attributes in hostile.tags for name in attributes if name.startswith("on")]
    assert not [attributes for attributes in hostile.named("img") if attributes.get("src") == "x"]


def test_the_written_page_names_no_other_address():
    written = Parsed(page(count=20))
    addresses = [a[name] or "" for _, a in written.tags for name in ("src", "href", "action", "data") if name in a]
    assert addresses and all(address.startswith(("data:", "#")) for address in addresses), addresses
    (policy,) = (a["content"] or "" for a in written.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_verdict_distributions_and_warning_stand_on_the_page(opened):
    assert opened.find_element(By.TAG_NAME, "h1").text == "Copies: 2. Likenesses: 1. Of 10,000 generated images"
    chart = opened.find_element(By.CSS_SELECTOR, "img.chart")
    assert opened.execute_script("return arguments[0].naturalWidth", chart) > 100
    assert "The two nulls disagree" in opened.find_element(By.TAG_NAME, "main").text


def test_table_sorts_pages_and_filters(opened):
    values = [float(text) for text in column(opened, "p_value")]
    assert values == sorted(values) and len(values) == 50
    head(opened, "statistic").click()
    values = [float(text) for text in column(opened, "statistic")]
    assert values == sorted(values)
    head(opened, "statistic").click()
    values = [float(text) for text in column(opened, "statistic")]
    assert values == sorted(values, reverse=True), "an unknown value comes last in both orders"
    assert opened.find_element(By.ID, "count").text == "1 to 50 of 10000"
    opened.find_element(By.ID, "next").click()
    assert opened.find_element(By.ID, "count").text == "51 to 100 of 10000"
    opened.find_element(By.ID, "search").send_keys("s042")
    assert opened.find_element(By.ID, "count").text == "1 to 50 of 100 (10000 in all)"
    assert set(column(opened, "train_subject")) == {"s042"}
    opened.find_element(By.ID, "search").clear()
    opened.find_element(By.ID, "search").send_keys("nobody")
    assert opened.find_element(By.ID, "count").text == "no image fits" and column(opened, "p_value") == []


def test_calls_can_be_chosen_by_keyboard_alone(opened):
    opened.find_element(By.ID, "called").send_keys("c")  # 'called'
    assert column(opened, "memorized") == ["1", "1", "1"]
    head(opened, "generated_id").send_keys(Keys.ENTER)
    names = column(opened, "generated_id")
    assert names == sorted(names)
    assert opened.find_element(By.CSS_SELECTOR, "th[aria-sort=ascending]").text.startswith("generated id")


def test_hostile_name_is_text_and_no_request_leaves_the_page(opened):
    assert HOSTILE in column(opened, "generated_id"), "shown as it is"
    assert opened.title == "Memorization audit"
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith(("file:", "data:")) for url in asked), asked
    assert not [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"]


def test_only_the_pages_own_script_may_run(opened):
    refused = opened.execute_script(
        "const s = document.createElement('script'); s.textContent = 'document.title = 3';"
        "document.body.append(s); return document.title"
    )
    assert refused == "Memorization audit"


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_screen(opened, width):
    opened.set_window_size(width, 800)
    assert opened.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_page_of_one_image_without_calls(browser, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page(count=1, called=0), encoding="utf-8")
    browser.get(path.as_uri())
    assert browser.find_element(By.TAG_NAME, "h1").text.startswith("No copying found among 1 generated")
    assert len(column(browser, "p_value")) == 1


def test_a_picture_is_enlarged_and_blinks(browser, tmp_path, result):
    matches = MatchRows(result)
    path = tmp_path / "report.html"
    pictures = draw_pictures(result)
    path.write_text(render_page(result, matches, summary(result, matches), pictures), encoding="utf-8")
    browser.get(path.as_uri())
    first = browser.find_element(By.CSS_SELECTOR, ".view button")
    first.send_keys(Keys.ENTER)
    viewer, image = browser.find_element(By.ID, "viewer"), browser.find_element(By.CSS_SELECTOR, "#viewer img")
    assert viewer.is_displayed() and image.get_attribute("alt") == "generated"
    assert image.get_attribute("src") == first.find_element(By.TAG_NAME, "img").get_attribute("src")
    image.click()
    assert image.get_attribute("alt") == "training, aligned"
    browser.find_element(By.ID, "difference").click()
    assert image.get_attribute("alt") == "difference"
    browser.find_element(By.ID, "blink").click()
    shown = set()
    WebDriverWait(browser, 20, 0.05).until(lambda _: shown.add(image.get_attribute("alt")) or len(shown) == 2)
    assert shown == {"generated", "training, aligned"}
    browser.find_element(By.ID, "close").click()
    assert not viewer.is_displayed()


def test_a_map_stands_beside_the_pictures_and_is_enlarged_alone(browser, tmp_path, result):
    matches = MatchRows(result)
    path = tmp_path / "report.html"
    pictures = draw_pictures(result, explain=lambda first, second: first - second)
    path.write_text(render_page(result, matches, summary(result, matches), pictures), encoding="utf-8")
    browser.get_log("browser")  # what other pages have said
    browser.get(path.as_uri())
    maps = browser.find_elements(By.CSS_SELECTOR, ".row.four .view:last-child button")
    assert len(maps) == len(pictures.evidence) > 2
    maps[0].send_keys(Keys.ENTER)
    image = browser.find_element(By.CSS_SELECTOR, "#viewer img")
    assert image.get_attribute("alt") == "what made them alike"
    browser.find_element(By.ID, "difference").click()
    image.click()
    assert image.get_attribute("alt") == "what made them alike", "there is no other"
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert "shows orange the parts" in browser.find_element(By.TAG_NAME, "main").text
    assert not any(words in page(count=20) for words in ('"row four"', "shows orange the parts"))


def test_the_same_page_twice_is_the_same_file():
    assert page(count=20) == page(count=20)
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='", page(count=20))
