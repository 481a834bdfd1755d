"""The report in a real browser: what only one can tell."""

import json
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.evening import Evening
from fakes.kept import kept_study
from programs_here import needed
from selenium import webdriver
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from autotune.results.report.page import page
from autotune.results.stored import Stored

COMMAND = ("llama-server", "--model", "/models/it's <b>.gguf", "--threads", "6")
SHOWN = r"""llama-server --model '/models/it'"'"'s <b>.gguf' --threads 6"""
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>\x1b\n" + "x" * 400
SCHEMES = ("light", "dark")
PHONE, DESK = (390, 844), (1280, 900)
# WCAG 2.2, success criteria 1.4.3 and 1.4.11.
LEAST_CONTRAST, LEAST_GRAPHIC_CONTRAST = 4.5, 3.0

# The contrast of every text with what is behind it, the worst first.
_CONTRASTS = """
const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = (colour) => {
  const [r, g, b] = numbers(colour).map(channel);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor;
    if (numbers(colour)[3] !== 0) return colour;
  }
  return "rgb(255, 255, 255)";
};
const found = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  if (!own || element.closest("script, title, desc")) continue;
  const style = getComputedStyle(element);
  const colour = element.closest("svg") ? style.fill : style.color;
  const [a, b] = [light(colour), light(behind(element))].sort((x, y) => y - x);
  found.push([(a + 0.05) / (b + 0.05), element.textContent.slice(0, 40)]);
}
return found.sort((x, y) => x[0] - y[0]);
"""
# The same of the colours that marks and lines are drawn with.
_GRAPHIC_COLOURS = """
const style = getComputedStyle(document.documentElement);
return arguments[0].map((name) => style.getPropertyValue("--" + name).trim());
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    """Give a headless Chromium that counts its requests."""
    chromium, chromedriver = needed("chromium"), needed("chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=Service(chromedriver)) as chrome:
        yield chrome


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give the reports of some studies, by what is particular of them."""
    folder = tmp_path_factory.mktemp("reports")
    study = kept_study(folder / "kept")
    studies = {
        "plain": study,
        "hostile": _hostile(kept_study(folder / "odd", Evening(model=HOSTILE, program=HOSTILE))),
        "unfinished": replace(
            study,
            evidence=None,
            environment={},
            folder=replace(study.folder, state="interrupted"),
        ),
    }
    written = {}
    for name, one in studies.items():
        written[name] = folder / f"{name}.html"
        written[name].write_text(page(one, command=COMMAND), encoding="utf-8")
    return written


def _hostile(study: Stored) -> Stored:
    named = [replace(v, trial=replace(v.trial, source=HOSTILE)) for v in study.visited]
    folder = replace(study.folder, workload=HOSTILE, machine=HOSTILE)
    return replace(study, visited=tuple(named), folder=folder)


