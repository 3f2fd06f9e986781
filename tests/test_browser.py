"""The page as a visitor sees it, in headless Chromium.

Every test starts from a fresh page of one running app; screenshots of the main states go to tests/screenshots/.
"""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import srt
import waiting
from conftest import CHROMIUM
from launched import ELEVENLABS_PORT, ROOT, app_url
from test_audio import encode
from test_elevenlabs import KEY, serving

from evoxtral import audio
from evoxtral.speech import speak

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect
expect.set_options(timeout=waiting.PATIENCE * 1000)

pytestmark = pytest.mark.browser

SPOKEN = "[sighs] We waited for the train. [laughs] It never came."
HOSTILE = '<img src=x onerror="document.title=1"> ${document.title=2} {{document.title}}'
SCREENSHOTS = Path(__file__).parent / "screenshots"
PATIENCE = waiting.PATIENCE * 1000  # ms
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
LAPTOPS = [(1280, 720), (1440, 900)]


@pytest.fixture(scope="module")
def spoken_clip(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("clips") / "train <b>.wav"
    audio.save(path, speak(SPOKEN).waveform)
    return str(path)


@pytest.fixture(scope="module")
def webm() -> bytes:
    """The spoken clip as browsers record it. By its name, a browser takes it for a video."""
    return encode("webm", "libopus", speak(SPOKEN).waveform, audio.SAMPLE_RATE, live=True)


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory) -> str:
    """A minute and a half: long enough to be seen while it is decoded, on a fast machine too."""
    path = tmp_path_factory.mktemp("clips") / "long.wav"
    audio.save(path, np.tile(speak(SPOKEN).waveform, 15))
    return str(path)


@pytest.fixture(scope="module")
def chromium(spoken_clip):
    """A browser whose microphone hears the spoken clip."""
    microphone = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={spoken_clip}",
    ]
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *microphone], timeout=PATIENCE)
        yield browser
        browser.close()


def new_context(browser, **settings):
    """A fresh profile in which nothing is given up for being slow."""
    context = browser.new_context(**settings)
    context.set_default_timeout(PATIENCE)
    return context


@pytest.fixture(scope="module")
def visitors(chromium):
    """The page of each visitor of a test, by number. All tests have the same ones: a profile of its own would read and
    compile Gradio's scripts for each test anew, which is most of what a visit costs.
    """
    pages = []

    def page_of(number: int):
        if number == len(pages):
            context = new_context(chromium, permissions=["microphone", "clipboard-read", "clipboard-write"])
            pages.append(context.new_page())
        return pages[number]

    yield page_of
    for page in pages:
        page.context.close()


@pytest.fixture
def visit(visitors):
    """Opens the page, of which nothing is stored yet; its console must stay free of errors until the test ends."""
    pages, errors = [], []

    def note(error) -> None:
        errors.append(str(error))

    def open_page(width: int = 1280, height: int = 720, scheme: str = "light"):
        page = visitors(len(pages))
        pages.append(page)
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=scheme)
        page.goto(f"{app_url()}/robots.txt")  # small, and of the same origin
        page.evaluate("localStorage.clear(); sessionStorage.clear()")
        page.context.clear_cookies()
        page.on("pageerror", note)
        page.goto(app_url())
        expect(page.locator(".ev-model b")).to_be_visible(timeout=PATIENCE)
        return page

    yield open_page
    for page in pages:
        page.remove_listener("pageerror", note)
        for other in page.context.pages:
            if other is not page:
                other.close()
        page.unroute_all()
        page.mouse.move(0, 0)
        page.goto("about:blank")  # what it was still waiting for ends
    assert not errors


def choose(page, file: Path | str) -> None:
    page.locator('#clip input[type="file"]').set_input_files(str(file))


def upload(page, path: str) -> None:
    choose(page, path)
    expect(page.locator("#clip .timestamps")).to_be_visible(timeout=PATIENCE)


def compare(page) -> None:
    page.get_by_role("button", name="Compare", exact=True).click()
    finish(page)


def finish(page) -> None:
    """Wait until every column is complete."""
    expect(page.locator(".ev-exports")).to_have_count(3, timeout=PATIENCE)


def write_script(page, text: str):
    """Open the Speak tab and fill its box, which is returned. Gradio lays a tab out when it is first opened, and sets
    its values again a frame later: no person types in between, but a test does.
    """
    page.get_by_role("tab", name="Speak").click()
    script = page.locator("#script textarea")
    expect(script).not_to_have_value("", timeout=PATIENCE)
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    script.fill(text)
    return script


def column(page, variant: str):
    return page.locator(f'.ev-column[data-variant="{variant}"]')


def card(page, title: str):
    """A card of the Metrics tab by its heading."""
    return page.locator(".ev-card").filter(has=page.get_by_role("heading", name=title, exact=True))


def overflow(page) -> tuple[int, int]:
    """By how many pixels the page is larger than its window: across, down."""
    return tuple(
        page.evaluate(
            "() => { const d = document.documentElement;"
            " return [d.scrollWidth - d.clientWidth, d.scrollHeight - innerHeight]; }"
        )
    )


