"""The report in a browser: nothing is asked for, nothing sticks out, all can be read, and it looks as recorded."""

from __future__ import annotations

import pytest

from onnxport.report.render import render_report
from tests.browser import Browser, program
from tests.unit.pictures import check_picture
from tests.unit.report_samples import failed_manifest, hostile_manifest, sample_manifest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(program() is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
]
PAGES = {"passed": (sample_manifest, True), "failed": (failed_manifest, False), "hostile": (hostile_manifest, True)}
OPEN = "document.querySelectorAll('details').forEach(one => one.open = true)"
# Elements that are wider than the page, but for those that scroll by themselves.
STICKING_OUT = """
[...document.querySelectorAll('body *')].filter(one => {
  if (one.closest('.scroll') && !one.matches('.scroll')) return false;
  if (one.closest('svg') && !one.matches('svg')) return false;
  const box = one.getBoundingClientRect();
  return box.width > 0 && (box.right > innerWidth + 1 || box.left < -1);
}).map(one => one.tagName + '.' + one.getAttribute('class'))
"""
# WCAG 2.2, success criterion 1.4.3: relative luminance, and contrast of text with what it is drawn on.
CONTRAST = """
(() => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const part = [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const behind = one => {
    const core = one.closest('svg') && one.matches('.on-core') && document.querySelector('.core');
    if (core) return numbers(getComputedStyle(core).fill);
    const port = one.closest('g') && one.closest('g').querySelector('.box');
    if (port) return numbers(getComputedStyle(port).fill);
    for (let at = one; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const worst = {};
  for (const one of document.querySelectorAll('body *')) {
    const own = [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || one.matches('title') || !one.getClientRects().length) continue;
    const style = getComputedStyle(one);
    const front = numbers(one.closest('svg') ? style.fill : style.color);
    const pair = [light(front), light(behind(one))].sort((a, b) => b - a);
    const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
    const key = one.tagName + '.' + (one.getAttribute('class') || '');
    if (!(key in worst) || contrast < worst[key]) worst[key] = contrast;
  }
  return worst;
})()
"""


@pytest.fixture(scope="module")
def browser():
    with Browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for name, (make, published) in PAGES.items():
        (folder / f"{name}.html").write_text(render_report(make(), f"{name}-model", published=published), "utf-8")
    return folder


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_asked_for_and_no_script_runs(browser, files, name):
    page = browser.open(files / f"{name}.html", width=900)
    try:
        assert page.requests() == [(files / f"{name}.html").as_uri()]
        assert page.evaluate("document.scripts.length") == 0
        assert not any(event.get("method") == "Page.javascriptDialogOpening" for event in browser.events)
    finally:
        page.close()


@pytest.mark.parametrize("width", (360, 768, 1280))
@pytest.mark.parametrize("name", PAGES)
def test_nothing_sticks_out(browser, files, name, width):
    page = browser.open(files / f"{name}.html", width=width)
    try:
        page.evaluate(OPEN)
        assert page.evaluate("innerWidth") == width
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(STICKING_OUT) == []
    finally:
        page.close()


@pytest.mark.parametrize("dark", (False, True), ids=("light", "dark"))
@pytest.mark.parametrize("name", ("passed", "failed"))
def test_all_text_can_be_read(browser, files, name, dark):
    page = browser.open(files / f"{name}.html", width=1100, dark=dark)
    try:
        page.evaluate(OPEN)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(14, 17, 22)") == dark
        found = page.evaluate(CONTRAST)
        assert len(found) > 20
        assert {key: value for key, value in found.items() if value < 4.5} == {}
    finally:
        page.close()


def test_print_is_light_and_without_scrolling(browser, files):
    page = browser.open(files / "passed.html", width=800, dark=False, media="print")
    try:
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    finally:
        page.close()


@pytest.mark.parametrize(("name", "width", "dark"), [
    ("passed", 1100, False), ("passed", 1100, True), ("passed", 360, False), ("failed", 1100, False),
    ("failed", 360, True),
])  # fmt: skip
def test_it_looks_as_recorded(browser, files, name, width, dark):
    page = browser.open(files / f"{name}.html", width=width, dark=dark)
    try:
        picture = page.screenshot()
    finally:
        page.close()
    check_picture(f"report-{name}-{width}-{'dark' if dark else 'light'}", picture)


def test_a_change_of_the_page_is_seen(browser, files, monkeypatch):
    """The comparison of pictures finds a section that is gone, and a page in the other scheme."""
    monkeypatch.delenv("UPDATE_SNAPSHOTS", raising=False)
    recorded = "report-passed-1100-light"
    page = browser.open(files / "passed.html", width=1100)
    page.evaluate("document.querySelector('.tiles').style.background = '#c00'")
    page.evaluate("document.querySelectorAll('.chart').forEach(one => one.remove())")
    changed = page.screenshot()
    page.close()
    dark = browser.open(files / "passed.html", width=1100, dark=True)
    other = dark.screenshot()
    dark.close()
    for picture in (changed, other):
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            check_picture(recorded, picture)