def opened(
    browser: Chrome, path: Path, *, scheme: str = "light", size: tuple[int, int] = DESK
) -> None:
    """Open a page as somebody with these wishes and this screen sees it."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(path.as_uri())


def logged(browser: Chrome, kind: str) -> list[dict[str, Any]]:
    """What was logged since the last time."""
    entries: list[dict[str, Any]] = browser.get_log(kind)  # type: ignore[no-untyped-call]
    return entries


def requested(browser: Chrome) -> list[str]:
    """The addresses that were asked for since the last time."""
    messages = [json.loads(entry["message"])["message"] for entry in logged(browser, "performance")]
    sent = (m["params"] for m in messages if m["method"] == "Network.requestWillBeSent")
    return [str(one["request"]["url"]) for one in sent]


def open_all(browser: Chrome) -> None:
    browser.execute_script("document.querySelectorAll('details').forEach((d) => (d.open = true))")


@pytest.mark.parametrize("name", ["plain", "hostile", "unfinished"])
def test_nothing_goes_wrong_and_nothing_is_asked_for(
    browser: Chrome, pages: dict[str, Path], name: str
) -> None:
    logged(browser, "browser")
    requested(browser)

    opened(browser, pages[name])
    open_all(browser)

    assert logged(browser, "browser") == []
    assert [url for url in requested(browser) if not url.startswith("data:")] == [
        pages[name].as_uri()
    ]


def test_the_page_s_own_policy_keeps_it_from_asking(
    browser: Chrome, pages: dict[str, Path]
) -> None:
    """Whatever a name would smuggle in: no script runs, and nothing is fetched."""
    opened(browser, pages["plain"])
    with socket.create_server(("127.0.0.1", 0)) as server:
        browser.execute_script(
            "document.body.insertAdjacentHTML('beforeend', arguments[0]);",
            f"<img src='http://127.0.0.1:{server.getsockname()[1]}/x.png' onerror='ran = 1'>",
        )
        WebDriverWait(browser, 5).until(lambda _: "img-src" in str(logged(browser, "browser")))

        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()
    assert browser.execute_script("return window.ran") is None


# --- the copy button -----------------------------------------------------------------------------


def allow_clipboard(browser: Chrome, setting: str) -> None:
    for name in ("clipboard-write", "clipboard-read"):
        permission = {"name": name, "allowWithoutSanitization": False}
        wish = {"permission": permission, "setting": setting}
        browser.execute_cdp_cmd("Browser.setPermission", wish)


def clipboard(browser: Chrome) -> str:
    allow_clipboard(browser, "granted")
    text: str = browser.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    return text


def copied(browser: Chrome) -> str:
    """What is said of it, once something is."""
    status = browser.find_element(By.ID, "copied")
    WebDriverWait(browser, 5).until(lambda _: status.text)
    return status.text


@pytest.mark.parametrize("setting", ["granted", "denied"])
def test_the_button_copies_the_command(
    browser: Chrome, pages: dict[str, Path], setting: str
) -> None:
    """Also where the page may not use the clipboard by itself."""
    opened(browser, pages["plain"])
    clipboard(browser)
    browser.execute_async_script("navigator.clipboard.writeText('before').then(arguments[0])")
    allow_clipboard(browser, setting)

    browser.find_element(By.ID, "copy").click()

    assert copied(browser) == "copied"
    assert clipboard(browser) == SHOWN
    assert browser.find_element(By.ID, "copied").get_attribute("role") == "status"


def test_where_nothing_can_be_copied_the_command_is_selected(
    browser: Chrome, pages: dict[str, Path]
) -> None:
    opened(browser, pages["plain"])
    allow_clipboard(browser, "denied")
    browser.execute_script("document.execCommand = () => false;")

    browser.find_element(By.ID, "copy").click()

    assert "keyboard" in copied(browser)
    assert browser.execute_script("return getSelection().toString()") == SHOWN


# --- for everybody -------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["plain", "hostile", "unfinished"])
def test_a_phone_shows_it_without_scrolling_sideways(
    browser: Chrome, pages: dict[str, Path], name: str, scheme: str
) -> None:
    opened(browser, pages[name], scheme=scheme, size=PHONE)
    open_all(browser)

    root = "document.documentElement"
    assert browser.execute_script(f"return [{root}.scrollWidth, innerWidth]") == [390, 390]
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('svg text')]"
        ".map((text) => text.getBoundingClientRect().height)"
    )
    assert min(sizes, default=99) >= 10


def test_the_first_screen_has_the_verdict_both_sides_and_the_command(
    browser: Chrome, pages: dict[str, Path]
) -> None:
    opened(browser, pages["plain"])

    for what in ("h1", ".sides table", "#command", "#copy", ".warnings"):
        assert browser.find_element(By.CSS_SELECTOR, what).rect["y"] < DESK[1], what


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_text_can_be_read_on_what_is_behind_it(
    browser: Chrome, pages: dict[str, Path], scheme: str
) -> None:
    opened(browser, pages["plain"], scheme=scheme)
    open_all(browser)

    found: list[tuple[float, str]] = browser.execute_script(_CONTRASTS)

    assert len(found) > 300
    assert found[0][0] >= LEAST_CONTRAST, found[:5]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_marks_stand_out_from_the_paper(
    browser: Chrome, pages: dict[str, Path], scheme: str
) -> None:
    opened(browser, pages["plain"], scheme=scheme)
    names = ["paper", "muted", "base", "win", "bad", "third", "fourth"]

    paper, *marks = browser.execute_script(_GRAPHIC_COLOURS, names)

    assert {contrast(mark, paper) >= LEAST_GRAPHIC_CONTRAST for mark in marks} == {True}


def contrast(one: str, other: str) -> float:
    lights = sorted((luminance(one), luminance(other)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def luminance(colour: str) -> float:
    """Of #rrggbb, as WCAG has it."""
    parts = (int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5))
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_two_schemes_differ(browser: Chrome, pages: dict[str, Path]) -> None:
    papers = []
    for scheme in SCHEMES:
        opened(browser, pages["plain"], scheme=scheme)
        body = browser.find_element(By.TAG_NAME, "body")
        papers.append(body.value_of_css_property("background-color"))

    assert papers[0] != papers[1]


def test_a_keyboard_reaches_and_uses_everything(browser: Chrome, pages: dict[str, Path]) -> None:
    opened(browser, pages["plain"])
    reached = []
    for _ in range(30):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        at = browser.switch_to.active_element
        if at.tag_name == "body":
            break
        reached.append(at.tag_name)
        if at.tag_name in {"summary", "button"}:
            assert at.value_of_css_property("outline-style") == "solid"
            ActionChains(browser).send_keys(Keys.ENTER).perform()

    assert "button" in reached
    assert copied(browser)
    details = browser.find_elements(By.TAG_NAME, "details")
    assert reached.count("summary") == len(details) > 0
    assert all(one.get_attribute("open") for one in details)


def test_a_screen_reader_hears_names_of_everything(browser: Chrome, pages: dict[str, Path]) -> None:
    opened(browser, pages["plain"])
    open_all(browser)

    tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]

    said = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in tree if "role" in n]
    images = [name for role, name in said if role in {"image", "img", "graphics-document"}]
    assert len(images) == 6
    for role in ("image", "button", "region", "table", "columnheader", "rowheader", "heading"):
        names = [name for found, name in said if found == role]
        assert all(names), role
        assert names, role
    assert levels(tree) == [1, *[2] * 11]
    assert browser.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"
    assert browser.title.startswith("Llama 3.1 8B Instruct: 1.27x faster")


def levels(tree: Sequence[dict[str, Any]]) -> list[int]:
    """Of the headings, in their order."""
    return [
        int(item["value"]["value"])
        for node in tree
        if node.get("role", {}).get("value") == "heading"
        for item in node["properties"]
        if item["name"] == "level"
    ]
