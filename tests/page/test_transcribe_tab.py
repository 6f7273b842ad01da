"""Files, recordings and what is done with their text."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.conftest import DATA
from tests.page.actions import DONE, add, choose_model, click_word, text_of, words_of
from tests.page.conftest import CLIP, KEY, Window

pytestmark = pytest.mark.page
SAID = json.loads((DATA / "librivox.json").read_text(encoding="utf-8"))


def test_a_click_on_the_sample_gives_its_text(window: Window) -> None:
    page = window()
    expect(page.get_by_label("Model")).to_have_value("base")
    page.get_by_role("button", name="Try a sample").click()
    expect(page.locator(".state")).to_have_text(DONE, timeout=60_000)
    assert "made still more respectable than he was" in text_of(page)
    assert "base" in page.locator(".state").inner_text()
    page.get_by_text("How it was made").click()
    expect(page.locator(".made td").first).to_have_text("base")


def test_a_keyboard_goes_on_from_the_text_of_the_sample(window: Window) -> None:
    page = window()
    page.get_by_role("button", name="Try a sample").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".state")).to_have_text(DONE, timeout=60_000)
    assert page.evaluate("document.activeElement.id") == "job"


def test_a_file_is_dropped(window: Window) -> None:
    page = window()
    expect(page.get_by_label("Model")).to_be_visible()
    data = page.evaluate_handle(
        """(bytes) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "dropped.wav", {type: "audio/wav"}));
            return data;
        }""",
        list(CLIP.read_bytes()),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    expect(page.locator(".state")).to_have_text(DONE, timeout=60_000)
    assert words_of(text_of(page)) == SAID[CLIP.name].replace("mister", "mr")


def test_two_files_at_once(window: Window) -> None:
    page = window()
    files = [DATA / "librivox-0870.wav", DATA / "librivox-0920.wav"]
    add(page, *files, wait=False)
    states = page.locator(".jobs .job-state")
    expect(states).to_have_text([re.compile("Done"), re.compile("Done")], timeout=60_000)
    for file in files:
        page.get_by_role("button", name=file.name, exact=False).first.click()
        expect(page.locator(".line").first).not_to_be_empty()
        assert words_of(text_of(page)) == SAID[file.name].replace("mister", "mr")


def test_ten_minutes_come_bit_by_bit_and_stop_when_cancelled(
    window: Window, ten_minutes: Path
) -> None:
    page = window()
    choose_model(page, "tiny.en")
    page.evaluate("window.seen = []")
    page.evaluate(
        """new MutationObserver(() => {
            const state = document.querySelector(".state")?.textContent;
            if (state && window.seen.at(-1) !== state) window.seen.push(state);
        }).observe(document.body, {subtree: true, childList: true, characterData: true})"""
    )
    add(page, ten_minutes, wait=False)
    expect(page.locator(".state")).to_contain_text("Transcribing", timeout=60_000)
    expect(page.locator(".line").first).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".state")).to_contain_text("Cancelled at")
    n_lines = page.locator(".line").count()
    assert n_lines > 0
    page.wait_for_timeout(1500)
    assert page.locator(".line").count() == n_lines
    seen: list[str] = page.evaluate("window.seen")
    assert any(state.startswith("Uploading") for state in seen)
    assert any(re.fullmatch(r"Transcribing, \d+:\d\d of 10:00", state) for state in seen), seen
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".state")).to_have_text(DONE, timeout=90_000)
    assert page.locator(".line").count() > 50


def test_what_is_no_audio_is_refused_in_words(window: Window, tmp_path: Path) -> None:
    page = window()
    wrong = tmp_path / "letter.wav"
    wrong.write_text("Dear Sir or Madam, " * 100)
    add(page, wrong, wait=False)
    expect(page.get_by_role("alert").filter(has_text="Choose an audio")).to_be_visible()
    expect(page.locator(".jobs .job-state")).to_have_text("Failed")
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_hidden()
    expect(page.get_by_role("button", name="Try again")).to_be_hidden()


def test_a_file_goes_again_with_the_options_as_they_are_now(window: Window) -> None:
    page = window()
    choose_model(page, "tiny.en")
    page.get_by_label("Language", exact=True).fill("German")
    add(page, CLIP, wait=False)
    expect(page.get_by_role("alert").filter(has_text="Unsupported language")).to_be_visible()
    page.get_by_label("Language", exact=True).fill("")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".state")).to_have_text(DONE, timeout=90_000)


def test_files_wait_until_the_options_are_right(window: Window) -> None:
    page = window()
    choose_model(page, "tiny.en")
    page.get_by_text("More options").click()
    page.get_by_text("For experts").click()
    page.get_by_label("Variations").fill("99")
    page.get_by_text("More options").click()
    add(page, CLIP, wait=False)
    expect(page.get_by_role("alert").filter(has_text=CLIP.name)).to_be_visible()
    expect(page.locator(".jobs .job-state")).to_have_count(0)
    page.get_by_label("Variations").fill("1")
    page.get_by_label("Variations").blur()
    expect(page.locator(".state")).to_have_text(DONE, timeout=90_000)
    expect(page.get_by_role("alert").filter(has_text=CLIP.name)).to_be_hidden()


def test_a_slash_searches_whatever_was_pressed_last(window: Window) -> None:
    page = window()
    choose_model(page, "tiny.en")
    add(page, CLIP)
    text = page.locator(".line").first.inner_text()
    page.get_by_role("button", name="Copy").focus()
    page.keyboard.press("/")
    page.keyboard.type("leisure")
    expect(page.get_by_role("searchbox")).to_have_value("leisure")
    assert page.locator(".line").first.inner_text() == text


def test_a_wrong_key_is_asked_for_again(window: Window) -> None:
    page = window(key=False)
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    dialog.get_by_label("API key").fill("sk-wrong")
    dialog.get_by_role("button", name="Use this key").click()
    expect(dialog.get_by_text("This key is not accepted.")).to_be_visible()
    dialog.get_by_label("API key").fill(KEY)
    dialog.get_by_role("button", name="Use this key").click()
    expect(dialog).to_be_hidden()
    add(page, CLIP)
    assert page.evaluate("Object.keys(localStorage).length") == 0
    assert page.evaluate("document.cookie") == ""


def test_the_microphone_is_heard(window: Window) -> None:
    page = window(permissions=["microphone"])
    choose_model(page, "base")
    page.get_by_role("button", name="Record").click()
    expect(page.get_by_label("Level of the microphone")).to_be_visible()
    page.wait_for_function("() => document.getElementById('level').value > 0.3")
    expect(page.locator("#recording-time")).to_have_text("0:08", timeout=20_000)
    page.get_by_role("button", name="Stop and transcribe").click()
    expect(page.locator(".state")).to_have_text(DONE, timeout=60_000)
    assert "dashwood had then leisure" in words_of(text_of(page))
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_enabled()


@pytest.fixture
def done(window: Window) -> Page:
    """A clip with its text."""
    page = window()
    add(page, CLIP)
    return page


def test_a_click_on_a_word_plays_it(done: Page) -> None:
    page = done
    saved = download(page, "JSON")
    word = next(word for word in json.loads(saved)["words"] if word["word"] == "leisure")
    page.evaluate(
        """() => {
            const media = HTMLMediaElement.prototype;
            const {get, set} = Object.getOwnPropertyDescriptor(media, "currentTime");
            const note = function (time) { window.sought = time; set.call(this, time); };
            Object.defineProperty(media, "currentTime", {get, set: note});
        }"""
    )
    click_word(page, page.locator(".line").first, "leisure")
    assert page.evaluate("() => window.sought") == pytest.approx(word["start"], abs=0.1)
    assert float(page.locator(".seek").input_value()) >= word["start"] - 0.1
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    page.get_by_role("button", name="Pause").click()


def test_words_are_reached_with_keys(done: Page) -> None:
    page = done
    page.locator(".time").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#said")).to_have_text(re.compile("Mr"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()


def test_text_is_edited_searched_and_downloaded(done: Page) -> None:
    page = done
    text = page.locator(".line .text").first
    before = text.inner_text()
    text.dblclick()
    page.keyboard.press("Control+a")
    page.keyboard.type(before.replace("John", "Jonathan"))
    page.keyboard.press("Enter")
    expect(text).to_have_text(before.replace("John", "Jonathan"))
    words = json.loads(download(page, "JSON"))["words"]
    times = {word["word"]: word for word in words}
    assert times["Mr."]["end"] <= times["Jonathan"]["start"] < times["Jonathan"]["end"]
    assert times["Jonathan"]["end"] <= times["Dashwood"]["start"]
    assert "Jonathan Dashwood" in download(page, "Text")
    srt = download(page, "SubRip")
    assert re.match(r"1\n00:00:00,\d{3} --> 00:00:0\d,\d{3}\n", srt) and "Jonathan" in srt
    assert max(len(line) for line in srt.splitlines()) <= 42
    assert download(page, "WebVTT").startswith("WEBVTT\n\n00:00:00.")
    assert download(page, "Table").startswith("start\tend\ttext\n")
    page.get_by_label("Search the transcript").fill("dashwood")
    expect(page.locator(".count")).to_have_text("1")
    page.keyboard.press("Enter")
    expect(page.locator(".count")).to_have_text("1 of 1")
    page.locator(".line").first.hover()
    page.get_by_role("button", name="undo").click()
    expect(text).to_have_text(before)


def test_escape_leaves_the_text_as_it_was(done: Page) -> None:
    page = done
    text = page.locator(".line .text").first
    before = text.inner_text()
    page.locator(".time").first.focus()
    page.keyboard.press("e")
    page.keyboard.type(" and more")
    page.keyboard.press("Escape")
    expect(text).to_have_text(before)
    expect(page.locator(".time").first).to_be_focused()


def test_options_are_the_servers_and_what_it_refuses_is_said(window: Window) -> None:
    page = window()
    page.get_by_text("More options").click()
    expect(page.get_by_label("Names and words to expect")).to_be_visible()
    expect(page.get_by_label("Temperature")).to_be_hidden()
    page.get_by_text("For experts").click()
    expect(page.get_by_label("Temperature")).to_have_attribute("placeholder", "0")
    page.get_by_label("Model").select_option("tiny.en")
    page.get_by_label("Language", exact=True).fill("German")
    add(page, CLIP, wait=False)
    expect(page.get_by_role("alert").filter(has_text="Unsupported language")).to_be_visible()
    page.get_by_label("Model").select_option("base")
    page.get_by_label("Text in").select_option("translate")
    page.get_by_label("Language", exact=True).fill("English")
    asked: list[Any] = []
    page.on("request", lambda request: asked.append(request.url))
    add(page, CLIP)
    assert any(url.endswith("/v1/audio/translations") for url in asked)


def test_every_field_has_a_name_and_an_explanation(window: Window) -> None:
    """Also one that the page's own words do not know yet: it is for experts, in the server's."""
    page = window()
    page.route("**/openapi.json", add_field)
    page.reload()
    page.get_by_text("More options").click()
    page.get_by_text("For experts").click()
    expect(page.get_by_label("New thing")).to_be_visible()
    helps = page.locator(".more-fields .help").all_inner_texts()
    assert "The server's own words. new_thing" in helps
    assert all(re.search(r"\w\. \w+$", text) for text in helps), helps
    names = [text.rpartition(" ")[2] for text in helps]
    assert names[:3] == ["keywords", "prompt", "beam_size"] and names[-1] == "new_thing"


def add_field(route: Route) -> None:
    schema = route.fetch().json()
    route_of = schema["paths"]["/v1/audio/transcriptions"]["post"]
    form = route_of["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    form["new_thing"] = {"type": "integer", "description": "The server's own words."}
    route.fulfill(json=schema)


def test_a_search_can_be_asked_for(window: Window) -> None:
    page = window()
    choose_model(page, "tiny.en")
    page.get_by_text("More options").click()
    page.get_by_label("Search", exact=True).select_option("where the text is unsure")
    page.evaluate(
        """() => {
            const {append} = FormData.prototype;
            window.sent = [];
            FormData.prototype.append = function (name, value, ...more) {
                window.sent.push([name, String(value)]);
                append.call(this, name, value, ...more);
            };
        }"""
    )
    add(page, CLIP)
    assert ["beam_size", "auto"] in page.evaluate("window.sent")


def test_a_language_that_does_not_exist_is_told_before_any_upload(window: Window) -> None:
    page = window()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    language = page.get_by_label("Language", exact=True)
    for known in ("German", "de", "pt-BR", "yue", " english "):
        language.fill(known)
        assert language.evaluate("(input) => input.checkValidity()"), known
    language.fill("Germn")
    add(page, CLIP, wait=False)
    expect(page.get_by_role("alert").filter(has_text=CLIP.name)).to_be_visible()
    assert "“Germn” is no language" in language.evaluate("(input) => input.validationMessage")
    assert not [url for url in asked if "/v1/audio/" in url]
    language.fill("english")
    language.blur()
    expect(page.locator(".state")).to_have_text(DONE, timeout=90_000)


def test_options_outlive_a_reload(window: Window) -> None:
    page = window()
    choose_model(page, "tiny.en")
    page.get_by_text("More options").click()
    page.get_by_label("Names and words to expect").fill("Dashwood")
    page.get_by_label("Search", exact=True).select_option("everywhere, 5 ways")
    page.get_by_label("Search", exact=True).blur()
    page.reload()
    expect(page.get_by_label("Model")).to_have_value("tiny.en")
    page.get_by_text("More options").click()
    expect(page.get_by_label("Names and words to expect")).to_have_value("Dashwood")
    expect(page.get_by_label("Search", exact=True)).to_have_value("5")
    assert page.evaluate("Object.keys(localStorage).length") == 0


def download(page: Page, name: str) -> str:
    page.get_by_text("Download", exact=True).click()
    with page.expect_download() as found:
        page.locator(".menu-items").get_by_role("button", name=name).click()
    return Path(found.value.path()).read_text(encoding="utf-8")
