"""report.html in a headless Chromium, from the file system, as people open it."""

from __future__ import annotations

import shutil

import pytest

from stage_cli.core.evaluation.report.page import write_report
from stage_cli.core.evaluation.report.results import read_results, write_results
from tests.evaluation.report_example import with_failures, write_example

_BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(_BROWSER is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_results(folder, with_failures(write_example(folder, items=4, songs=2, seconds=3.0)))
    return write_report(folder)


@pytest.fixture(scope="module")
def browser():
    options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=_BROWSER, args=options)
        yield started
        started.close()


@pytest.fixture
def open_page(browser, report):
    """Opens the report; afterwards nothing may have been complained about, and nothing fetched but the file itself."""
    contexts, complaints, requests = [], [], []

    def _open(width=1280, scheme="light", **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(report.as_uri())
        return page

    yield _open
    for context in contexts:
        context.close()
    assert complaints == []
    outside = [url for url in requests if not url.startswith(("data:", "blob:"))]
    assert outside == [report.as_uri()] * len(contexts)


def shown(page) -> list[tuple[str, str]]:
    """Item and system of each card that can be seen, from above."""
    cards = page.evaluate(
        "[...document.querySelectorAll('.card')].filter((card) => !card.hidden).map((card) => card.dataset)"
    )
    return [(card["item"], card["system"]) for card in cards]


def first_player(page):
    """A card with all four players, near enough to have them."""
    card = page.locator(".card:not([hidden])").filter(has_not=page.locator(".error")).first
    card.scroll_into_view_if_needed()
    card.locator(".view").nth(3).wait_for()
    return card


SOUND = "(card) => [...card.querySelectorAll('audio')].map((audio) => [audio.paused, audio.currentTime])"


def test_the_worst_comes_first(open_page, report):
    page = open_page()
    results = read_results(report.parent)
    scores = {
        (item.id, output.system): output.metrics["beat_f1"]
        for item in results.items
        for output in item.outputs
        if output.system.startswith("model:")
    }
    defined = sorted((key for key in scores if scores[key] is not None), key=lambda key: scores[key])
    undefined = [key for key in scores if scores[key] is None]
    assert len(undefined) == 1
    assert shown(page) == defined + undefined
    page.get_by_role("button", name="Worst first").click()
    assert shown(page) == defined[::-1] + undefined
    assert page.locator("#order").inner_text() == "Best first"


def test_where_lower_is_better_high_values_are_the_worst(open_page, report):
    page = open_page()
    page.get_by_label("Sort by").select_option(label="Tempo error")
    outputs = {
        (item.id, output.system): output for item in read_results(report.parent).items for output in item.outputs
    }
    values = [outputs[key].metrics["tempo_error"] for key in shown(page)]
    kept = [value for value in values if value is not None]
    assert values == [*sorted(kept, reverse=True), None]
    assert page.locator(".card:not([hidden]) .sorted dt").first.inner_text() == "Tempo error"
    page.get_by_label("Sort by").select_option(label="Song")
    assert [item for item, _ in shown(page)] == sorted(item for item, _ in shown(page))


def test_filters(open_page):
    page = open_page()
    assert {system for _, system in shown(page)} == {"model:small", "model:stage-drums"}
    page.get_by_label("System").select_option(label="stage-drums")
    assert {system for _, system in shown(page)} == {"model:stage-drums"}
    page.locator("#context").select_option(label="Metronome")
    assert sorted(shown(page)) == [(item, "model:stage-drums") for item in ("0001", "0003")]
    assert page.locator("#count").inner_text() == "2 of 24 shown"
    page.get_by_label("System").select_option(label="All, and anchors")
    page.locator("#context").select_option(label="All")
    assert len(shown(page)) == 24


def test_players_play_one_at_a_time_and_share_their_position(open_page):
    page = open_page()
    card = first_player(page)
    names = card.locator(".track").evaluate_all("all => all.map((group) => group.ariaLabel.split(',')[0])")
    assert names == ["Generated", "Mix", "Context", "Target"]
    assert card.locator("audio").first.get_attribute("preload") == "none"
    assert card.evaluate("(card) => [...card.querySelectorAll('audio')].every((audio) => !audio.src)")
    buttons, heads = card.locator(".track .play"), card.locator(".playhead")
    start = heads.first.bounding_box()["x"]
    buttons.nth(0).click()
    page.wait_for_function("() => document.querySelector('.play[aria-pressed=true]')")
    page.wait_for_function("(audio) => audio.currentTime > 0.4", arg=card.locator("audio").first.element_handle())
    assert heads.first.bounding_box()["x"] > start + 20
    buttons.nth(2).click()
    page.wait_for_function("(audio) => audio.currentTime > 0.5", arg=card.locator("audio").nth(2).element_handle())
    assert [paused for paused, _ in card.evaluate(SOUND)] == [True, True, False, True]
    buttons.nth(2).click()
    assert all(paused for paused, _ in card.evaluate(SOUND))
    box = card.locator(".view").first.bounding_box()
    card.locator(".view").first.click(position={"x": box["width"] / 2, "y": 20})
    buttons.nth(1).click()
    page.wait_for_function("(audio) => audio.currentTime > 0.05", arg=card.locator("audio").nth(1).element_handle())
    assert card.evaluate(SOUND)[1][1] > 1.4  # another player goes on where the item is
    buttons.nth(1).click()
    assert card.locator("audio").first.evaluate("(audio) => audio.duration") == pytest.approx(3.0, abs=0.001)


def test_a_click_and_arrow_keys_move_the_position(open_page):
    page = open_page()
    card = first_player(page)
    view = card.locator(".view").first
    box = view.bounding_box()
    view.click(position={"x": box["width"] / 2, "y": 20})
    assert float(view.get_attribute("aria-valuenow")) == pytest.approx(1.5, abs=0.05)
    page.keyboard.press("ArrowRight")
    assert float(view.get_attribute("aria-valuenow")) == pytest.approx(2.5, abs=0.05)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Home")
    assert view.get_attribute("aria-valuenow") == "0.0"
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    assert view.get_attribute("aria-valuetext") == "0:02 of 0:03"
    positions = card.locator(".playhead").evaluate_all("all => all.map((head) => head.style.left)")
    assert len(set(positions)) == 1


def test_all_of_it_by_keyboard(open_page):
    page = open_page()
    first_player(page)
    page.locator("#context").focus()
    page.keyboard.press("Tab")
    focused = "document.activeElement"
    assert page.evaluate(f"{focused}.className") == "play"
    assert page.evaluate(f"{focused}.ariaLabel").startswith("Play the tracks of ")
    for _ in range(9):  # the switches of four tracks
        page.keyboard.press("Tab")
    assert page.evaluate(f"{focused}.ariaLabel").startswith("Play Generated, ")
    assert page.evaluate(f"getComputedStyle({focused}).outlineStyle") == "solid"
    page.keyboard.press("Space")
    page.wait_for_function("() => [...document.querySelectorAll('audio')].some((audio) => audio.currentTime > 0.1)")
    page.keyboard.press("Tab")
    assert page.evaluate(f"{focused}.ariaLabel").startswith("Download Generated, ")
    page.keyboard.press("Tab")
    assert page.evaluate(f"{focused}.role") == "slider"
    page.keyboard.press("Space")
    assert page.evaluate("[...document.querySelectorAll('audio')].every((audio) => audio.paused)")
    page.locator("th summary").first.focus()
    page.keyboard.press("Enter")
    assert page.get_by_text("Beats of the stem that fall on the song's.").first.is_visible()


def test_pictures_are_drawn_and_given_back(open_page):
    page = open_page()
    card = first_player(page)
    colours = """(canvas) => {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return new Set(new Uint32Array(data.buffer)).size;
    }"""
    page.wait_for_function("(canvas) => canvas.width > 400", arg=card.locator("canvas").first.element_handle())
    assert card.locator("canvas").first.evaluate(colours) > 50
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_function("(canvas) => canvas.width === 0", arg=card.locator("canvas").first.element_handle())


@pytest.mark.parametrize("width", [375, 1280, 1600])
def test_nothing_moves_when_it_is_drawn(open_page, width):
    page = open_page(width)
    before = page.evaluate("document.documentElement.scrollHeight")
    for box in (*page.locator(".plot").all(), *page.locator(".card:visible").all()):
        box.scroll_into_view_if_needed()
    page.locator(".card:visible .view").last.wait_for()
    # An output that cannot be shown has a line of text in place of its player.
    assert page.evaluate("document.documentElement.scrollHeight") == pytest.approx(before, abs=8)


def test_a_dot_leads_to_its_item(open_page):
    page = open_page()
    plot = page.locator(".plot").first
    plot.scroll_into_view_if_needed()
    plot.locator("circle").first.wait_for()
    assert plot.locator(".strip").count() == 6
    assert plot.get_attribute("aria-label").startswith("Beat F1, medians: small ")
    plot.locator(".strip").nth(3).locator("circle").first.click()  # shuffled: filtered away until now
    assert page.evaluate("document.activeElement.dataset.system") == "shuffled"
    assert {system for _, system in shown(page)} == {"shuffled"}
    page.locator("#plot-context").get_by_text("Metronome").click()
    plot.locator("circle title").filter(has_text="(0001)").first.wait_for(state="attached")
    assert plot.locator("circle title").filter(has_text="(0000)").count() == 0


def test_what_cannot_be_shown_says_so(open_page):
    page = open_page()
    assert page.locator(".failures li").count() == 3
    lost = page.locator(".card[data-item='0000'][data-system='model:small']")
    lost.scroll_into_view_if_needed()
    lost.get_by_text("cannot read lost.flac").wait_for()
    assert lost.locator(".track .play").count() == 3
    broken = page.locator(".card[data-item='0000'][data-system='model:stage-drums']")
    assert broken.locator(":scope > .error").inner_text() == "the stem is silent"


@pytest.mark.parametrize("width", [375, 768, 1600])
def test_nothing_is_wider_than_the_window(open_page, width):
    page = open_page(width)
    page.locator("#items").scroll_into_view_if_needed()
    first_player(page)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    boxes = page.locator("td, .track, .scores").filter(visible=True)
    cut = "all => all.filter((box) => box.scrollWidth > box.clientWidth).map((box) => box.innerText)"
    assert boxes.evaluate_all(cut) == []
    if width == 375:  # a name may be long; what a finger must hit may not be small
        page.evaluate(
            "for (const title of document.querySelectorAll('h3, .name, td, th')) title.prepend('x'.repeat(60))"
        )
        assert page.evaluate("document.documentElement.scrollWidth") == width
        size = page.locator(".card:not([hidden]) .play").first.bounding_box()
        assert size is not None
        assert min(size["width"], size["height"]) >= 40


def test_light_and_dark(open_page):
    page = open_page(scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    page.get_by_role("button", name="Switch to light colours").click()
    light = page.evaluate(paper)
    assert (dark, light) == ("rgb(21, 23, 26)", "rgb(251, 250, 248)")
    page.get_by_role("button", name="Switch to dark colours").click()
    assert page.evaluate(paper) == dark
    assert open_page(scheme="light").evaluate(paper) == light


def test_without_javascript_the_summary_is_there(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator("table.summary").count() == 2
    assert page.locator(".failures li").count() == 3


def test_the_mixer_plays_all_tracks_on_one_clock(browser, tmp_path):
    write_results(tmp_path, write_example(tmp_path, items=2, songs=2, seconds=20.0))
    page = browser.new_context().new_page()
    page.goto(write_report(tmp_path).as_uri())
    card = first_player(page)
    mixer = card.locator(".mixer")
    mixer.locator(".play").click()
    page.wait_for_function("(card) => card.card.mixer.isPlaying && card.card.position > 0.1", arg=card.element_handle())
    starts = card.evaluate("(card) => card.card.mixer.sources.length")
    assert starts == 4
    heard = "(card) => card.card.mixer.names.filter((name) => card.card.mixer.isHeard(name))"
    assert card.evaluate(heard) == ["Generated", "Context"]  # the mix holds both, and the target would play beside them
    before = card.evaluate("(card) => card.card.position")
    page.keyboard.press("4")
    assert card.evaluate(heard) == ["Target"]
    assert card.evaluate("(card) => card.card.mixer.isPlaying")  # it switches without a stop
    page.wait_for_function("([card, before]) => card.card.position > before", arg=[card.element_handle(), before])
    gains = "(card) => [...card.card.mixer.gains.values()].map((gain) => Math.round(gain.gain.value))"
    page.wait_for_function(f"(card) => String(({gains})(card)) === '0,0,0,1'", arg=card.element_handle())
    page.keyboard.press("4")
    card.get_by_role("button", name="Generated out").click()
    assert card.evaluate(heard) == ["Context"]
    # A player of the card takes over.
    card.locator(".track .play").first.click()
    page.wait_for_function("(card) => !card.card.mixer.isPlaying", arg=card.element_handle())
    page.context.close()


def test_keys_go_from_item_to_item(open_page):
    page = open_page()
    focused = "document.activeElement.dataset.item + document.activeElement.dataset.system"
    order = [item + system for item, system in shown(page)]
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.evaluate(focused) == order[1]
    page.keyboard.press("k")
    assert page.evaluate(focused) == order[0]
    page.keyboard.press("k")  # there is none before
    assert page.evaluate(focused) == order[0]


def test_sounds_can_be_downloaded(open_page):
    page = open_page()
    card = first_player(page)
    with page.expect_download() as downloading:
        card.get_by_role("link", name="Download Generated").click()
    assert downloading.value.suggested_filename.endswith("-generated.mp3")
    assert downloading.value.path().stat().st_size > 10_000


def test_heads_of_the_table_sort_and_filter(open_page):
    page = open_page()
    page.get_by_role("button", name="Sort the items by Onset F").first.click()
    assert page.locator("#sort").input_value() == "onset_f"
    page.locator("thead").get_by_role("button", name="stage-drums").first.click()
    assert {system for _, system in shown(page)} == {"model:stage-drums"}


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_verdict_and_first_results_are_on_the_first_screen(browser, report, width, height):
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    page.goto(report.as_uri())
    verdict = page.locator(".verdict")
    assert "stage-drums follows its songs: Onset F: own − shuffled +0.50; true stems +0.66" in verdict.inner_text()
    for place in (verdict, page.locator("tbody td .number").first):
        box = place.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < height
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_serious_for_axe(browser, report, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(report.as_uri())
    page.locator(".card:not([hidden])").first.scroll_into_view_if_needed()
    found = axe.Axe().run(page).response["violations"]
    serious = [
        (entry["id"], entry["nodes"][0]["html"][:120]) for entry in found if entry["impact"] in ("serious", "critical")
    ]
    assert serious == []
    context.close()