def photograph(page, name: str) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


# ------------------------------------------------------------------------------------- the main job


def test_an_uploaded_clip_fills_three_columns_two_of_them_tagged(visit, spoken_clip):
    page = visit()
    upload(page, spoken_clip)
    expect(page.locator("#about-clip")).to_contain_text("s of audio", timeout=PATIENCE)
    compare(page)
    for variant in ("base", "sft", "rl"):
        assert len(column(page, variant).locator(".ev-text").inner_text()) > 10
        expect(column(page, variant).locator('[data-stat="speed"]')).to_contain_text("× real time")
    expect(column(page, "base").locator(".ev-tag")).to_have_count(0)
    for variant in ("sft", "rl"):
        assert column(page, variant).locator(".ev-tag.ev-non-verbal").count() >= 1
    expect(page.locator("#status")).to_contain_text("All three agree on")
    photograph(page, "compare")


def drop(page, file: Path) -> None:
    """As if dragged from the desktop."""
    data = page.evaluate_handle(
        """async ([name, bytes]) => {
          const given = new DataTransfer();
          given.items.add(new File([Uint8Array.from(bytes)], name, {type: "video/webm"}));
          return given;
        }""",
        [file.name, [*file.read_bytes()]],
    )
    page.locator("#clip .upload-container").dispatch_event("drop", {"dataTransfer": data})


@pytest.mark.parametrize("give", [choose, drop])
def test_a_webm_file_is_accepted_as_a_clip(visit, webm, tmp_path, give):
    page = visit()
    file = tmp_path / "note.webm"
    file.write_bytes(webm)
    give(page, file)
    expect(page.locator("#about-clip")).to_contain_text("s of audio", timeout=PATIENCE)
    expect(page.locator("#clip .timestamps")).to_be_visible(timeout=PATIENCE)
    compare(page)
    expect(column(page, "rl").locator(".ev-tag.ev-non-verbal")).not_to_have_count(0)


