"""Deleting, replacing and compacting an index with its encoder: what is refused, killed, gone back to, and encoded."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from indices import sample_passages, write_jsonl
from test_index_versions import (
    SETTINGS,
    built as built,
    files,
    index as index,
)
from without_ray import without_ray

from hybrid_ir.cli import app as cli
from hybrid_ir.encoders.embedding import encode
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.index import recall as recall_module
from hybrid_ir.index.build import verify_index
from hybrid_ir.index.changes import change as change_module, compact as compact_module
from hybrid_ir.index.changes.change import add_passages, delete_passages, replace_passages
from hybrid_ir.index.changes.compact import compact_index
from hybrid_ir.index.changes.versions import prune_versions
from hybrid_ir.index.folder import read_manifest
from hybrid_ir.index.passages import IndexedPassage
from hybrid_ir.index.query import ShardQuery, merge
from hybrid_ir.index.writing import open_shards
from hybrid_ir.types import InputError

NEW = [
    IndexedPassage("en/3", "Another river altogether.", "en", {"year": 2099}),
    IndexedPassage("ar/4", "The Arabic one is English now.", "en"),
    IndexedPassage("brand/new", "Nobody had this one.", "en"),
]


def texts(folder, version=None) -> dict[str, str]:
    """What a version's living rows say, by doc_id; none may be there twice."""
    said: dict[str, str] = {}
    for shard in open_shards(folder, read_manifest(folder, version)):
        for row in range(shard.rows):
            if shard.living is None or shard.living[row]:
                passage = shard.passages[row]
                assert passage.doc_id not in said
                said[passage.doc_id] = passage.text
    return said


def best(folder, text: str, version=None) -> list[tuple[str, float]]:
    """(doc_id, score) of the first ten."""
    shards = open_shards(folder, read_manifest(folder, version))
    vector = encode(load_encoder(str(folder / "encoder")), [text], role="query")
    hits = merge([shard.search(vector, [ShardQuery(10)])[0] for shard in shards], 10, lossy=False)
    return [(shards[hit.shard].passages[hit.row].doc_id, hit.score) for hit in hits]


def replace(index, tmp_path, passages=NEW):
    path = tmp_path / "replacing.jsonl"
    if not path.exists():
        write_jsonl(path, passages)
    return replace_passages(str(index), [str(path)], SETTINGS, seed=0)


def test_a_deletion_changes_no_file_of_the_version_before_and_is_gone_back_from(index):
    before, old = files(index), read_manifest(index)
    was = texts(index)
    new = delete_passages(str(index), ["en/3", "long/1", "long/2"], SETTINGS, seed=0)
    assert {name for name, content in files(index).items() if before.get(name, content) != content} == {"manifest.json"}
    assert (new.parent, new.rows, new.languages["en"]) == (old.index_version, 77, old.languages["en"] - 3)
    assert new.cut == {"en": 18}
    assert texts(index) == {k: v for k, v in was.items() if k not in ("en/3", "long/1", "long/2")}
    assert texts(index, old.index_version) == was
    assert "en/3" not in dict(best(index, "The river number 3 is long."))
    assert verify_index(str(index), SETTINGS, seed=0).rows == 77
    assert not (index / ".build").exists()


def test_a_deletion_of_what_is_not_there_names_it_and_changes_nothing(index):
    before = files(index)
    for wanted in (["en/3", "nowhere"], ["nowhere"], ["nowhere"] * 2):
        with pytest.raises(InputError, match=r"has no passage 'nowhere'; nothing was deleted"):
            delete_passages(str(index), wanted, SETTINGS, seed=0)
    with pytest.raises(InputError, match=r"'0', '1', '2' and 1 more"):
        delete_passages(str(index), list("3210"), SETTINGS, seed=0)
    with pytest.raises(InputError, match=r"no passage of .* would be left \(80 now\)"):
        delete_passages(str(index), list(texts(index)), SETTINGS, seed=0)
    assert files(index) == before
    delete_passages(str(index), ["en/3"], SETTINGS, seed=0)
    with pytest.raises(InputError, match="has no passage 'en/3'"):
        delete_passages(str(index), ["en/3"], SETTINGS, seed=0)


