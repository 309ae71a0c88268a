"""A report in a real browser: it opens, sorts, filters and turns its pages, and no name in it becomes markup."""

from pathlib import Path

import numpy as np
import pytest
from clips import painting

from diffvqa_rt.report.page import build_report
from diffvqa_rt.report.pictures import Thumbnail, _thumbnails
from diffvqa_rt.results import PatchMaps, ScoringFailure
from diffvqa_rt.video import SampledFrames

HOSTILE = (
    "<script>document.title='taken'</script>",
    '"><img src=x onerror="document.title=\'taken\'">.mp4',
    "</style></title></script><svg onload=\"document.title='taken'\">",
    "' autofocus onfocus=document.title='taken' x='.mp4",
    "{{ 7 * 7 }} $x$ \u202e4pm.exe \udcff.mp4",
)


@pytest.fixture
def open_report(browser, tmp_path):
    """Opens a report. Returns the page, whose `said` has all of the console's messages, and `asked` its requests."""
    contexts = []

    def show(html, anchor="", **context):
        path = tmp_path / "report.html"
        path.write_text(html, encoding="utf-8")
        contexts.append(browser.new_context(**context))
        page = contexts[-1].new_page()
        page.said, page.asked = [], []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(f"{path.as_uri()}{anchor}")
        return page

    yield show
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def html(scored, results_of):
    scores = [
        scored("set/b10.mp4", 40.0, warning="the score rests on 3 of its 9 frames"),
        scored("set/b9.mp4", 90.0),
        scored("set/a.mp4", 60.0, prompt="a red fox"),
    ]
    return build_report([results_of(*scores, path=Path("scores.json"))])


def names(page):
    return page.locator("#ranking tbody tr:visible td.name").all_inner_texts()


def test_the_ranking_is_best_first_and_sorts_by_every_column(open_report, html):
    page = open_report(html)
    assert names(page) == ["b9.mp4", "a.mp4", "b10.mp4"]
    page.get_by_role("button", name="Score", exact=True).click()
    assert names(page) == ["b10.mp4", "a.mp4", "b9.mp4"]
    assert page.locator("#ranking th[aria-sort=ascending]").inner_text().startswith("Score")
    page.get_by_role("button", name="Score", exact=True).click()
    assert names(page) == ["b9.mp4", "a.mp4", "b10.mp4"]
    page.get_by_role("button", name="Video", exact=True).click()
    assert names(page) == ["a.mp4", "b9.mp4", "b10.mp4"]  # numbers in names count as numbers
    assert page.said == []


def test_it_filters_by_words_score_and_warnings(open_report, html):
    page = open_report(html)
    page.fill("#filter-text", "B MP4")
    assert names(page) == ["b9.mp4", "b10.mp4"]
    page.fill("#filter-score", "50")
    assert names(page) == ["b10.mp4"]
    assert page.locator("#count").inner_text() == "1 of 3"
    page.fill("#filter-score", "")
    page.fill("#filter-text", "fox")
    assert names(page) == ["a.mp4"]
    page.fill("#filter-text", "")
    page.check("#filter-warnings")
    assert names(page) == ["b10.mp4"]
    assert page.said == []


def test_a_video_has_a_page_and_keys_turn_the_pages(open_report, html):
    page = open_report(html)
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    heading = page.locator("article:visible h1")
    assert heading.inner_text() == "a.mp4" and page.title() == "a.mp4"
    assert not page.locator("#ranking").is_visible()
    page.keyboard.press("n")
    assert heading.inner_text() == "b10.mp4"
    assert page.locator("article:visible .notice").inner_text() == "few-frames the score rests on 3 of its 9 frames."
    page.keyboard.press("n")  # it is the last one
    page.keyboard.press("p")
    page.keyboard.press("p")
    assert heading.inner_text() == "b9.mp4"
    page.keyboard.press("Escape")
    assert page.locator("#ranking").is_visible()
    assert page.evaluate("document.activeElement.textContent") == "b9.mp4"
    page.keyboard.press("/")
    page.keyboard.type("n")  # a letter, and no command
    assert page.input_value("#filter-text") == "n"
    assert page.said == []


def test_next_and_previous_follow_the_order_and_the_filter(open_report, html):
    page = open_report(html)
    page.get_by_role("button", name="Score", exact=True).click()
    page.fill("#filter-text", "b")
    page.click("text=b10.mp4")
    page.click("a.next:visible")
    assert page.locator("article:visible h1").inner_text() == "b9.mp4"
    assert not page.locator("a.next:visible").count()


def test_a_pair_leads_to_both_sides_and_each_side_to_the_other(open_report, scored, results_of):
    first = results_of(scored("a/cat.mp4", 50.0), scored("a/dog.mp4", 60.0), path=Path("a.json"))
    second = results_of(scored("b/cat.mkv", 53.0), scored("b/dog.mkv", 59.0), path=Path("b.json"))
    page = open_report(build_report([first, second], is_comparison=True))
    assert page.locator("#pairs tbody").inner_text().split() == [
        "cat",
        "50.00",
        "53.00",
        "+3.00",
        "dog",
        "60.00",
        "59.00",
        "−1.00",
    ]
    page.get_by_role("button", name="B − A").click()
    assert page.locator("#pairs tbody tr").first.inner_text().startswith("dog")
    assert names(page)[0] == "a/dog.mp4"  # the ranking keeps its own order
    page.click("text=53.00")
    assert page.locator("article:visible h1").inner_text() == "b/cat.mkv"
    assert {"A", "B"} <= set(page.locator("article:visible .plot text").all_text_contents())
    page.click("article:visible >> text=the other side")
    assert page.locator("article:visible h1").inner_text() == "a/cat.mp4"
    assert page.said == []