def test_a_recording_from_the_microphone_is_transcribed(visit):
    page = visit()
    page.get_by_label("Record audio").click()
    page.locator("#clip .record-button").click()
    # Four seconds by the recorder's own clock: on a slow machine they take longer.
    expect(page.locator("#clip .timestamps")).to_contain_text(re.compile("0:0[4-9]|0:[1-5][0-9]"), timeout=PATIENCE)
    page.locator("#clip .stop-button:visible, #clip .stop-button-paused:visible").first.click()
    expect(page.locator("#clip .timestamps")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#about-clip")).to_contain_text("s of audio", timeout=PATIENCE)
    compare(page)
    assert column(page, "base").locator(".ev-text").inner_text().strip()
    photograph(page, "recorded")


def test_an_example_clicked_during_decoding_is_decoded_next(visit):
    page = visit()
    page.evaluate(  # from inside the page: from outside, a quick machine would be done before it is seen at work
        """() => new MutationObserver((_, watch) => {
            if (!document.querySelector('.ev-column[aria-busy="true"]')) return;
            watch.disconnect();
            document.querySelector('#examples .gallery-item').click();
        }).observe(document.body, {subtree: true, childList: true, attributes: true})"""
    )
    page.locator("#examples .gallery-item").nth(1).click()
    link = column(page, "rl").get_by_role("link", name="TXT")
    expect(link).to_have_attribute("download", "bedtime.rl.txt", timeout=PATIENCE)
    open_history(page, 2)


def test_a_new_clip_clears_the_reference_unless_it_was_typed(visit, spoken_clip):
    page = visit()
    page.locator("#examples .gallery-item").first.click()
    finish(page)
    box = page.locator("#reference textarea")
    page.locator('#clip [aria-label="Clear"]').click()
    expect(box).to_have_value("", timeout=PATIENCE)
    box.fill(SPOKEN)
    upload(page, spoken_clip)
    compare(page)
    expect(column(page, "rl").locator(".ev-scores")).to_contain_text("Tag F1", timeout=PATIENCE)
    expect(box).to_have_value(SPOKEN)
    page.wait_for_function("() => resultStore.all().length === 2", timeout=PATIENCE)
    references = set(page.evaluate("resultStore.all().map(result => result.reference)"))
    assert SPOKEN in references and len(references) == 2


def test_a_waiting_visitor_sees_the_position_in_the_queue(visit, long_clip):
    busy, waiting = visit(), visit()
    upload(busy, long_clip)
    busy.get_by_role("button", name="Compare", exact=True).click()
    expect(busy.locator("#status .ev-working")).to_be_visible(timeout=PATIENCE)
    waiting.locator("#examples .gallery-item").first.click()
    waiting.wait_for_function(  # in one look: the turn may come at any moment
        """() => document.querySelector('#status .ev-waiting[role=status]')?.textContent.includes('waits for its turn')
            && document.querySelector('#status .progress-text')?.textContent.includes('queue: 1/1')""",
        timeout=PATIENCE,
    )
    photograph(waiting, "waiting")
    finish(waiting)


def test_a_script_is_spoken_and_transcribed_with_itself_as_the_reference(visit):
    page = visit()
    script = write_script(page, "We waited for the train. ")
    page.locator('.ev-palette [data-insert="[sighs] "]').click()
    expect(script).to_have_value("We waited for the train. [sighs] ")
    speak, send = page.get_by_role("button", name="Speak", exact=True), page.locator("#send")
    expect(send).to_be_disabled()
    speak.click()
    expect(page.locator(".ev-timeline .ev-tag")).to_have_count(1, timeout=PATIENCE)
    expect(send).to_contain_class("primary", timeout=PATIENCE)  # what comes next
    expect(speak).not_to_contain_class("primary")
    photograph(page, "speak")
    page.locator("#send").click()
    finish(page)
    assert page.locator("#reference textarea").input_value().startswith("We waited for the train.")
    expect(column(page, "rl").locator(".ev-scores")).to_contain_text("Tag F1")


def test_on_a_phone_the_timeline_is_as_wide_as_the_waveform_and_no_label_is_clipped(visit):
    page = visit(390, 844)
    write_script(page, "[whispers] We waited for it. [clears throat] So. [short pause] Never.")
    page.get_by_role("button", name="Speak", exact=True).click()
    expect(page.locator(".ev-timeline .ev-tag")).to_have_count(3, timeout=PATIENCE)
    cut = "all => all.filter(e => e.scrollWidth > e.clientWidth).map(e => e.textContent)"
    assert page.locator(".ev-lanes :is(.ev-tag, small)").evaluate_all(cut) == []
    axis, waveform = page.locator(".ev-lanes").bounding_box(), page.locator("#spoken #waveform").bounding_box()
    assert (axis["x"], axis["width"]) == pytest.approx((waveform["x"], waveform["width"]), abs=2)
    kind, tag = (page.locator(f".ev-palette {part}").first.bounding_box() for part in (".ev-kind", ".ev-tag"))
    assert tag["y"] >= kind["y"] + kind["height"] and overflow(page)[0] == 0
    photograph(page, "phone-speak")


# ------------------------------------------------------------------------------------- failures


def test_a_broken_file_gets_one_sentence_and_the_page_keeps_working(visit, spoken_clip, tmp_path):
    """Whatever its name says; and nothing of the clip before stays beside the sentence."""
    page = visit()
    broken, notes = tmp_path / "broken.wav", tmp_path / "notes.txt"
    for file in (broken, notes):
        file.write_bytes(b"this is no recording")
    choose(page, notes)
    expect(page.locator("#about-clip [role=alert]")).to_contain_text("not a recording", timeout=PATIENCE)
    expect(page.locator("#about-clip [role=alert]")).to_contain_text("notes.txt")
    expect(page.locator(".toast-body")).to_have_count(0)
    page.locator('#clip [aria-label="Clear"]').click()
    choose(page, broken)
    expect(page.locator("#about-clip [role=alert]")).to_contain_text("broken.wav", timeout=PATIENCE)
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator("#status [role=alert]")).to_contain_text("not a recording", timeout=PATIENCE)
    expect(page.locator("[role=alert]:visible")).to_have_count(1)
    photograph(page, "broken")
    page.locator('#clip [aria-label="Clear"]').click()
    upload(page, spoken_clip)
    compare(page)
    expect(page.locator("[role=alert]:visible")).to_have_count(0)
    page.locator('#clip [aria-label="Clear"]').click()
    choose(page, broken)
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator("#status [role=alert]")).to_contain_text("broken.wav", timeout=PATIENCE)
    expect(page.locator(".ev-exports")).to_have_count(0)


