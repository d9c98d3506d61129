"""Files that are lost under a service: what is left of the index answers, nothing wrong does, and what is mended heals.

In `sample_passages` with two shards, Arabic is whole in the first, Thai in the second, and English in both.
"""

from __future__ import annotations

import shutil

import pytest
from indices import sample_passages, write_served_index
from starlette.testclient import TestClient

from hybrid_ir.config.experiment import Serve
from hybrid_ir.index.folder import read_manifest
from hybrid_ir.serving import kept_shard
from hybrid_ir.serving.http_app import create_app
from hybrid_ir.serving.kept_shard import KeptShard
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.serving.release import ShardDown
from hybrid_ir.serving.search_service import SearchService
from hybrid_ir.types import InputError

ALWAYS = ["vectors.faiss", "ids.npy", "passages.arrow"]
FILES = {"Flat": ALWAYS, "IVF4,SQ8": [*ALWAYS, "vectors.f16.npy"]}
"""Files of a shard by codec: exact vectors stand beside a codec that loses something."""
each_file = pytest.mark.parametrize(("codec", "name"), [(codec, name) for codec in FILES for name in FILES[codec]])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """An index of each codec, by its name."""
    folders = {codec: tmp_path_factory.mktemp("kept") / "index" for codec in FILES}
    for codec, folder in folders.items():
        write_served_index(folder, sample_passages(), codec=codec)
    return folders


@pytest.fixture(params=FILES)
def codec(request):
    return request.param


@pytest.fixture
def index(written, codec, tmp_path):
    return shutil.copytree(written[codec], tmp_path / "index")


@pytest.fixture
def file(index, name):
    """A file of the second shard."""
    return index / "shards" / "001" / name


@pytest.fixture
def soon(monkeypatch):
    """A shard that is down is tried again at once."""
    monkeypatch.setattr(kept_shard, "REOPEN_S", 0)


def serving(index, **options):
    service = SearchService(LocalRelease(str(index), **options), Serve(max_k=120))
    return TestClient(create_app(service), base_url="http://127.0.0.1", raise_server_exceptions=False)


def asked(http, **more):
    return http.post("/search", json={"query": "river number 7", "k": 120, **more})


@each_file
@pytest.mark.parametrize("cut", [1, 4, 10**9])
def test_a_file_that_is_truncated_under_a_service_leaves_the_other_shards_and_heals(index, file, soon, cut):
    """By one byte, whose place would read as zero; by a number; and by all of it, which would end the process."""
    content = file.read_bytes()
    with serving(index) as http:
        whole = asked(http).json()["results"]
        with file.open("r+b") as stream:
            stream.truncate(max(0, len(content) - cut))
        strict = asked(http)
        assert (strict.status_code, strict.json()["error"]["type"]) == (503, "shards_missing")
        assert "shards 001 do not answer" in strict.json()["error"]["message"]
        partial = asked(http, policy="best_effort").json()
        assert partial["coverage"]["shards_missing"] == ["001"]
        hits = [hit["doc_id"] for hit in partial["results"][0]["hits"]]
        assert len(hits) == 60  # half of 120
        assert hits == [h["doc_id"] for h in whole[0]["hits"] if h["doc_id"] in set(hits)]
        assert asked(http, languages=["ar"]).status_code == 200
        ready = http.get("/readyz")
        assert (ready.status_code, ready.json()["shards_missing"]) == (503, ["001"])
        file.write_bytes(content)  # in place, as a copy over it would
        assert asked(http).json()["results"] == whole
        assert http.get("/readyz").status_code == 200


@each_file
def test_a_file_that_is_overwritten_with_others_of_its_size_is_not_searched(index, file, soon):
    with serving(index) as http:
        assert asked(http).status_code == 200
        file.write_bytes(b"\0" * file.stat().st_size)
        assert asked(http).status_code == 503


@each_file
def test_a_file_that_is_removed_goes_on_being_searched_by_who_has_it_open(index, file, soon):
    with serving(index) as http:
        whole = asked(http).json()["results"]
        file.unlink()
        assert asked(http).json()["results"] == whole


@each_file
@pytest.mark.parametrize("damage", ["removed", "truncated"])
def test_a_gateway_that_starts_again_serves_the_shards_that_are_whole_and_heals(index, file, soon, damage):
    content = file.read_bytes()
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(content[:-1])
    with pytest.raises(InputError, match=file.name):  # who starts a service, or swaps, is told
        LocalRelease(str(index))
    with serving(index, may_lack_shards=True) as http:
        assert asked(http).json()["error"]["type"] == "shards_missing"
        assert asked(http, policy="best_effort").json()["coverage"]["shards_missing"] == ["001"]
        assert asked(http, languages=["ar"]).status_code == 200
        file.write_bytes(content)
        assert len(asked(http).json()["results"][0]["hits"]) == 120


def test_a_shard_that_is_down_is_not_opened_at_every_search(index, monkeypatch):
    """To open it reads all of its files."""
    shard = KeptShard(str(index), read_manifest(index), 0)
    file = index / "shards" / "000" / "ids.npy"
    file.write_bytes(file.read_bytes()[:-1])
    opened = []
    monkeypatch.setattr(KeptShard, "_open", lambda self: opened.append(self) or self._lose("it is damaged"))
    assert shard.down
    with pytest.raises(ShardDown, match="changed since they were opened"):
        shard.get(reopen=False)
    assert opened == []
    for _ in range(3):
        with pytest.raises(ShardDown, match="it is damaged"):
            shard.get()
    assert len(opened) == 1


def test_what_is_mended_comes_back_without_a_search(index, soon):
    """A balancer asks nothing of a service that is not ready. Serve asks for its health every few seconds."""
    file = index / "shards" / "001" / "ids.npy"
    content = file.read_bytes()
    file.unlink()
    release = LocalRelease(str(index), may_lack_shards=True)
    assert release.down() == ([1], True)
    file.write_bytes(content)
    release.check()
    release._searching.wait_for(lambda: None)  # after what `check` has asked of the thread
    assert release.down() == ([], True)
    release.close()


def test_a_shard_that_is_closed_stays_so(index):
    shard = KeptShard(str(index), read_manifest(index), 0)
    assert shard.get().rows == 60
    shard.close()
    with pytest.raises(ShardDown, match="closed"):
        shard.get()
