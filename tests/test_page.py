"""The search page in a real browser, against a fake service whose every message is one of `hybrid_ir.serving.api`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

import hybrid_ir
from hybrid_ir.serving.api import (
    Coverage,
    DeadlineResponse,
    ErrorResponse,
    Hit,
    OtherPassage,
    QueryResult,
    SearchRequest,
    SearchResponse,
    ShardStatus,
    Stats,
    Timings,
    problem,
)

pytestmark = pytest.mark.slow

PAGE = Path(hybrid_ir.__file__).parent / "serving" / "pages" / "page.html"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1000,800"
)
LANGUAGES = {"ar": 1180, "de": 1185, "en": 1190, "es": 1}
MANY_LANGUAGES = (
    "am ar bn cs da de el en es fa fi fr ha he hi hu id it ja km ko my nl pl pt ru sv sw ta te th tr uk ur vi yo zh"
)


# ---- The fake service


def hit(
    text: str,
    language: str = "en",
    *,
    doc_id: str = "d-1",
    score: float = 0.5,
    piece: tuple[int, int] | None = None,
    **metadata: str | int,
) -> Hit:
    return Hit(position=1, doc_id=doc_id, text=text, language=language, score=score, metadata=metadata, piece=piece)


def found(
    *hits: Hit,
    missing: str = "",
    languages_missing: tuple[str, ...] = (),
    version: str = "91b2d0c4aa3f7e10",
    cursor: str | None = None,
    first: int = 1,
) -> SearchResponse:
    """An answer of these hits, in this order, the first at the position `first`; `missing` is the shard of two that did
    not answer."""
    return SearchResponse(
        results=[
            QueryResult(hits=[h.model_copy(update={"position": n}) for n, h in enumerate(hits, first)], cut=False)
        ],
        coverage=Coverage(
            complete=not missing,
            shards=1 if missing else 2,
            shards_total=2,
            shards_missing=[missing] if missing else [],
            languages_missing=list(languages_missing),
        ),
        space_id="3f0c9a1be27d4e55",
        index_version=version,
        next=cursor,
        timings_ms=Timings(queue=0.4, encode=3.1, search=1.2, total=5.0),
    )


def error(message: str, kind: str = "invalid_request") -> ErrorResponse:
    return ErrorResponse.model_validate(problem(400, kind, message, None))


def stats_of(languages: dict[str, int], metadata_keys: Sequence[str]) -> Stats:
    return Stats(
        index="/data/index",
        index_version="91b2d0c4aa3f7e10",
        wanted_index="/data/index",
        wanted_version="91b2d0c4aa3f7e10",
        previous_index=None,
        space_id="3f0c9a1be27d4e55",
        placement="local",
        codec="Flat",
        passages=sum(languages.values()),
        languages=languages,
        metadata_keys=list(metadata_keys),
        shards=[
            ShardStatus(name="000", passages=sum(languages.values()), languages=languages, up=True),
            ShardStatus(name="001", passages=0, languages={}, up=True),
        ],
        recall={"k": 10},
        versions={"hybrid-ir": "0.1.0"},
    )


@dataclass
class Reply:
    """What the fake sends; no body = it hangs up without an answer."""

    body: BaseModel | None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Service:
    """What the fake will answer, and what it was asked."""

    answer: Callable[[SearchRequest], Reply] = lambda request: Reply(found())
    languages: dict[str, int] = field(default_factory=lambda: dict(LANGUAGES))
    metadata_keys: Sequence[str] = ("group", "year")
    key: str = ""
    asked: list[SearchRequest] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)

    def reply(self, method: str, path: str, body: bytes, authorization: str | None) -> Reply:
        if self.key and authorization != f"Bearer {self.key}":
            return Reply(error("an API key is needed", "unauthorized"), 401)
        if (method, path) == ("GET", "/stats"):
            return Reply(stats_of(self.languages, self.metadata_keys))
        if (method, path) != ("POST", "/search"):
            self.mistakes.append(f"{method} {path}")
            return Reply(error("no such path", "not_found"), 404)
        try:
            request = SearchRequest.model_validate_json(body)
        except ValidationError as problem:
            self.mistakes.append(str(problem))
            return Reply(error(str(problem)), 422)
        self.asked.append(request)
        return self.answer(request)


class Handler(BaseHTTPRequestHandler):
    service: Service

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/":
            self.send(200, "text/html; charset=utf-8", PAGE.read_bytes())
        else:
            self.send_reply(path)

    def do_POST(self) -> None:
        self.send_reply(self.path)

    def send_reply(self, path: str) -> None:
        service = self.service
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        reply = service.reply(self.command, path, body, self.headers.get("Authorization"))
        if reply.body is not None:
            self.send(reply.status, "application/json", reply.body.model_dump_json().encode(), reply.headers)
        if path == "/search" and body:
            asked = json.loads(body)
            service.answered.append(asked.get("query") or asked["like"])

    def send(self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        try:
            self.send_response(status)
            for name, value in ({"Content-Type": kind, "Content-Length": str(len(body))} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the page gave this search up

    def log_message(self, *args: object) -> None:
        pass


# ---- The browser


class Page:
    """The page as a reader sees it; what is read is read in one go, as the page may be drawing."""

    def __init__(self, driver: webdriver.Chrome, origin: str):
        self.driver = driver
        self.origin = origin

    def open(self, address: str = "/") -> None:
        self.driver.get(self.origin + address)
        self.wait(lambda: self.texts("#languages button") or self.visible("#problem"))

    def run(self, script: str, *arguments: object):
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.driver, 10, poll_frequency=0.02).until(lambda _: condition())

    def texts(self, css: str) -> list[str]:
        return self.run("return [...document.querySelectorAll(arguments[0])].map((node) => node.textContent)", css)

    def text(self, css: str) -> str:
        return self.texts(css)[0]

    def visible(self, css: str) -> bool:
        return self.run("return document.querySelector(arguments[0]).getClientRects().length > 0", css)

    def style(self, css: str, name: str) -> str:
        return self.run("return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]", css, name)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def search(self, query: str) -> None:
        """Type a query into the box, press Enter, wait until the page is at rest."""
        box = self.driver.find_element("id", "box")
        box.clear()
        box.send_keys(query, Keys.ENTER)
        self.wait(lambda: self.run("return document.querySelector('#results').ariaBusy") == "false")

    def click(self, css: str) -> None:
        self.driver.find_element("css selector", css).click()

    def choose(self, css: str, value: str) -> None:
        """Choose or type a value as a reader does, so that the page hears of it."""
        field = self.driver.find_element("css selector", css)
        if field.tag_name == "select":
            next(each for each in Select(field).options if each.get_property("value") == value).click()
        else:
            field.send_keys(Keys.CONTROL, "a", Keys.NULL, value, Keys.ENTER)


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Iterator[webdriver.Chrome]:
    browser, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not chromedriver:
        pytest.fail("these tests need Chromium and its driver; run: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def service() -> Iterator[Service]:
    Handler.service = Service()
    yield Handler.service
    assert Handler.service.mistakes == []


@pytest.fixture
def page(driver, server, service) -> Iterator[Page]:
    page = Page(driver, f"http://127.0.0.1:{server.server_port}")
    yield page
    page.run("sessionStorage.clear()")
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.get("about:blank")


# ---- Searching


def test_a_search_shows_hits_in_order_with_text_language_and_score(page, service):
    service.answer = lambda request: Reply(
        found(
            hit("Der Rhein mündet in die Nordsee.", "de", doc_id="rhine-3", score=0.8304, year=2024),
            hit("The Rhine ends in the North Sea.", "en", doc_id="rhine-1", score=0.5),
        )
    )
    page.open()
    page.search("Where does the Rhine end?")
    assert service.asked == [SearchRequest(query="Where does the Rhine end?", k=10, offset=0, policy="best_effort")]
    assert page.texts("#results .text") == ["Der Rhein mündet in die Nordsee.", "The Rhine ends in the North Sea."]
    assert page.texts("#results .position") == ["1", "2"]
    assert page.texts("#results .language") == ["Deutsch", "English"]
    assert page.run("return document.querySelector('.language').title") == "German (de)"
    assert page.texts("#results .score") == ["0.830", "0.500"]
    assert page.texts("#results .doc-id") == ["rhine-3", "rhine-1"]
    assert page.texts("#results .fact") == ["year: 2024"]
    assert page.text("#summary") == "2 hits in 5.0 ms · encode 3.1 ms, search 1.2 ms · 2 of 2 shards"
    assert not page.visible("#coverage")
    assert "index 91b2d0c4aa3f7e10 · space 3f0c9a1be27d4e55 · 3,556 passages" in page.text("footer")


def test_an_empty_query_sends_nothing(page, service):
    page.open()
    page.press("   ", Keys.ENTER)
    page.click(".go")
    page.click("[data-code=de]")
    assert service.asked == []
    assert page.visible("#examples")


def test_enter_that_ends_an_input_methods_composition_does_not_search(page, service):
    page.open()
    page.driver.execute_cdp_cmd("Input.imeSetComposition", {"text": "にほん", "selectionStart": 3, "selectionEnd": 3})
    enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
    page.driver.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyDown", **enter})
    page.driver.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyUp", **enter})
    page.driver.execute_cdp_cmd("Input.insertText", {"text": "日本"})
    assert page.run("return document.querySelector('#box').value") == "日本"
    assert service.asked == []
    page.press(Keys.ENTER)
    page.wait(lambda: [request.query for request in service.asked] == ["日本"])


def test_pressing_a_language_sends_it_and_shows_only_what_comes_back(page, service):
    hits = [hit("Ein Satz.", "de"), hit("A sentence.", "en")]
    service.answer = lambda request: Reply(
        found(*(h for h in hits if not request.languages or h.language in request.languages))
    )
    page.open()
    assert page.texts("#languages button") == ["all", "العربية", "Deutsch", "English", "español"]
    assert page.run("return document.querySelector('[data-code=de]').title") == "German (de): 1,185 passages"
    page.search("sentence")
    assert page.texts(".text") == ["Ein Satz.", "A sentence."]
    page.click("[data-code=de]")
    page.wait(lambda: page.texts(".text") == ["Ein Satz."])
    page.click("[data-code=ar]")
    page.wait(lambda: len(service.answered) == 3)
    assert [request.languages for request in service.asked] == [None, ["de"], ["ar", "de"]]
    pressed = "return [...document.querySelectorAll('[aria-pressed=true]')].map((chip) => chip.textContent)"
    assert page.run(pressed) == ["العربية", "Deutsch"]
    page.click("[data-code='']")
    page.wait(lambda: page.texts(".text") == ["Ein Satz.", "A sentence."])
    assert page.run(pressed) == ["all"]
    assert service.asked[-1].languages is None


def test_a_slow_old_answer_does_not_overwrite_a_new_one(page, service):
    release = threading.Event()

    def answer(request):
        if request.query == "old":
            release.wait(10)
        return Reply(found(hit(f"answer to {request.query}")))

    service.answer = answer
    page.open()
    page.press("old", Keys.ENTER)
    page.wait(lambda: len(service.asked) == 1)
    page.search("new")
    assert page.texts(".text") == ["answer to new"]
    release.set()
    page.wait(lambda: service.answered == ["new", "old"])
    # Two frames: time enough to draw the old answer, if it were drawn.
    page.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert page.texts(".text") == ["answer to new"]
    assert page.run("return document.querySelector('#box').value") == "new"


# ---- The address


def test_a_shared_address_repeats_its_search(page, service):
    service.answer = lambda request: Reply(found(hit("Ein Satz.", "de")))
    page.open("/?q=ein%20Satz&k=20&languages=de,es")
    page.wait(lambda: page.texts(".text") == ["Ein Satz."])
    assert service.asked == [
        SearchRequest(query="ein Satz", k=20, offset=0, languages=["de", "es"], policy="best_effort"),
    ]
    assert page.run("return document.querySelector('#box').value") == "ein Satz"
    assert page.run("return document.querySelector('#k').value") == "20"


def test_the_address_follows_the_search_and_back_returns_to_the_one_before(page, service):
    service.answer = lambda request: Reply(found(hit(f"answer to {request.query}")))
    page.open()
    page.search("first")
    page.search("second")
    page.click("[data-code=de]")
    page.click("[data-code=es]")
    page.wait(lambda: page.driver.current_url == page.origin + "/?q=second&k=10&languages=de,es")
    for _ in range(3):
        page.driver.back()
    page.wait(lambda: page.texts(".text") == ["answer to first"])
    assert page.driver.current_url == page.origin + "/?q=first&k=10"
    page.driver.back()
    page.wait(lambda: page.visible("#examples"))
    assert page.texts(".text") == []


# ---- Options


def test_options_become_a_filter_and_a_policy_and_are_kept_in_the_address(page, service):
    said = (
        "/?q=x&k=5&key=year&is=from&value=2020&key=year&is=not&value=%222024%22&key=section&is=any&value=rivers,+7"
        "&key=year&is=there&value=&prefer=de&bonus=0.1&quotas=de%3D3,*%3D5&min_score=0.5&group_by=group"
    )
    wanted = SearchRequest(
        query="x",
        k=5,
        offset=0,
        policy="best_effort",
        filter={
            "must": [
                {"key": "year", "range": {"gte": 2020}},
                {"key": "section", "match": {"any": ["rivers", 7]}},
            ],
            "must_not": [{"key": "year", "match": {"value": "2024"}}, {"is_empty": {"key": "year"}}],
        },
        prefer={"languages": {"de": 0.1}},  # type: ignore[arg-type]
        quotas={"de": 3, "*": 5},
        group_by="group",
        min_score=0.5,
    )
    page.open(said)
    page.wait(lambda: len(service.answered) == 1)
    assert service.asked == [wanted]
    # The same, from the values that its fields show now.
    page.choose("#k", "20")
    page.wait(lambda: len(service.answered) == 2)
    assert service.asked[1] == wanted.model_copy(update={"k": 20})
    assert page.driver.current_url == page.origin + said.replace("k=5", "k=20")
    assert page.text("#options summary") == "Options · 8 in use"


def test_options_are_chosen_by_keyboard_and_its_keys_do_nothing_else_there(page, service):
    service.answer = lambda request: Reply(found(hit("A sentence."), hit("Another one.")))
    page.open()
    page.search("sentence")
    page.driver.find_element("css selector", "#options summary").send_keys(Keys.ENTER)
    page.driver.find_element("id", "add").send_keys(Keys.ENTER)
    assert len(service.asked) == 1  # a condition without a value says nothing
    page.press("y", Keys.TAB, Keys.TAB, "/jk", Keys.ENTER)
    page.wait(lambda: len(service.answered) == 3)  # the key, then the value
    assert service.asked[1].filter is None
    assert service.asked[2].filter == {"must": [{"key": "year", "match": {"value": "/jk"}}]}
    page.press(Keys.TAB, Keys.ENTER)  # the button that takes the condition away
    page.wait(lambda: len(service.answered) == 4)
    assert service.asked[3].filter is None
    assert page.run("return document.activeElement.id") == "add"
    page.choose("#prefer", "de")
    page.wait(lambda: len(service.answered) == 5)
    assert service.asked[4].model_dump()["prefer"] == {"languages": {"de": 0.05}}


def test_what_is_wrong_in_an_option_is_said_by_the_service(page, service):
    page.open("/?q=x&prefer=de&bonus=much&quotas=de")
    page.wait(lambda: page.visible("#problem"))
    assert "prefer.languages.de" in page.text("#problem")
    assert "prefer.languages.de" in service.mistakes.pop()
    page.click("#options summary")
    page.choose("#bonus", "0.1")
    page.wait(lambda: service.mistakes)
    assert "quotas.de" in service.mistakes.pop()
    page.choose("#quotas", "de=1")
    page.wait(lambda: service.answered and not page.visible("#problem"))


def test_filters_and_groups_are_not_offered_where_no_passage_has_metadata(page, service):
    service.metadata_keys = ()
    page.open()
    page.click("#options summary")
    assert page.visible("#quotas")
    assert not page.visible("#conditions")
    assert not page.visible("#group_by")
    # A shared address may name a key all the same: it can be taken back.
    page.open("/?q=x&key=year&is=is&value=2024")
    page.click("#options summary")
    assert page.visible("#conditions .remove")


# ---- More of an answer


def test_more_hits_are_those_behind_the_last_one(page, service):
    second = found(hit("third"), first=3)
    service.answer = lambda request: Reply(
        second if request.cursor else found(hit("first"), hit("second"), cursor="behind-2")
    )
    page.open("/?q=x&languages=de")
    page.wait(lambda: page.visible("#more"))
    page.click("#more")
    page.wait(lambda: page.texts("#results .text") == ["first", "second", "third"])
    assert service.asked[1] == service.asked[0].model_copy(update={"offset": None, "cursor": "behind-2"})
    assert page.texts("#results .position") == ["1", "2", "3"]
    assert page.run("return document.activeElement.querySelector('.text').textContent") == "third"
    assert not page.visible("#more")
    # Behind a swap the pages begin anew.
    service.answer = lambda request: Reply(
        error("it is of another version", "index_changed") if request.cursor else found(hit("new"), cursor="behind-1"),
        409 if request.cursor else 200,
    )
    page.search("y")
    page.click("#more")
    page.wait(lambda: len(service.answered) == 5)
    assert [request.cursor for request in service.asked[2:]] == [None, "behind-1", None]
    assert not page.visible("#problem")


def test_a_hit_is_shown_beside_the_nearest_passages_of_other_languages(page, service):
    def answer(request):
        if request.like is None:
            return Reply(found(hit("The Rhine.", doc_id="rhine-en", group="rhine", year="2024")))
        return Reply(found(hit("Der Rhein.", "de", doc_id="rhine-de"), hit("نهر الراين.", "ar", doc_id="rhine-ar")))

    service.answer = answer
    page.open()
    page.search("Rhine")
    assert page.texts(".fact") == ["group: rhine", 'year: "2024"']  # as they are typed in a condition
    page.press(Keys.ARROW_DOWN, Keys.TAB, Keys.ENTER)
    page.wait(lambda: page.texts(".columns .text") == ["Der Rhein.", "نهر الراين."])
    near = SearchRequest(like="rhine-en", k=3, languages=["ar", "de", "es"], quotas={"*": 1}, policy="best_effort")
    assert service.asked[1:] == [near]
    assert page.text(".others .note").startswith("The nearest passage in each language")
    assert page.style(".columns > :nth-child(2) .text", "direction") == "rtl"
    page.press(Keys.ENTER)
    assert not page.visible(".others")
    page.open("/?q=Rhine&group_by=group&languages=de,en&key=year&is=is&value=%222024%22")
    page.wait(lambda: page.visible(".ask-others"))
    page.click(".ask-others")
    page.wait(lambda: page.texts(".columns .text"))
    mine = {"must": [{"key": "year", "match": {"value": "2024"}}]}
    same = {"must": [mine, {"key": "group", "match": {"value": "rhine"}}]}
    assert service.asked[-1] == near.model_copy(update={"k": 1, "languages": ["de"], "filter": same})
    assert page.text(".others .note").startswith("Passages with the same group, rhine:")


def test_what_a_policy_did_is_said_of_each_hit(page, service):
    others = [
        OtherPassage(doc_id="d-2", language="es", score=0.4),
        OtherPassage(doc_id="d-3", language="ar", score=0.3),
    ]
    ours = hit("Ein Satz.", "de").model_copy(update={"ranked_score": 0.55, "also": others})
    answer = found(ours)
    answer.results[0].groups_cut = True
    service.answer = lambda request: Reply(answer)
    page.open()
    page.search("x")
    assert page.text(".score") == "0.500 + 0.050"
    assert page.text(".also") == "2 more passages of its group: ar, es"
    assert "there may be more" in page.text("#summary")


def test_the_answer_of_another_release_says_what_is_new_moved_and_gone(page, service):
    old, new = "0" * 16, "f" * 16
    before = [hit(name, doc_id=name) for name in ("one", "two", "three")]
    after = [hit(name, doc_id=name) for name in ("two", "four", "three")]
    service.answer = lambda request: Reply(found(*before, version=old))
    page.open()
    page.search("numbers")
    page.search("something else")
    assert not page.visible("#compared")
    service.answer = lambda request: Reply(found(*after, version=new))
    page.search("another")
    assert not page.visible("#compared")
    for _ in range(2):  # asked again, the same release is still compared with the one before
        page.search("numbers")
        assert page.texts(".mark") == ["gone from 1", "↑ up from 2", "new"]
        assert [version in page.text("#compared p") for version in (old, new)] == [True, True]
        assert "1 new, 1 moved, 1 gone" in page.text("#compared p")
        assert page.texts("#compared .text") == ["one"]
    # Of an answer without all shards nobody could say whether the release or the shard is why.
    service.answer = lambda request: Reply(found(*before, version=old, missing="001"))
    page.search("numbers")
    assert not page.visible("#compared")
    service.answer = lambda request: Reply(found(*before, version=old))
    page.search("numbers")
    assert page.texts("#results .mark") == ["new", "↓ down from 1"]


def test_a_copied_request_is_the_one_that_was_sent(page, service, tmp_path):
    service.key = "s3cret"
    service.answer = lambda request: Reply(found(hit("It's $HOME.", "en", doc_id="d-7")))
    query = '\'; echo "$HOME" `id` \\ عاصمة #'
    page.open()
    page.run("sessionStorage.setItem('hybrid-ir-api-key', 's3cret')")
    page.open("/?languages=de,en&key=year&is=from&value=2020&key=draft&is=not&value=true&prefer=de&min_score=0.2")
    page.search(query)
    environment = {**os.environ, "HYBRID_IR_API_KEY": "s3cret", "PYTHONPATH": str(Path(hybrid_ir.__file__).parents[1])}
    for button, command in (("#curl", ["bash", "-c"]), ("#python", [sys.executable, "-c"])):
        page.click(button)
        page.wait(lambda: page.text("#copied") == "Copied.")
        text = page.run("return document.querySelector('#request').value")
        assert "s3cret" not in text
        done = subprocess.run([*command, text], env=environment, capture_output=True, text=True, check=True)
        assert "It's $HOME." in done.stdout
    assert service.asked[0].query == query
    assert service.asked[0].filter is not None
    assert service.asked[1:] == service.asked[:1] * 2
    page.run("delete Navigator.prototype.clipboard")
    page.click("#curl")
    assert "copy it from below" in page.text("#copied")
    assert page.run("return document.querySelector('#request').selectionEnd") == len(
        page.run("return document.querySelector('#request').value")
    )


# ---- What can go wrong


def test_incomplete_coverage_is_a_warning_that_names_shard_and_language(page, service):
    service.answer = lambda request: Reply(
        found(hit("A sentence."), missing="shard-001", languages_missing=("ar", "de"))
    )
    page.open()
    page.search("sentence")
    assert page.visible("#coverage")
    assert "shard-001" in page.text("#coverage")
    assert "Arabic (ar), German (de)" in page.text("#coverage")
    assert "1 of 2 shards" in page.text("#summary")
    assert page.texts(".text") == ["A sentence."]


def test_the_services_error_is_shown_and_earlier_hits_stay_dimmed(page, service):
    service.answer = lambda request: Reply(found(hit("A sentence.")))
    page.open()
    page.search("sentence")
    service.answer = lambda request: Reply(error("k must be at most 5, got 10"), 422)
    page.search("another")
    assert page.text("#problem") == "k must be at most 5, got 10"
    assert page.visible("#problem")
    assert page.texts(".text") == ["A sentence."]
    page.wait(lambda: float(page.style("#results", "opacity")) < 1)
    assert "“sentence”" in page.text("#summary")


def test_a_passed_deadline_shows_what_was_found_until_then(page, service):
    partial = found(hit("A sentence."), missing="001")
    late = DeadlineResponse(**partial.model_dump(), **problem(504, "deadline", "500 ms passed", None))
    service.answer = lambda request: Reply(late, 504)
    page.open()
    page.search("sentence")
    assert page.texts(".text") == ["A sentence."]
    assert page.text("#problem") == "500 ms passed"
    assert page.visible("#coverage")


def test_a_service_that_hangs_up_is_said_to_be_unreachable(page, service):
    page.open()
    service.answer = lambda request: Reply(None)
    page.search("sentence")
    assert "cannot be reached" in page.text("#problem")
    service.answer = lambda request: Reply(found(hit("A sentence.")))
    page.search("sentence")
    assert not page.visible("#problem")
    assert page.texts(".text") == ["A sentence."]


def test_a_busy_service_is_asked_once_more_after_the_time_it_names(page, service):
    busy = Reply(error("64 queries wait already", "overloaded"), 429, {"Retry-After": "1"})
    replies = iter([busy, Reply(found(hit("A sentence."))), busy, busy])
    service.answer = lambda request: next(replies)
    page.open()
    page.press("sentence", Keys.ENTER)
    page.wait(lambda: page.text("#summary") == "The service is busy; trying again in 1 second.")
    page.wait(lambda: page.texts(".text") == ["A sentence."])
    page.search("sentence")
    assert len(service.asked) == 4
    assert page.text("#problem") == "The service is busy: 64 queries wait already"


def test_a_service_with_keys_is_asked_again_with_the_key(page, service):
    service.key = "s3cret"
    service.answer = lambda request: Reply(found(hit("A sentence.")))
    page.open("/?q=sentence")
    page.wait(lambda: page.visible("#key"))
    assert page.text("#problem") == "an API key is needed"
    page.click("#key")
    page.press("wrong", Keys.ENTER)
    page.wait(lambda: page.visible("#key") and page.run("return document.querySelector('#key').value") == "")
    page.click("#key")
    page.press("s3cret", Keys.ENTER)
    page.wait(lambda: page.texts(".text") == ["A sentence."] and page.texts("#languages button"))
    assert not page.visible("#key")
    assert not page.visible("#problem")
    page.open("/?q=again")
    page.wait(lambda: page.texts(".text") == ["A sentence."])
    assert "s3cret" not in page.driver.current_url


# ---- Safety


def test_a_script_tag_in_a_passage_is_shown_as_text_and_does_not_run(page, service):
    script = "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'><b>bold</b>"
    service.answer = lambda request: Reply(found(hit(script, doc_id=script, note=script), missing=script))
    page.open()
    page.search(script)
    assert page.text(".text") == script
    assert page.text(".doc-id") == script
    assert page.text(".fact") == f"note: {script}"
    assert script in page.text("#coverage")
    assert page.run("return window.ran") is None
    assert page.run("return document.querySelectorAll('main script, main img, main b').length") == 0


def test_no_request_leaves_the_origin(page, service):
    service.answer = lambda request: Reply(found(hit("See https://example.org/a.png", "ar")))
    page.open()
    page.search("sentence")
    addresses = page.run("return performance.getEntries().map((entry) => entry.name).filter((name) => /:/.test(name))")
    assert {page.origin + "/stats", page.origin + "/search"} <= set(addresses)
    assert [address for address in addresses if not address.startswith(page.origin + "/")] == []


# ---- Layout and keyboard


def test_an_arabic_hit_is_laid_out_right_to_left_and_an_english_one_left_to_right(page, service):
    service.answer = lambda request: Reply(
        found(hit("عاصمة مصر هي القاهرة.", "ar"), hit("ISO 3166 هو معيار.", "ar"), hit("Cairo is in Egypt."))
    )
    page.open()
    page.search("Cairo")
    # The second begins with Latin letters, and is Arabic all the same.
    assert [page.style(f"li:nth-child({n}) .text", "direction") for n in (1, 2, 3)] == ["rtl", "rtl", "ltr"]
    assert page.style(".text", "textAlign") == "start"
    assert page.run("return [...document.querySelectorAll('.text')].map((text) => text.lang)") == ["ar", "ar", "en"]


def test_of_a_long_passage_the_piece_that_was_found_is_shown_and_the_whole_on_a_click(page, service):
    """Around it stand words of 160 characters, which are not UTF-16's; by keyboard alone, and from right to left."""
    foxes = "🦊 " * 200
    english = f"{'before ' * 100}{foxes}The Rhine ends here. {'behind ' * 100}".strip()
    first = len("before ") * 100 + len(foxes)
    arabic = f"{'قبل ' * 100}مصب النهر هنا. {'بعد ' * 100}".strip()
    service.answer = lambda request: Reply(
        found(
            hit(english, piece=(first, first + 20)),
            hit(arabic, "ar", piece=(400, 414)),
            hit("short", piece=(0, 5)),
        )
    )
    page.open()
    page.search("Rhine")
    shown = page.texts(".text")
    assert shown[0] == f"… {'🦊 ' * 80}The Rhine ends here. {'behind ' * 21}behind …"
    assert [page.text(f"li:nth-child({n}) .around") for n in (1, 2)] == ["… " + "🦊 " * 80, "… " + "قبل " * 40]
    assert page.style("li:nth-child(2) .text", "direction") == "rtl"
    assert page.style("li:nth-child(2) .text", "textAlign") == "start"
    assert shown[2] == "short"
    assert len(page.texts(".show-whole")) == 2
    page.press(Keys.ARROW_DOWN, Keys.TAB, Keys.ENTER)
    assert page.text(".text") == english
    assert page.text(".show-whole") == "Less"
    page.press(Keys.ENTER)
    assert page.texts(".text") == shown
    page.press(Keys.ARROW_DOWN, Keys.TAB, Keys.ENTER)
    assert page.texts(".text")[1] == arabic
    assert page.run("return document.activeElement.ariaExpanded") == "true"