def test_an_incomplete_recording_is_transcribed_and_reported_as_incomplete(visit, webm, tmp_path):
    page = visit()
    (tmp_path / "torn.webm").write_bytes(webm[: len(webm) // 2])
    choose(page, tmp_path / "torn.webm")
    expect(page.locator("#about-clip")).to_contain_text("incomplete", timeout=PATIENCE)
    expect(page.locator("#about-clip")).to_contain_text("s of audio")
    expect(page.locator("#about-clip [role=alert]")).to_have_count(0)
    expect(page.locator(".toast-body")).to_have_count(0)


def test_a_clip_that_is_too_long_is_refused_before_anything_runs(visit, tmp_path):
    from evoxtral import audio

    long = tmp_path / "long.wav"
    audio.save(long, np.zeros(round((audio.MAX_SECONDS + 60) * audio.SAMPLE_RATE), np.float32))
    page = visit()
    upload(page, str(long))
    expect(page.locator("#about-clip [role=alert]")).to_contain_text(
        "31 min long and the limit is 30 min", timeout=PATIENCE
    )


def test_an_empty_page_asks_for_a_clip_and_offers_languages_of_which_untested_ones_are_labelled(visit, spoken_clip):
    page = visit()
    with page.expect_file_chooser():
        page.locator("#clip .upload-container").click()
    assert page.locator('#clip input[type="file"]').get_attribute("accept") == "audio/*,video/*"
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator("#status [role=alert]")).to_contain_text("Record or upload a clip")
    page.locator("#language input").click()
    page.get_by_role("option", name="Spanish · tags untested").click()
    upload(page, spoken_clip)
    compare(page)
    expect(page.locator("#status")).to_contain_text("All three agree")


def test_markup_in_a_reference_a_file_name_and_a_script_is_escaped(visit, tmp_path, spoken_clip):
    page = visit()
    hostile = tmp_path / "<img src=x onerror=document.title=3>.wav"
    shutil.copy(spoken_clip, hostile)
    upload(page, str(hostile))
    compare(page)
    page.locator("#reference textarea").fill(HOSTILE)
    expect(page.locator(".ev-missing").first).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#columns")).to_contain_text("${document.title=2}")
    assert page.locator("#columns img").count() == 0
    open_history(page, 1)
    expect(page.locator("#results")).to_contain_text(".wav", timeout=PATIENCE)
    write_script(page, f"[{HOSTILE}] Hello. [sighs] {HOSTILE}")
    page.get_by_role("button", name="Speak", exact=True).click()
    expect(page.locator("#speak-status")).to_contain_text("${document.title=2}", timeout=PATIENCE)
    page.locator("#send").click()
    expect(page.locator(".ev-missing").first).to_be_visible(timeout=PATIENCE)
    assert page.locator('img[src="x"]').count() == 0
    assert page.title() == "Evoxtral"


# ------------------------------------------------------------------------------------- what is shown


def test_a_transcript_is_filtered_explained_copied_downloaded_and_spoken(visit):
    """One comparison, and all that a visitor can do with it."""
    page = visit()
    page.locator("#examples .gallery-item").first.click()
    finish(page)
    categories_are_switched_on_and_off_without_decoding_again(page)
    a_focused_tag_shows_its_probability(page)
    a_transcript_is_copied_and_downloaded_as_it_is(page)
    a_transcript_can_be_sent_to_the_speak_tab(page)


def categories_are_switched_on_and_off_without_decoding_again(page):
    before = page.locator("#columns .ev-tag").count()
    seconds = column(page, "rl").locator('[data-stat="time"]').inner_text()
    for box in page.locator("#categories .wrap input").all():
        box.uncheck()
    expect(page.locator("#columns .ev-tag")).to_have_count(0, timeout=PATIENCE)
    for box in page.locator("#categories .wrap input").all():
        box.check()
    expect(page.locator("#columns .ev-tag")).to_have_count(before, timeout=PATIENCE)
    page.get_by_label("Tags", exact=True).uncheck()
    expect(page.locator("#columns .ev-tag")).to_have_count(0, timeout=PATIENCE)
    page.get_by_label("Tags", exact=True).check()
    expect(page.locator("#columns .ev-tag")).to_have_count(before, timeout=PATIENCE)
    tips = page.locator("#columns .ev-tag").evaluate_all("all => all.map(tag => tag.dataset.tip)")
    certain = sum("100\u00a0% sure" in tip for tip in tips)  # never rounded up to it
    assert certain < before
    for percent, left in (("100", certain), ("0", before)):
        page.locator("#confidence input[type=range]").fill(percent)
        expect(page.locator("#columns .ev-tag")).to_have_count(left, timeout=PATIENCE)
    assert column(page, "rl").locator('[data-stat="time"]').inner_text() == seconds


def a_focused_tag_shows_its_probability(page):
    tag = page.locator("#columns .ev-tag").first
    tag.focus()
    tip = page.locator("#ev-tip")
    expect(tip).to_be_visible()
    assert "sure" in tip.inner_text() and "%" in tip.inner_text()
    box, place = tip.bounding_box(), tag.bounding_box()
    assert box["y"] + box["height"] <= place["y"], "it stands above its tag"
    photograph(page, "tip")
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    column(page, "rl").get_by_text("Tag hallucination").hover()
    expect(tip).to_contain_text("Lower is better")


def a_transcript_is_copied_and_downloaded_as_it_is(page):
    card = column(page, "rl")
    card.get_by_role("button", name="Copy").click()
    expect(card.get_by_text("Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    files = {}
    for kind in ("TXT", "JSON", "SRT", "VTT"):
        with page.expect_download() as download:
            card.get_by_role("link", name=kind, exact=True).click()
        assert download.value.suggested_filename.endswith(f".rl.{kind.lower()}")
        files[kind] = Path(download.value.path()).read_text(encoding="utf-8")
    assert files["TXT"] == json.loads(files["JSON"])["text"] == copied
    assert " ".join(" ".join(cue.content.split()) for cue in srt.parse(files["SRT"])) == copied
    assert files["SRT"].startswith("1\n00:00:00,") and files["VTT"].startswith("WEBVTT")


def a_transcript_can_be_sent_to_the_speak_tab(page):
    text = column(page, "base").locator(".ev-copy").get_attribute("data-copy")
    column(page, "base").get_by_role("button", name="Speak it").click()
    expect(page.locator("#script textarea")).to_have_value(text.replace("\r", "\n"), timeout=PATIENCE)


# ------------------------------------------------------------------------------------- screens


def test_an_example_streams_into_all_columns_without_a_shift_is_scored_and_fits_a_laptop(visit):
    (width, height), larger = LAPTOPS
    page = visit(width, height)
    assert overflow(page) <= (0, 0)
    page.evaluate(  # looks at every frame: a quick machine decodes between two looks from outside
        """() => {
            window.seen = {jumps: 0, streamed: {}, places: {}};
            const add = entries => entries.forEach(entry => { seen.jumps += entry.value; });
            const observer = new PerformanceObserver(list => add(list.getEntries()));
            observer.observe({type: "layout-shift"});
            const look = () => {
                add(observer.takeRecords());
                document.querySelectorAll('.ev-column[aria-busy="true"]')
                    .forEach(card => { seen.streamed[card.dataset.variant] = true; });
                const parts = [...document.querySelectorAll('.ev-column, #go, #reference')];
                seen.places[parts.map(part => part.getBoundingClientRect().top)] = true;
                requestAnimationFrame(look);
            };
            look();
        }"""
    )
    page.locator("#examples .gallery-item").first.click()
    finish(page)
    seen = page.evaluate("window.seen")
    assert set(seen["streamed"]) == {"base", "sft", "rl"}
    assert len(seen["places"]) == 1
    assert seen["jumps"] < 0.02  # cumulative layout shift: up to 0.1 is called good
    for variant in ("base", "sft", "rl"):
        expect(column(page, variant).locator(".ev-scores")).to_contain_text("Tag F1")
    assert page.locator("#clip .timestamps").is_visible()
    assert overflow(page) == (0, 0)
    photograph(page, f"laptop-{width}")
    page.set_viewport_size(dict(zip(("width", "height"), larger, strict=True)))
    assert overflow(page) == (0, 0)
    photograph(page, f"laptop-{larger[0]}")


def test_on_a_phone_the_layout_does_not_shift_while_text_streams(visit, long_clip):
    page = visit(390, 844)
    upload(page, long_clip)
    page.evaluate(
        """() => {
            window.places = new Set();
            const look = () => {
                const columns = [...document.querySelectorAll('.ev-column')];
                if (document.querySelector('.ev-column[aria-busy="true"]'))
                    places.add(`${columns.map(column => column.getBoundingClientRect().top + scrollY)}`);
                requestAnimationFrame(look);
            };
            look();
        }"""
    )
    compare(page)
    assert len(page.evaluate("[...places]")) == 1


def test_a_phone_needs_no_horizontal_scrolling(visit):
    page = visit(390, 844)
    page.locator("#examples .gallery-item").first.click()
    finish(page)
    assert overflow(page)[0] == 0
    photograph(page, "phone")
    page.locator("[data-edit=open]").last.click()
    expect(page.locator("#columns textarea")).to_be_visible(timeout=PATIENCE)
    assert overflow(page)[0] == 0
    photograph(page, "phone-editor")
    open_history(page, 1)
    assert overflow(page)[0] == 0
    photograph(page, "phone-history")
    page.get_by_role("tab", name="Metrics").click()
    for part in ("Results", "Ladders", "Training", "Score"):
        page.get_by_role("tab", name=part).click()
        expect(page.locator(".ev-card:visible").first).to_be_visible()
        assert overflow(page)[0] == 0
        ends = "all => all.filter(e => e.checkVisibility()).map(e => e.getBoundingClientRect().right)"
        assert max(page.locator(".ev-card, .ev-card *:not(svg *)").evaluate_all(ends)) <= 390
        photograph(page, f"phone-{part.split()[0].lower()}")


def test_metrics_show_the_published_table_and_a_bar_for_each_tag(visit):
    page = visit(scheme="dark")
    page.get_by_role("tab", name="Metrics").click()
    expect(page.locator(".ev-table").first).to_contain_text("69.4")
    published = json.loads((ROOT / "evoxtral/assets/results/published.json").read_text(encoding="utf-8"))
    tags = published["variants"]["rl"]["per_tag"]
    expect(card(page, "Published, per tag").locator("tbody tr")).to_have_count(len(tags))
    expect(card(page, "Published, what RL changed").locator("tbody tr")).to_have_count(len(tags))
    photograph(page, "dark-metrics")


def test_a_metrics_definition_opens_below_it_and_the_curves_of_the_training_run_are_drawn(visit):
    page = visit()
    page.get_by_role("tab", name="Metrics").click()
    definition = page.locator("#ev-published-wer")
    expect(definition).to_be_hidden()
    card(page, "Published").get_by_role("button", name="WER", exact=True).press("Enter")
    expect(definition).to_contain_text("Word errors per word of the reference")
    photograph(page, "metric-defined")
    page.keyboard.press("Escape")
    expect(definition).to_be_hidden()
    page.get_by_role("tab", name="Training").click()
    expect(page.locator(".ev-plot:visible")).to_have_count(4)
    assert page.locator(".ev-plot:visible").first.bounding_box()["height"] > 200
    photograph(page, "training")


def test_a_file_of_pairs_is_scored_and_an_invalid_file_keeps_the_last_report(visit, tmp_path):
    page = visit()
    page.get_by_role("tab", name="Metrics").click()
    page.get_by_role("tab", name="Score").click()
    pairs, wrong = tmp_path / "mine.jsonl", tmp_path / "wrong.jsonl"
    pairs.write_text(
        json.dumps({"prediction": f"[sighs] [{HOSTILE}] So it is", "reference": "[sighs] So it IS"}) + "\n",
        encoding="utf-8",
    )
    wrong.write_text(pairs.read_text(encoding="utf-8") + '{"prediction": "a"}\n', encoding="utf-8")
    page.locator('#pairs input[type="file"]').set_input_files(str(pairs))
    report = page.locator("#own-report")
    expect(report.locator(".ev-table")).to_contain_text("Tag F1", timeout=PATIENCE)
    expect(report).to_contain_text("<img")
    with page.expect_download() as download:
        report.get_by_role("link", name="Download JSON").click()
    assert download.value.suggested_filename == "mine.scores.json"
    scores = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert scores["n"] == 1 and scores["tag_recall"] == 1.0 and "sighs" in scores["tag_intervals"]
    photograph(page, "scored")
    page.locator("#pairs").get_by_label("Clear").click()
    page.locator('#pairs input[type="file"]').set_input_files(str(wrong))
    expect(page.locator("#score-status")).to_contain_text('wrong.jsonl, line 2 has no "reference"', timeout=PATIENCE)
    expect(report.locator(".ev-table")).to_be_visible()  # of the file before
    assert page.title() == "Evoxtral" and report.locator("img").count() == 0


def test_the_first_paint_needs_few_bytes_and_nothing_is_fetched_from_other_sites(chromium):
    """Whatever the machine and the line: what is loaded by then is what a visitor waits for."""
    context = new_context(chromium)
    page = context.new_page()
    hosts = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2] if "://" in request.url else ""))
    page.goto(app_url())
    expect(page.locator("#go")).to_be_visible(timeout=PATIENCE)
    loaded = page.evaluate(
        """() => {
            const painted = performance.getEntriesByName('first-contentful-paint')[0].startTime;
            const files = performance.getEntriesByType('resource').filter(file => file.responseEnd <= painted);
            return [...files, performance.getEntriesByType('navigation')[0]]
                .reduce((sum, file) => sum + file.transferSize, 0);
        }"""
    )
    context.close()
    assert hosts <= {app_url().split("/")[2], ""}
    assert 0 < loaded < 3e6


