"""Passages written and deleted over HTTP: who may, what is refused, and that a service answers from whole versions."""

from __future__ import annotations

import json
import re
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from indices import ask, sample_passages, write_served_index
from services import Load, Service
from starlette.testclient import TestClient

from hybrid_ir.client import SearchClient
from hybrid_ir.config.experiment import Serve
from hybrid_ir.index.changes.versions import kept_versions
from hybrid_ir.index.folder import read_manifest
from hybrid_ir.index.writing import alone
from hybrid_ir.serving.api import MOST_PASSAGES, ErrorResponse, Written
from hybrid_ir.serving.checks import RequestError
from hybrid_ir.serving.http_app import create_app
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.serving.search_service import SearchService
from hybrid_ir.serving.writing import index_writer
from hybrid_ir.serving.writing.index_writer import IndexWriter
from hybrid_ir.types import InputError

READ, WRITE = {"Authorization": "Bearer reader"}, {"Authorization": "Bearer writer"}
NEW = {"doc_id": "en/3", "text": "A volcano near Naples.", "language": "en-US", "metadata": {"year": 2030}}
ADDED = {"doc_id": "new/1", "text": "Ein Vulkan bei Neapel.", "language": "de"}


class Here:
    """A writer in this process, whose versions one service turns to."""

    def __init__(self, service: SearchService) -> None:
        self._service, self._writer = service, IndexWriter()

    async def put(self, records):
        return self._turn(self._writer.put(self._service.release.index, records))

    async def delete(self, doc_id):
        return self._turn(self._writer.delete(self._service.release.index, doc_id))

    def _turn(self, written):
        release = LocalRelease(self._service.release.index, written["index_version"])
        self._service.hold(release)
        self._service.activate(release.key, None, [])
        return written


@pytest.fixture
def index(tmp_path):
    write_served_index(tmp_path / "index", sample_passages(60))
    return tmp_path / "index"


@pytest.fixture
def http(index):
    service = SearchService(LocalRelease(str(index)), Serve(max_characters=1000))
    app = create_app(service, ("reader",), Here(service), ("writer",))
    with TestClient(app, base_url="http://localhost", headers=READ) as client:
        yield client


def refused(answer, status: int, said: str) -> None:
    assert answer.status_code == status, answer.text
    assert said in ErrorResponse.model_validate_json(answer.content).error.message


def put(http, *passages, headers=WRITE):
    return http.put("/passages", json={"passages": list(passages)}, headers=headers)


def test_what_is_put_is_found_and_what_it_replaces_is_not(http, index):
    old = read_manifest(index)
    answer = put(http, NEW, ADDED)
    assert answer.status_code == 200, answer.text
    written = Written.model_validate_json(answer.content)
    assert (written.written, written.deleted, written.passages) == (2, 1, 61)
    assert (written.parent_version, written.index_version) == (old.index_version, read_manifest(index).index_version)
    found = ask(http, NEW["text"], k=61)
    assert found["index_version"] == written.index_version
    hits = {hit["doc_id"]: hit for hit in found["results"][0]["hits"]}
    assert len(hits) == 61
    assert (hits["en/3"]["text"], hits["en/3"]["language"], hits["en/3"]["metadata"]) == (
        NEW["text"], "en", {"year": 2030},
    )  # fmt: skip
    assert ask(http, "Vulkan", languages=["de"])["results"][0]["hits"][0]["doc_id"] == "new/1"
    stats = http.get("/stats").json()
    assert (stats["passages"], stats["languages"]["de"], sum(s["passages"] for s in stats["shards"])) == (61, 1, 61)


def test_what_is_deleted_is_gone_and_may_be_put_again(http):
    assert http.get("/passages/en%2F3").status_code == 200
    assert http.delete("/passages/en%2F3", headers=WRITE).json()["deleted"] == 1
    assert http.get("/passages/en/3").status_code == 404
    refused(http.post("/search", json={"like": "en/3"}), 404, "no passage has the doc_id 'en/3'")
    refused(http.delete("/passages/en%2F3", headers=WRITE), 404, "no passage has the doc_id 'en/3'")
    assert "en/3" not in [hit["doc_id"] for hit in ask(http, "The river number 3", k=59)["results"][0]["hits"]]
    assert put(http, NEW).json()["deleted"] == 0
    assert http.get("/passages/en%2F3").json()["text"] == NEW["text"]


def test_only_a_write_key_writes(http, index):
    before = read_manifest(index)
    refused(put(http, NEW, headers=READ), 403, "this key may read")
    refused(put(http, NEW, headers={"Authorization": "Bearer nobody"}), 401, "send a write key")
    refused(put(http, NEW, headers={"Authorization": "writer"}), 401, "send a write key")
    refused(http.delete("/passages/en%2F3"), 403, "this key may read")
    assert http.post("/search", json={"query": "river"}, headers=WRITE).status_code == 200
    assert read_manifest(index) == before
    service = SearchService(LocalRelease(str(index)), Serve())
    with TestClient(create_app(service, (), Here(service)), base_url="http://localhost") as closed:
        refused(put(closed, NEW), 403, "nobody may write here: start the service with HYBRID_IR_WRITE_KEYS")
        refused(closed.delete("/passages/en%2F3", headers=WRITE), 403, "nobody may write here")