def test_a_replacement_is_one_version_and_answers_as_an_index_of_the_new_passages(index, tmp_path):
    old, was, before = read_manifest(index), texts(index), best(index, "The river number 3 is long.")
    new = replace(index, tmp_path)
    assert (new.parent, new.rows) == (old.index_version, 81)
    assert texts(index) == was | {p.doc_id: p.text for p in NEW}
    assert texts(index, old.index_version) == was
    # Each of its scores is that of the passage's own text, encoded anew.
    model, scores = load_encoder(str(index / "encoder")), dict(best(index, "Another river altogether."))
    query = encode(model, ["Another river altogether."], role="query")[0]
    again = encode(model, [texts(index)[doc_id] for doc_id in scores], role="document") @ query
    np.testing.assert_allclose(list(scores.values()), again, atol=1e-5)
    assert new.languages == {"ar": 19, "en": 42, "th": 20}
    assert new.rejected.get("duplicate doc_id") is None
    # Of the two versions each is whole, and can be served.
    assert best(index, "The river number 3 is long.", old.index_version) == before
    assert verify_index(str(index), SETTINGS, seed=0).rows == 81


def test_an_addition_refuses_what_is_there_and_takes_what_was_deleted(index, tmp_path):
    path = write_jsonl(tmp_path / "again.jsonl", [IndexedPassage("en/3", "It is back.", "en")])
    with pytest.raises(InputError, match=r"1 x duplicate doc_id, which the index has: `hybrid-ir index replace`"):
        add_passages(str(index), [path], SETTINGS, seed=0)
    delete_passages(str(index), ["en/3"], SETTINGS, seed=0)
    assert add_passages(str(index), [path], SETTINGS, seed=0).rows == 80
    assert texts(index)["en/3"] == "It is back."


def test_a_shard_of_which_nothing_is_left_is_not_searched(index, tmp_path):
    first = read_manifest(index)
    replace(index, tmp_path)
    new = delete_passages(str(index), [p.doc_id for p in NEW], SETTINGS, seed=0)
    assert [shard.name for shard in new.shards] == ["000", "001"]
    assert new.languages == {"ar": 19, "en": 39, "th": 20}
    assert "year" in new.metadata_keys
    assert prune_versions(index, 1) == [new.parent, first.index_version]
    assert not (index / "shards" / "002").exists()
    assert verify_index(str(index), SETTINGS, seed=0).index_version == new.index_version