# ------------------------------------------------------------------------------------- history and edits


def open_history(page, results: int) -> None:
    page.get_by_role("tab", name="History").click()
    expect(page.locator("#results input")).to_have_count(results, timeout=PATIENCE)


def test_a_transcript_is_edited_in_place_exported_as_edited_and_undone(visit):
    page = visit()
    page.locator("#examples .gallery-item").first.click()
    finish(page)
    card = column(page, "rl")
    by_model = card.locator(".ev-copy").get_attribute("data-copy")
    card.get_by_role("button", name="Edit").click()
    box = card.locator("textarea")
    expect(box).to_be_focused(timeout=PATIENCE)
    box.fill(f"{by_model} [laughs] {HOSTILE}")
    page.locator("#confidence input[type=range]").fill("30")  # draws the columns anew
    expect(card.locator(".ev-exports")).to_have_count(0)
    expect(box).to_have_value(f"{by_model} [laughs] {HOSTILE}")
    card.get_by_role("button", name="Done").click()
    expect(card.locator(".ev-badge")).to_have_text("edited", timeout=PATIENCE)
    expect(card.get_by_role("button", name="Edit", exact=True)).to_be_focused(timeout=PATIENCE)
    expect(card).to_contain_text("${document.title=2}")
    with page.expect_download() as download:
        card.get_by_role("link", name="TXT").click()
    assert Path(download.value.path()).read_text(encoding="utf-8").endswith(f"[laughs] {HOSTILE}")
    photograph(page, "edited")
    card.get_by_role("button", name="Undo edit").click()
    expect(card.locator(".ev-badge")).to_have_count(0, timeout=PATIENCE)
    page.locator("#confidence input[type=range]").fill("0")
    expect(card.locator(".ev-copy")).to_have_attribute("data-copy", by_model, timeout=PATIENCE)
    assert page.title() == "Evoxtral"