@pytest.mark.parametrize(
    ("passages", "said"),
    [
        ([NEW, {"doc_id": "a", "language": "en"}], "passages[1]: no text"),
        ([{**NEW, "language": "klingonisch"}], "passages[0]: "),
        ([{**NEW, "colour": 1}], "passages[0]: unknown field colour"),
        ([{**NEW, "metadata": {"a": [1]}}], "passages[0]: metadata must map"),
        ([NEW, ADDED, NEW], "passages[2]: its doc_id 'en/3' is that of passages[0]"),
        ([{**NEW, "text": "x" * 1001}], "passages[0]: the text may have 1000 characters"),
        ([NEW] * (MOST_PASSAGES + 1), "passages: at most 4096"),
        ([], "passages: "),
    ],
)
def test_one_wrong_passage_is_named_and_none_is_written(http, index, passages, said):
    before = read_manifest(index)
    refused(put(http, *passages), 422, said)
    assert read_manifest(index) == before


def test_a_number_that_json_does_not_have_is_refused_and_not_taken_for_an_absent_one(http, index):
    before = read_manifest(index)
    body = json.dumps({"passages": [{**NEW, "metadata": {"year": float("nan")}}]})
    refused(http.put("/passages", content=body, headers=WRITE), 400, "JSON has no NaN and no Infinity: send null")
    assert read_manifest(index) == before


def test_the_next_version_of_one_index_takes_the_encoder_that_is_loaded(index, tmp_path):
    first = LocalRelease(str(index))
    IndexWriter().put(str(index), [NEW])
    second = LocalRelease(str(index), like=first)
    assert second.key != first.key
    assert second._encoder is first._encoder
    write_served_index(tmp_path / "other", sample_passages(12), seed=1)
    other = LocalRelease(str(tmp_path / "other"), like=second)
    assert other._encoder is not first._encoder
    for release in (first, second, other):
        release.close()


def test_a_change_waits_for_nobody_who_writes_the_same_index(http, index):
    with alone(index):
        refused(put(http, NEW), 409, "another process is building")
    assert put(http, NEW).status_code == 200


def test_a_writer_that_takes_the_place_of_a_killed_one_waits_until_that_has_ended(index, monkeypatch):
    """The process of the killed one holds the index for a moment more; here until the new one has looked twice."""
    held = ExitStack()
    held.enter_context(alone(index))
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            held.close()

    monkeypatch.setattr(index_writer, "time", SimpleNamespace(monotonic=lambda: len(slept), sleep=sleep))
    assert IndexWriter(patience_s=5).put(str(index), [NEW])["written"] == 1
    assert len(slept) == 2
    with alone(index), pytest.raises(RequestError, match="another process is building"):
        IndexWriter(patience_s=5).put(str(index), [NEW])
    assert len(slept) == 2 + 6, "until its patience is over, and no longer"


def test_what_was_killed_over_http_holds_up_no_other_change(http, index, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hybrid_ir.index.recall.publish", killed)
        with pytest.raises(KeyboardInterrupt):
            IndexWriter().put(str(index), [NEW])
    assert (index / ".build").is_dir()
    assert http.delete("/passages/en%2F4", headers=WRITE).status_code == 200
    assert http.get("/passages/en%2F3").json()["text"] == "The river number 3 is long."
    assert not (index / ".build").exists()


def test_the_page_s_example_writes_and_deletes(http, monkeypatch, capsys):
    """The block of docs/serve.md, as it stands there, asked of the service of this process."""
    page = (Path(__file__).parents[1] / "docs" / "serve.md").read_text()
    (block,) = [code for code in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S) if "client.put(" in code]

    def client(url, *, api_key):
        found = SearchClient(url, api_key="writer")
        found._http = http
        http.headers.update(WRITE)
        return found

    monkeypatch.setattr("hybrid_ir.client.SearchClient", client)
    monkeypatch.setattr(http, "close", lambda: None)
    exec(compile(block, "serve.md", "exec", dont_inherit=True), {})
    assert capsys.readouterr().out.split()[1:] == ["2", "0"]
    assert http.get("/passages/volga-1").json()["metadata"] == {"year": 2024}
    assert http.get("/passages/rhine-3").status_code == 404


@pytest.mark.slow
@pytest.mark.long
def test_a_service_is_written_to_under_load_and_its_writer_killed(index, tmp_path):
    """Every answer is 200 and of a whole version; a killed writer leaves the version before or the new one."""
    service = Service(index, tmp_path / "log", HYBRID_IR_WRITE_KEYS="writer", HYBRID_IR_API_KEYS="reader").wait()
    try:
        with SearchClient(service.url, api_key="writer") as client, Load(service.url, 2, key="reader") as load:
            first = client.put([NEW, ADDED])
            assert client.passage("new/1")["index_version"] == first["index_version"]
            second = client.delete("new/1")
            assert second["parent_version"] == first["index_version"]
            with pytest.raises(InputError, match="no passage has the doc_id 'new/1'"):
                client.passage("new/1")
            # A writer that ends in the middle: old or new, and the next change is made.
            (writer,) = service.replicas("writer")
            with httpx.Client(base_url=service.url, headers=WRITE, timeout=60, trust_env=False) as http:
                answers = []
                asking = threading.Thread(target=lambda: answers.append(put(http, ADDED)))
                asking.start()
                time.sleep(0.3)
                writer.kill()
                asking.join()
            assert answers[0].status_code in (200, 503), answers[0].text
            assert client.passage("en/3")["text"] == NEW["text"]
            assert client.put([{**ADDED, "text": "Nochmals."}])["passages"] == 61
            assert client.passage("new/1")["text"] == "Nochmals."
        assert set(load.statuses) == {200}, load.statuses
        assert len(kept_versions(index)) >= 4
        # What was gone back from is not written to by accident.
        assert service.command("rollback").returncode == 0
        with SearchClient(service.url, api_key="writer") as client, pytest.raises(InputError, match="went back from"):
            client.put([ADDED])
    finally:
        service.stop()