def test_the_keyboard_alone_searches_and_walks_the_hits(page, service):
    service.answer = lambda request: Reply(found(hit("first"), hit("second"), hit("third")))
    focused = "return document.activeElement.querySelector('.text')?.textContent ?? document.activeElement.id"
    page.open()
    assert page.run(focused) == "box"
    page.press("a/j", Keys.ENTER)
    page.wait(lambda: page.texts(".text"))
    assert [request.query for request in service.asked] == ["a/j"]
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert page.run(focused) == "second"
    assert page.style("li:nth-child(2)", "outlineStyle") == "solid"
    page.press("j")
    assert page.run(focused) == "third"
    page.press("j", "k", Keys.ARROW_UP)
    assert page.run(focused) == "first"
    page.press(Keys.ARROW_UP)
    assert page.run(focused) == "box"
    page.press(Keys.ARROW_DOWN, "/")
    assert page.run(focused) == "box"
    page.press(Keys.ESCAPE)
    assert page.run("return document.querySelector('#box').value") == ""
    assert page.texts(".text") == ["first", "second", "third"]


def test_at_360_pixels_nothing_overflows_sideways(page, service):
    service.languages = dict.fromkeys(MANY_LANGUAGES.split(), 100)
    long = "x" * 300
    service.answer = lambda request: Reply(
        found(
            hit("Donaudampfschifffahrtsgesellschaft" * 9, "de", doc_id=long, score=-0.25, year=2024, note=long),
            hit("在埃及，官方语言是阿拉伯语。" * 9, "zh"),
            hit("ภาษาราชการในเวียดนามคือภาษาเวียดนาม" * 9, "th"),
            missing=long,
        )
    )
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.open()
    overflow = "const page = document.documentElement; return [innerWidth, page.scrollWidth - page.clientWidth]"
    assert page.run(overflow) == [360, 0]
    assert len(page.texts("#languages button")) == 38
    assert (
        page.run("const chips = document.querySelector('#languages'); return chips.scrollWidth - chips.clientWidth")
        == 0
    )
    page.search("long words " + long)
    assert len(page.texts(".text")) == 3
    page.click("#options summary")
    page.click("#add")
    page.click("#curl")
    page.click("li:nth-child(2)")
    page.click("li:nth-child(2) .ask-others")
    page.wait(lambda: len(page.texts(".text")) == 6)
    assert page.run(overflow) == [360, 0]
    service.answer = lambda request: Reply(error(long), 401)
    page.search("sentence")
    assert page.visible("#key")
    assert page.run(overflow) == [360, 0]