def test_results_survive_a_reload_and_can_be_shown_compared_and_exported(visit):
    page = visit()
    for number, example in enumerate(page.locator("#examples .gallery-item").all()[:2]):
        example.click()
        expect(page.locator("#reference textarea")).not_to_be_empty(timeout=PATIENCE)
        page.wait_for_function("count => resultStore.all().length === count", arg=number + 1, timeout=PATIENCE)
        open_history(page, number + 1)
        page.get_by_role("tab", name="Compare").click()
    text = column(page, "rl").locator(".ev-text").inner_text()
    scores = column(page, "rl").locator(".ev-scores").inner_text()
    page.reload()
    open_history(page, 2)
    page.locator("#results input").first.check()
    expect(page.locator("#downloads")).to_contain_text("1 chosen result", timeout=PATIENCE)
    page.locator("#show-again").click()
    finish(page)
    expect(page.locator("#status")).to_contain_text("Earlier")
    assert column(page, "rl").locator(".ev-text").inner_text() == text
    expect(column(page, "rl").locator(".ev-scores")).to_have_text(scores, use_inner_text=True, timeout=PATIENCE)
    page.get_by_role("tab", name="History").click()
    page.locator("#results input").last.check()
    expect(page.locator("#downloads")).to_contain_text("2 chosen results", timeout=PATIENCE)
    photograph(page, "history")
    with page.expect_download() as download:
        page.locator("#downloads").get_by_role("link", name="JSON").click()
    listed = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert [list(entry["variants"]) for entry in listed] == [["base", "sft", "rl"]] * 2
    page.locator("#show-again").click()
    expect(page.locator(".ev-exports")).to_have_count(2, timeout=PATIENCE)
    photograph(page, "history-compared")


