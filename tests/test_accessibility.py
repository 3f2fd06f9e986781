"""Everyone can use the page: axe-core finds nothing serious in any tab, and the keyboard reaches every control."""

from collections.abc import Mapping
from contextlib import contextmanager
from types import MappingProxyType

import pytest
from test_browser import (  # noqa: F401
    PATIENCE,
    chromium,
    expect,
    finish,
    photograph,
    pytestmark,
    spoken_clip,
    visit,
    visitors,
    write_script,
)

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

CONTROLS = """() => [...document.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex="0"]')]
    .filter(e => e.checkVisibility({visibilityProperty: true, opacityProperty: true}) && !e.disabled && e.tabIndex >= 0
        && !(e.type === 'radio' && !e.checked) && e.getClientRects().length)"""
# Notes what has had the focus. Of several radio buttons only the chosen one is a stop.
NOTE = "() => document.addEventListener('focusin', event => event.target.setAttribute('data-reached', ''))"
UNREACHED = f"() => ({CONTROLS})().filter(e => !e.hasAttribute('data-reached')).map(e => e.outerHTML.slice(0, 160))"


INNER = {"Metrics": "Results"}  # tabs inside a tab, by one of them
# Gradio lays a tab out when it is first opened: until nothing has changed for ten frames.
QUIET = """() => new Promise(done => {
    let frames = 0;
    const watch = new MutationObserver(() => { frames = 0; });
    watch.observe(document.body, {subtree: true, childList: true, attributes: true});
    const count = () => ++frames > 10 ? (watch.disconnect(), done()) : requestAnimationFrame(count);
    count();
})"""


def open_tabs(page):
    """Opens every tab, and the tabs inside it, one after the other, and gives its name."""

    def opened(name: str) -> None:
        tab = page.get_by_role("tab", name=name, exact=True)
        tab.click()
        expect(tab).to_have_attribute("aria-selected", "true")
        if name in INNER:
            expect(page.get_by_role("tab", name=INNER[name], exact=True)).to_be_visible()
        expect(page.locator('[role="tabpanel"]:visible').last).not_to_be_empty()
        page.evaluate(QUIET)

    def shown() -> list[str]:
        return page.get_by_role("tab").all_inner_texts()

    outer = shown()
    for name in outer:
        opened(name)
        inner = [other for other in shown() if other not in outer]
        for part in inner:
            opened(part)
            yield f"{name} > {part}"
        if not inner:
            yield name


COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
IS_DARK = "dark => document.body.classList.contains('dark') === dark"
SETTLED = (
    "() => document.getAnimations().forEach(animation => animation.finish())"  # no colour is on its way to another
)


@contextmanager
def in_the_dark(page):
    """The same page in dark colours, as the system's setting changes."""
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(IS_DARK, arg=scheme == "dark")
        page.evaluate(SETTLED)
        if scheme == "dark":
            yield


def serious(page) -> list[str]:
    """What axe-core finds serious or critical: rule, why, and where. In the dark, colours alone are others."""
    page.evaluate(REMOVE_REPEATED)
    found = violations(page)
    with in_the_dark(page):
        return found + [f"dark: {violation}" for violation in violations(page, COLOURS)]


# Takes out rows of tables that differ from one shown before in texts and numbers only: what is found there is in that.
REMOVE_REPEATED = """() => {
    const seen = new Set();
    for (const row of document.querySelectorAll('tbody tr')) {
        if (!row.checkVisibility()) continue;
        let shape = row.outerHTML.replace(/>[^<]+</g, '>.<').replace(/[0-9.]+/g, '0');
        for (let above = row.parentElement; above; above = above.parentElement)
            shape += `${above.tagName}.${above.className}`;
        seen.has(shape) ? row.remove() : seen.add(shape);
    }
}"""


def violations(page, rules: Mapping = MappingProxyType({})) -> list[str]:
    found = axe.Axe().run(page, options={"resultTypes": ["violations"], **rules}).response["violations"]
    return [
        f"{violation['id']}: {violation['help']}: {node['html'][:200]}"
        for violation in found
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


@pytest.fixture
def used(visit):  # noqa: F811
    """Opens the page with a clip compared, so that what a result adds is looked at too."""

    def open_page():
        page = visit()
        page.locator("#examples .gallery-item").first.click()
        finish(page)
        return page

    return open_page


def test_axe_finds_nothing_serious_in_any_tab(used):
    page = used()
    found = {tab: serious(page) for tab in open_tabs(page)}
    assert {"Compare", "Speak", "Metrics > Results", "Metrics > Score"} <= set(found)
    assert not {tab: violations for tab, violations in found.items() if violations}


def test_axe_finds_nothing_serious_in_editors_and_accordions(used):
    page = used()
    page.locator("[data-edit=open]").last.click()
    expect(page.locator("#columns textarea")).to_be_visible(timeout=PATIENCE)
    photograph(page, "light-editor")
    with in_the_dark(page):
        photograph(page, "dark-editor")
    assert not serious(page)
    write_script(page, "[sighs] So. [long pause] Never.")
    page.get_by_role("button", name="Speak", exact=True).click()
    expect(page.locator(".ev-timeline .ev-tag")).to_have_count(2, timeout=PATIENCE)
    page.get_by_role("button", name="In ElevenLabs v3").click()
    expect(page.locator("#key input")).to_be_visible()
    photograph(page, "light-speak")
    with in_the_dark(page):
        photograph(page, "dark-speak")
    assert not serious(page)


def test_axe_finds_nothing_serious_in_an_uploads_report_and_in_an_error(visit, tmp_path):  # noqa: F811
    page = visit()
    page.get_by_role("tab", name="Metrics").click()
    page.get_by_role("tab", name="Score").click()
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text('{"prediction": "[sad] Oh.", "reference": "[sighs] Oh no."}\n')
    bad.write_text("no JSON\n")
    page.locator('#pairs input[type="file"]').set_input_files(str(good))
    expect(page.locator("#own-report .ev-table")).to_be_visible(timeout=PATIENCE)
    page.locator("#own-report .ev-define").first.click()
    assert not serious(page)
    page.locator("#pairs").get_by_label("Clear").click()
    page.locator('#pairs input[type="file"]').set_input_files(str(bad))
    expect(page.locator("#score-status [role=alert]")).to_be_visible(timeout=PATIENCE)
    assert not serious(page)


def test_the_keyboard_reaches_every_control_of_every_tab(used):
    page = used()
    page.evaluate(NOTE)
    unreached = {}
    for tab in open_tabs(page):
        page.evaluate("document.activeElement.blur()")
        for _ in range(page.evaluate(f"() => ({CONTROLS})().length") + 20):
            page.keyboard.press("Tab")
        page.keyboard.press("Escape")  # a list that opens with the focus lies over the tabs
        unreached[tab] = page.evaluate(UNREACHED)
    assert not {tab: controls for tab, controls in unreached.items() if controls}