def test_an_index_is_compacted_without_encoding_and_answers_as_before(index, tmp_path, monkeypatch):
    replace(index, tmp_path)
    old = delete_passages(str(index), ["th/0", "long/7"], SETTINGS, seed=0)
    was = texts(index)
    answers = [best(index, text) for text in ("The river number 3 is long.", "long", "แม่น้ำ")]
    with monkeypatch.context() as patch:
        patch.setattr(compact_module, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            compact_index(str(index), SETTINGS, seed=0)
    assert read_manifest(index) == old
    with pytest.raises(InputError, match="finish it by its own command"):
        delete_passages(str(index), ["th/1"], SETTINGS, seed=0)
    new = compact_index(str(index), SETTINGS, seed=0)
    assert (len(new.shards), new.rows, new.parent, new.cut) == (2, old.rows, old.index_version, old.cut)
    assert all(shard.deleted is None for shard in new.shards)
    assert texts(index) == was == texts(index, old.index_version)
    assert [best(index, text) for text in ("The river number 3 is long.", "long", "แม่น้ำ")] == answers
    assert verify_index(str(index), SETTINGS, seed=0).rows == 79
    prune_versions(index, 1)
    assert {path.name for path in (index / "shards").iterdir()} == {shard.name for shard in new.shards}
    assert texts(index) == was


def killed(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("moment", ["before the manifest", "after the manifest"])
@pytest.mark.parametrize("what", ["delete", "replace"])
def test_a_change_that_is_killed_leaves_the_old_or_the_new_and_goes_on(index, tmp_path, monkeypatch, moment, what):
    def run():
        if what == "replace":
            return replace(index, tmp_path)
        return delete_passages(str(index), ["en/3", "ar/4"], SETTINGS, seed=0)

    old, rows = read_manifest(index), 81 if what == "replace" else 78
    module, name = (recall_module, "publish") if moment == "before the manifest" else (change_module, "clear")
    with monkeypatch.context() as patch:
        patch.setattr(module, name, killed)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert read_manifest(index).rows == (old.rows if moment == "before the manifest" else rows)
    assert verify_index(str(index), SETTINGS, seed=0)
    new = run()
    assert (new.rows, new.parent) == (rows, old.index_version)
    assert verify_index(str(index), SETTINGS, seed=0).rows == rows
    assert not (index / ".build").exists()


def test_a_deletion_that_was_killed_gives_way_to_another_change(index, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(recall_module, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            delete_passages(str(index), ["en/3"], SETTINGS, seed=0)
    assert replace(index, tmp_path).rows == 81
    assert "en/3" in texts(index)


def test_a_tombstone_that_is_damaged_is_named(index):
    entry = next(s for s in delete_passages(str(index), ["en/3"], SETTINGS, seed=0).shards if s.deleted is not None)
    np.save(index / entry.deleted.name, np.array([5]))
    with pytest.raises(InputError, match=r"deleted-[0-9a-f]{16}.npy is corrupt"):
        open_shards(index, read_manifest(index))


def test_the_commands_say_what_they_did(index, tmp_path, monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr("sys.argv", ["hybrid-ir", "index", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code, " ".join(said.out.split()), said.err

    (tmp_path / "ids.txt").write_text("en/3\n\nar/4\n")
    code, out, err = run("delete", "--index", str(index), "--file", str(tmp_path / "ids.txt"))
    assert (code, err) == (0, "")
    assert f"2 passages deleted from {index}" in out
    assert "still in the files: 2 deleted passages; hybrid-ir index compact" in out
    assert run("delete", "--index", str(index), "--doc-ids", "en/5,en/6")[0] == 0
    assert read_manifest(index).rows == 76
    for words, said in (
        (("--doc-ids", "en/5"), "has no passage 'en/5'"),
        ((), "--doc-ids a,b or --file ids.txt, one of the two"),
        (("--doc-ids", ","), "names no doc_id"),
        (("--file", str(tmp_path / "none.txt")), "no file"),
        (("--file", str(tmp_path)), "is a folder; name a file in it"),
    ):
        code, _, err = run("delete", "--index", str(index), *words)
        assert (code, said in err) == (2, True), err


def test_what_replaces_is_counted_when_it_is_no_passage(index, tmp_path):
    path = tmp_path / "replacing.jsonl"
    lines = [{"doc_id": "en/3", "text": "", "language": "en"}, {"doc_id": "en/5", "text": "New.", "language": "en"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    new = replace(index, tmp_path)
    assert sum(new.rejected.values()) == 1
    assert texts(index)["en/3"] == sample_passages(12)[9].text == "The river number 3 is long."
    assert texts(index)["en/5"] == "New."


def test_the_page_s_commands_replace_delete_and_compact(index, tmp_path, monkeypatch, capsys):
    """The block of docs/index_passages.md, as it stands there, beside an index that has what it names."""
    without_ray(monkeypatch)
    monkeypatch.setattr("hybrid_ir.cluster.ray_session", lambda *_: nullcontext())
    monkeypatch.setattr("hybrid_ir.cluster.live_nodes", lambda: 1)
    monkeypatch.chdir(tmp_path)
    rhine = [IndexedPassage(f"rhine-{n}", f"The Rhine, part {n}.", "en") for n in (3, 4)]
    replace(index, tmp_path, rhine)
    write_jsonl(tmp_path / "changed.jsonl", NEW)
    page = (Path(__file__).parents[1] / "docs" / "index_passages.md").read_text()
    (block,) = re.findall(r"^```bash\n(hybrid-ir index replace.*?)^```", page, re.M | re.S)
    for line in block.splitlines():
        monkeypatch.setattr("sys.argv", [*line.split(), *(["index.shards=2"] if "compact" in line else [])])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0, capsys.readouterr()
    said = " ".join(capsys.readouterr().out.split())
    for wanted in ("3 passages written to index, 2 of them in the place of others", "2 passages deleted", "compacted"):
        assert wanted in said
    assert set(texts(index)) == {p.doc_id for p in NEW} | {
        f"{x}/{n}" for x in ("en", "ar", "th") for n in range(20)
    } | {f"long/{n}" for n in range(20)}
    assert read_manifest(index).format == 2