def test_chosen_results_are_deleted_and_all_are_cleared_after_a_confirmation(visit):
    page = visit()
    page.get_by_role("tab", name="History").click()
    expect(page.locator("#history-status")).to_contain_text("Nothing yet", timeout=PATIENCE)
    page.get_by_role("tab", name="Compare").click()
    for number in (0, 1):
        page.locator("#examples .gallery-item").nth(number).click()
        page.wait_for_function("count => resultStore.all().length === count", arg=number + 1, timeout=PATIENCE)
    open_history(page, 2)
    show, delete = page.locator("#show-again"), page.locator("#delete-chosen")
    expect(show).to_be_disabled()
    expect(delete).to_be_disabled()
    page.locator("#results label").filter(has_text="bedtime").locator("input").check()
    expect(show).to_be_enabled(timeout=PATIENCE)
    page.once("dialog", lambda dialog: dialog.dismiss())
    delete.click()
    open_history(page, 2)
    page.once("dialog", lambda dialog: dialog.accept())
    delete.click()
    open_history(page, 1)
    expect(page.locator("#results")).to_contain_text("confession")
    expect(show).to_be_disabled(timeout=PATIENCE)
    expect(delete).to_be_disabled()
    clear = page.get_by_role("button", name="Clear history")
    page.once("dialog", lambda dialog: dialog.dismiss())
    clear.click()
    open_history(page, 1)
    page.once("dialog", lambda dialog: dialog.accept())
    clear.click()
    expect(page.locator("#history-status")).to_contain_text("Nothing yet", timeout=PATIENCE)
    page.reload()
    page.get_by_role("tab", name="History").click()
    expect(page.locator("#history-status")).to_contain_text("Nothing yet", timeout=PATIENCE)


def test_two_tabs_share_the_history_and_deleted_results_stay_deleted(visit):
    one = visit()
    other = one.context.new_page()
    other.goto(app_url())
    expect(other.locator(".ev-model b")).to_be_visible(timeout=PATIENCE)
    for number, page in enumerate((one, other)):
        page.locator("#examples .gallery-item").nth(number).click()
        finish(page)
        open_history(page, number + 1)
    expect(one.locator("#results input")).to_have_count(2, timeout=PATIENCE)  # in the list that was open
    other.get_by_role("tab", name="Compare").click()
    for what, text in (("Edit", ""), ("Done", "one word")):
        if text:
            column(other, "rl").locator("textarea").fill(text)
        column(other, "rl").get_by_role("button", name=what).click()
    expect(one.locator("#results")).to_contain_text("RL (edited)", timeout=PATIENCE)
    one.once("dialog", lambda dialog: dialog.accept())
    one.get_by_role("button", name="Clear history").click()
    expect(one.locator("#history-status")).to_contain_text("Nothing yet", timeout=PATIENCE)
    column(other, "rl").get_by_role("button", name="Undo edit").click()
    expect(column(other, "rl").locator(".ev-badge")).to_have_count(0, timeout=PATIENCE)
    other.get_by_role("tab", name="History").click()
    expect(other.locator("#history-status")).to_contain_text("Nothing yet", timeout=PATIENCE)
    assert other.evaluate("resultStore.all()") == []


BLOCKED = "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('', 'SecurityError'); }})"
FULL = "localStorage.setItem('of others', 'x'.repeat(5 * 2 ** 20 - 50))"