def test_a_curve_without_weights_shows_none(open_report, scored, results_of):
    html = build_report([results_of(scored(frame_weights=()), path=Path("a.json"))])
    texts = open_report(html, "#v1").locator("article:visible .plot text").all_text_contents()
    assert "seconds" in texts and "weight" not in texts


def test_it_works_without_scripts(open_report, html):
    page = open_report(html, java_script_enabled=False)
    page.click("text=a.mp4")
    assert page.locator("article:visible h1").inner_text() == "a.mp4"
    page.click("a.back:visible")
    assert page.locator("#ranking").is_visible()


def test_plots_are_text_that_can_be_selected(open_report, html):
    page = open_report(html, "#v1")
    assert {"score", "weight", "seconds"} <= set(page.locator("article:visible .plot svg text").all_text_contents())


def test_names_that_are_markup_stay_names(open_report, scored, results_of):
    maps = PatchMaps(parts=(HOSTILE[2],), scores=[[[[[0.1, 0.2]]]]], weights=[[[[[0.5, 0.5]]]]])
    scores = [
        scored(
            name,
            warning=name,
            prompt=name,
            model=name,
            parts={name: 1.0},
            raw_parts={name: 0.1},
            patch_maps=maps,
            weights_sha256=name,
            engines_sha256=name,
        )
        for name in HOSTILE
    ] * 2
    failures = (ScoringFailure(source=HOSTILE[0], error=HOSTILE[1]),)
    file = results_of(*scores, path=Path(HOSTILE[3]), failures=failures, problems=(HOSTILE[2],))
    page = open_report(build_report([file]))
    assert page.title() == "Video quality report"
    assert page.locator("script").count() == 1 and page.locator("style").count() == 1
    assert not page.locator("[onerror], [onload], [onfocus], [autofocus]").count()
    assert HOSTILE[0] in page.locator("#ranking").inner_text()
    assert page.locator(".prompt", has_text="\\u202e4pm.exe \\udcff.mp4").count() == 2
    page.goto(f"{page.url}#v1")
    assert page.locator("article:visible h1").inner_text() == HOSTILE[0] and page.title() == HOSTILE[0]
    assert page.said == []


def test_the_page_reaches_nothing_and_runs_its_own_script_alone(open_report, html):
    page = open_report(html, "#v1")
    assert all(url.startswith(("file:", "data:")) for url in page.asked)
    page.evaluate(
        """() => {
            const add = (tag, values) => document.body.append(Object.assign(document.createElement(tag), values));
            add('script', {textContent: 'window.taken = true'});
            add('img', {src: 'https://example.org/x.png'});
            fetch('https://example.org/').catch(() => {});
        }"""
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.taken") is None
    assert len(page.said) >= 3 and all("Content Security Policy" in message for message in page.said[:3])
    assert "unsafe" not in html and " style=" not in html


def test_colours_follow_the_reader(open_report, html):
    background = "getComputedStyle(document.documentElement).backgroundColor"
    page = open_report(html, color_scheme="dark")
    assert page.evaluate(background) == "rgb(20, 24, 29)"
    page.emulate_media(media="print")
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    assert not page.locator("#filters").is_visible() and page.locator("#ranking").is_visible()
    page.emulate_media(media="screen", color_scheme="light")
    assert page.evaluate(background) == "rgb(255, 255, 255)"


def test_a_narrow_window_scrolls_tables_and_not_the_page(open_report, html):
    page = open_report(html, viewport={"width": 360, "height": 640})
    for anchor in ("", "#v1"):
        page.goto(f"{page.url.partition('#')[0]}{anchor}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_two_hundred_videos_open_in_two_seconds(open_report, scored, results_of):
    """In the worst case: every picture is of noise and takes its share."""
    frames = tuple(np.asarray(painting(seed, 640, 360)) for seed in range(4))
    score = scored()
    sampled = SampledFrames(frames=frames, timestamps_seconds=score.timestamps_seconds, info=score.video)
    thumbnails = _thumbnails(sampled, score.crop_regions, 40_000)

    class SameFrames:
        def thumbnails(self, score, folder, videos) -> tuple[tuple[Thumbnail, ...], str]:
            assert videos == 200
            return thumbnails, ""

    scores = [scored(f"{number}.mp4", float(number % 100)) for number in range(200)]
    html = build_report([results_of(*scores, path=Path("scores.json"))], pictures=SameFrames())
    assert 4e6 < len(html.encode()) < 15e6
    seconds = []
    for _ in range(3):
        page = open_report(html)
        seconds.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd / 1000"))
        assert len(names(page)) == 200 and page.said == []
    assert min(seconds) < 2, seconds