@pytest.mark.parametrize("storage", [BLOCKED, FULL], ids=["blocked", "full"])
def test_results_that_cannot_be_stored_stay_in_the_page_with_a_warning(chromium, storage):
    context = new_context(chromium)
    context.add_init_script(storage)
    page = context.new_page()
    page.goto(app_url())
    expect(page.locator(".ev-model b")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#not-stored")).to_be_hidden()
    for number in (0, 1):
        page.locator("#examples .gallery-item").nth(number).click()
        finish(page)
        expect(page.locator("#not-stored [role=alert]")).to_contain_text(
            "until it is closed or reloaded", timeout=PATIENCE
        )
        open_history(page, number + 1)
        page.get_by_role("tab", name="Compare").click()
    photograph(page, "not-stored")
    open_history(page, 2)
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Clear history").click()
    expect(page.locator("#not-stored")).to_be_hidden(timeout=PATIENCE)
    context.close()


def test_the_oldest_results_are_evicted_beyond_the_limits(visit):
    page = visit()
    add = """([first, last, size]) => {
        for (let i = first; i <= last; i++)
            resultStore.apply([{add: {id: `${i}`, time: `2026-11-22 14:32:${i}`, file: "x".repeat(size)}}]);
        return resultStore.all().map(result => Number(result.id));
    }"""
    assert page.evaluate(add, [10, 62, 10]) == list(range(13, 63))
    assert page.evaluate(add, [63, 64, 400_000]) == [*range(15, 63), 63, 64]
    assert page.evaluate(add, [65, 65, 400_000]) == [64, 65]
    assert page.evaluate(add, [66, 66, 1_200_000]) == [66]  # the newest stays, whatever its size


def test_the_page_works_with_any_content_of_the_storage(chromium):
    context = new_context(chromium)
    for name, stored in zip("fedcba", ("not JSON", "", "7", "null", "[1, 2]", '{"id": "a"}'), strict=True):
        context.add_init_script(f"localStorage.setItem('evoxtral-result-{name}', {json.dumps(stored)})")
    page = context.new_page()
    page.goto(app_url())
    page.get_by_role("tab", name="History").click(timeout=PATIENCE)
    expect(page.locator("#history-status")).to_contain_text("Nothing yet", timeout=PATIENCE)
    context.close()


def test_a_full_queue_is_reported_and_the_columns_are_kept(visit):
    page = visit()
    page.locator("#examples .gallery-item").first.click()
    finish(page)
    full = '{"detail": "Queue is full. Max size is 24 and size is 24."}'
    page.route("**/queue/join*", lambda route: route.fulfill(status=503, content_type="application/json", body=full))
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator("#status [role=alert]")).to_contain_text("press Compare again", timeout=PATIENCE)
    expect(page.get_by_text("currently busy")).to_be_hidden()  # Gradio's own note: one sentence is enough
    expect(page.locator(".toast-body")).to_have_count(0)
    photograph(page, "full-house")
    page.unroute("**/queue/join*")
    finish(page)


# ------------------------------------------------------------------------------------- ElevenLabs


def test_a_clip_of_elevenlabs_is_transcribed_with_its_script_as_the_reference(visit):
    recording = io.BytesIO()
    soundfile.write(recording, speak(SPOKEN).waveform, audio.SAMPLE_RATE, format="MP3")
    with serving(ELEVENLABS_PORT) as elevenlabs:
        elevenlabs.body = recording.getvalue()
        page = visit()
        write_script(page, SPOKEN)
        page.get_by_role("button", name="In ElevenLabs v3").click()
        page.locator("#key input").fill(KEY)
        page.locator("#speak-there").click()
        expect(page.locator("#speak-status")).to_contain_text("Spoken by ElevenLabs v3", timeout=PATIENCE)
        photograph(page, "elevenlabs-spoken")
        page.locator("#send").click()
        finish(page)
    ((_, key, sent),) = elevenlabs.asked
    assert (key, sent["text"]) == (KEY, SPOKEN)
    assert page.locator("#reference textarea").input_value() == SPOKEN
    expect(column(page, "rl").locator(".ev-scores")).to_contain_text("Tag F1")


def test_an_invalid_key_is_reported_and_gone_after_a_reload(visit):
    page = visit()
    page.get_by_role("tab", name="Speak").click()
    page.get_by_role("button", name="In ElevenLabs v3").click()
    key = page.locator("#key input")
    expect(key).to_have_attribute("type", "password")
    key.fill("no such key")  # with spaces in it, it is not sent anywhere
    page.get_by_role("button", name="Speak in ElevenLabs v3").click()
    alert = page.locator("#speak-status [role=alert]")
    expect(alert).to_contain_text("no ElevenLabs key", timeout=PATIENCE)
    assert "no such key" not in alert.inner_text()
    photograph(page, "speak-elevenlabs")
    assert "no such key" not in page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    page.reload()
    page.get_by_role("tab", name="Speak").click()
    page.get_by_role("button", name="In ElevenLabs v3").click()
    expect(page.locator("#key input")).to_have_value("", timeout=PATIENCE)


def test_a_replaced_script_can_be_brought_back(visit):
    page = visit()
    script = write_script(page, "[sighs] This one is mine.")
    page.get_by_role("button", name="Surprise me").click()
    expect(script).not_to_have_value("[sighs] This one is mine.", timeout=PATIENCE)
    page.get_by_role("button", name="Bring mine back").click()
    expect(script).to_have_value("[sighs] This one is mine.", timeout=PATIENCE)
