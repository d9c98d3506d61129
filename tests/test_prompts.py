"""Prompts by language and by task: the same vectors as sentence-transformers gives by `prompt_name`, everywhere."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from checkpoints import TEXTS, make_preset
from conftest import make_group, write_store
from indices import ask, sample_passages, write_fragments, write_served_index
from placements import clients_of
from sentence_transformers import SentenceTransformer
from test_teaching import letters, texts

from hybrid_ir.batches.from_experiment import builder_for, plan_for
from hybrid_ir.batches.tasks import encode_by_role, roles_of
from hybrid_ir.config.experiment import Evaluate, Experiment, Serve
from hybrid_ir.config.loading import load_experiment
from hybrid_ir.config.search import Index
from hybrid_ir.data.store import open_store
from hybrid_ir.encoders.embedding import encode
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.encoders.long_texts.pieces import cut_into_pieces
from hybrid_ir.encoders.portable import save_encoder
from hybrid_ir.encoders.space import check_prompts, difference, space_of
from hybrid_ir.encoders.tokens import TextReader
from hybrid_ir.evaluation.evaluator import encoder_of, made_from
from hybrid_ir.index.query import CANDIDATES
from hybrid_ir.index.ray_stages import _EncodeFragment
from hybrid_ir.index.resuming import claim
from hybrid_ir.index.writing import version_of
from hybrid_ir.mining.job import mine_negatives
from hybrid_ir.mining.rules import Rules
from hybrid_ir.serving.checks import RequestError
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.serving.searching.asked import prompt_of
from hybrid_ir.teaching.job import teach_vectors
from hybrid_ir.training.initial_model import describe_encoder
from hybrid_ir.training.validation import _encode_shared
from hybrid_ir.types import Collection, InputError, Query

PROMPTS = {
    "query-th": "Where? ",
    "document-en": "Madrid: ",
    "document-ar": "",
    "qa": "Instruct: find the city.\nQuery: ",
    "qa-th": "Berlin? ",
}
PLAIN = {"query_prefix": "query: ", "passage_prefix": "passage: "}
PASSAGES = [p._replace(text=TEXTS[n % len(TEXTS)]) for n, p in enumerate(sample_passages(30))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An encoder with all of PROMPTS, as a training leaves it."""
    place = tmp_path_factory.mktemp("prompts")
    save_encoder(load_encoder(str(make_preset(place / "initial")), **PLAIN, prompts=PROMPTS), place / "checkpoint")
    return place / "checkpoint"


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Path:
    index = tmp_path_factory.mktemp("served") / "index"
    write_served_index(index, PASSAGES, prompts=PROMPTS)
    return index


@pytest.mark.parametrize(
    ("role", "language", "name"),
    [
        ("query", None, "query"),
        ("query", "en", "query"),
        ("query", "th", "query-th"),
        ("document", "en", "document-en"),
        ("document", "ar", "document-ar"),
        ("document", "th", "document"),
        ("qa", "en", "qa"),
        ("qa", "th", "qa-th"),
    ],
)
def test_a_checkpoint_gives_the_vectors_of_sentence_transformers_by_the_prompts_name(folder, role, language, name):
    ours = encode(load_encoder(str(folder)), TEXTS, role=role, languages=language, precision="fp32")
    theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, prompt_name=name)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_one_text_in_two_languages_is_read_behind_two_prompts_in_one_call(folder):
    model = load_encoder(str(folder))
    together = encode(model, [TEXTS[0]] * 3, role="query", languages=["th", "en", "th"], precision="fp32")
    apart = [encode(model, [TEXTS[0]], role="query", languages=x, precision="fp32")[0] for x in ("th", "en", "th")]
    np.testing.assert_allclose(together, apart, atol=1e-6)
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_the_models_own_prompts_stay_beside_those_that_are_set(folder):
    again = load_encoder(str(folder), prompts={"qa": "Q: "})
    assert {**PROMPTS, "qa": "Q: ", "query": "query: ", "document": "passage: "}.items() <= again.prompts.items()


def test_a_space_is_of_the_prompts_of_languages_and_not_of_those_of_tasks(folder):
    def space(prompts):
        return space_of(load_encoder(str(folder.parent / "initial"), prompts=prompts))

    plain, all_of_them = space({}), space(PROMPTS)
    assert "prefixes in languages" not in plain["parts"], "indices of before keep their id"
    assert "prompts" not in plain
    assert all_of_them["prompts"] == PROMPTS
    assert difference(plain, all_of_them) == "prefixes in languages"
    assert space({"document-en": "b"})["id"] != space({"document-en": "a"})["id"] != plain["id"]
    assert space({"qa": "b"})["id"] == plain["id"]
    other = load_encoder(str(folder), prompts={"qa": "Q: ", "more": "unknown to the index"})
    with pytest.raises(InputError, match=r"other prompts than INDEX was built with: qa differ; serve the index"):
        check_prompts("INDEX", all_of_them, other)
    check_prompts("of before", plain, other)


def test_an_unfinished_build_does_not_go_on_with_other_prompts_of_tasks(folder, tmp_path):
    spaces = [space_of(load_encoder(str(folder), prompts={"qa": text})) for text in ("a", "b")]
    claim(tmp_path / "build", [], spaces[0], seed=0, precision="fp32")
    claim(tmp_path / "build", [], spaces[0], seed=0, precision="fp32")
    with pytest.raises(
        InputError, match=r"unfinished build with other prompts of tasks \(encoder\.prompts\); delete it"
    ):
        claim(tmp_path / "build", [], spaces[1], seed=0, precision="fp32")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("query", "set query_prefix or passage_prefix"),
        ("passage-de", "name it document-de"),
        ("query-klingon", "'klingon' is no code of a language"),
        ("document-DE", "'DE' is no code of a language"),
    ],
)
def test_a_name_that_means_nothing_is_refused(name, said):
    with pytest.raises(InputError, match=f"encoder.prompts.*{said}"):
        load_experiment(None, [f"encoder.prompts={{{name}: a}}"])


def test_a_batch_reads_each_row_behind_the_prompt_of_its_language_or_of_its_sources_task(tmp_path):
    groups = [make_group(n, ("de", "en"), negatives=True) for n in range(40)]
    write_store(tmp_path / "store", groups, validation_fraction=0, test_fraction=0)
    store = open_store(str(tmp_path / "store"))
    reader = TextReader(
        letters, {"query": "Q ", "query-de": "F ", "document": "P ", "document-en": "E ", "qa": "A "}, 99
    )
    words = ["batch.size=12", "loss.negatives=in_batch_and_hard", "loss.alignment=1"]
    for task in (None, "qa"):
        more = [] if task is None else [f"batch.tasks={{{store.sources[0]}: qa}}"]
        asked = load_experiment(None, [*words, *more])
        batch = builder_for(asked, store, plan_for(store, asked), reader).build(0)
        assert batch.negative_row_N is not None
        assert batch.parallel_row is not None
        of_queries = {"de": "F", "en": "Q"} if task is None else {"de": "A", "en": "A"}
        assert [text[0] for text in texts(batch.query_tokens)] == [of_queries[a] for a, _ in batch.pairs]
        assert [text[0] for text in texts(batch.passage_tokens)] == [{"de": "P", "en": "E"}[b] for _, b in batch.pairs]
        of_negatives = [{"de": "P", "en": "E"}[batch.pairs[row][1]] for row in batch.negative_row_N]
        assert [text[0] for text in texts(batch.negative_tokens)] == of_negatives
        other = [{"de": "en", "en": "de"}[batch.pairs[row][0]] for row in batch.parallel_row]
        assert [text[0] for text in texts(batch.parallel_tokens)] == [of_queries[x] for x in other]
    with pytest.raises(InputError, match=r"batch\.tasks names 'other', which the store lacks"):
        plan_for(store, load_experiment(None, ["batch.tasks={other: qa}"]))


@pytest.mark.parametrize("words", ["batch.tasks={a: law}", "evaluate.task=law"])
def test_a_task_that_the_encoder_has_no_prompt_for_is_refused_before_training(folder, words):
    said = "='law', and the encoder has no prompt of that name; its tasks are qa, qa-th: .*add it by encoder.prompts"
    with pytest.raises(InputError, match=said):
        describe_encoder(load_experiment(None, [words]), load_encoder(str(folder)))


@pytest.mark.parametrize("name", ["query", "document", "query-th", "document-en"])
def test_what_queries_and_passages_have_by_themselves_is_no_task(name):
    reader = TextReader(letters, {"query": "", "document": "", **PROMPTS}, 99)
    with pytest.raises(InputError, match=f"='{name}' is no task: .* one of the encoder's tasks: qa, qa-th"):
        reader.check_task(name, "evaluate.task")


def test_a_comparison_measures_again_what_has_another_prompt_of_the_task_in_a_language(folder):
    test, asked = Collection("c", [], []), Experiment(evaluate=Evaluate(task="qa"))

    def made(**prompts):
        return made_from(load_encoder(str(folder), prompts=prompts), test, asked)

    assert made() == made(qamore="no part of it")
    assert made()["ranker"] == made(**{"qa-th": "b"})["ranker"]
    assert made() != made(**{"qa-th": "b"})
    assert made(qa="a") != made(qa="b")


def test_mining_and_teaching_read_questions_behind_the_task_of_their_source(tmp_path):
    write_store(tmp_path / "old", [make_group(n, ("de",)) for n in range(8)], validation_fraction=0, test_fraction=0)
    store = open_store(str(tmp_path / "old"))
    tasks, rows, asked = {store.sources[0]: "qa"}, np.arange(8), set()
    questions = {*store.take(0, rows, "q_de")}

    def encode_two(texts, *, role, languages):
        asked.update((role, text) for text in texts)
        return np.array([[np.cos(n), np.sin(n)] for n in range(len(texts))], np.float32)

    for tasks_of, role in ((tasks, "qa"), (None, "query")):
        name = str(tmp_path / role)
        asked.clear()
        manifest = teach_vectors(store, f"{name}-taught", encode_two, made={}, tasks=tasks_of)
        assert manifest["taught"].get("tasks") == tasks_of
        assert {text for own, text in asked if own == role} == questions
        assert {own for own, _ in asked} == {role, "document"}
        asked.clear()
        rules = Rules("same", None, 0.0, 1, 100, 1)
        manifest = mine_negatives(store, f"{name}-mined", encode_two, rules, made={}, tasks=tasks_of)
        assert manifest["mined"].get("tasks") == tasks_of
        assert {text for own, text in asked if own == role} == questions
        assert {own for own, _ in asked} == {role, "document"}


def test_vectors_by_role_stand_in_the_order_of_their_texts():
    def numbers(texts, *, role, languages):
        return np.array([[len(role), float(text)] for text in texts], np.float32)

    roles = roles_of(["b:1", "a:2", "b:3", "c:4"], {"a": "qa", "c": "law"})
    assert roles == ["query", "qa", "query", "law"]
    assert encode_by_role(numbers, ["1", "2", "3", "4"], roles, "de").tolist() == [[5, 1], [2, 2], [5, 3], [3, 4]]


def test_an_evaluation_and_a_validation_read_queries_behind_the_task_and_passages_as_ever(folder):
    model, languages = load_encoder(str(folder)), ["en", "th", "ar"]
    run = encoder_of(model, Experiment(evaluate=Evaluate(task="qa", precision="fp32")))
    expected = encode(model, TEXTS[:3], role="qa", languages=languages, precision="fp32")
    np.testing.assert_array_equal(run(TEXTS[:3], role="query", languages=languages), expected)
    passages = encode(model, TEXTS[:3], role="document", languages=languages, precision="fp32")
    np.testing.assert_array_equal(run(TEXTS[:3], role="document", languages=languages), passages)
    queries = [Query(str(n), str(n), x, TEXTS[n]) for n, x in enumerate(languages)]
    shared = _encode_shared(model, "qa", queries, Evaluate(precision="fp32"), 0, 1)
    np.testing.assert_array_equal(shared, expected)
    with pytest.raises(InputError, match=r"evaluate\.task='law'"):
        encoder_of(model, Experiment(evaluate=Evaluate(task="law")))


@pytest.mark.parametrize("tokens", [None, 20])
def test_an_index_encodes_each_passage_behind_the_prompt_of_its_language(folder, tmp_path, tokens):
    model = load_encoder(str(folder))
    fragments = write_fragments(tmp_path / "fragments", PASSAGES, np.zeros((len(PASSAGES), 1), np.float32))
    settings = Index.model_validate({"precision": "fp32", "pieces": {"tokens": tokens}})
    _EncodeFragment(model, fragments, settings)({"fragment": np.arange(1)})
    found = np.load(tmp_path / "fragments" / "00000" / "vectors.npy")
    said, languages = [p.text for p in PASSAGES], [p.language for p in PASSAGES]
    if tokens is not None:
        reader = TextReader.of(model)
        table = cut_into_pieces(reader, said, languages, tokens=tokens, overlap=tokens // 8).tolist()
        said, languages = [said[n][a:b] for n, a, b in table], [languages[n] for n, _, _ in table]
        assert not reader.read(said, "document", languages).cut.any()
        assert reader.read(said, "document", languages).lengths.max() <= tokens
    names = ["document-ar" if x == "ar" else "document-en" if x == "en" else "document" for x in languages]
    plain = SentenceTransformer(str(folder), device="cpu")
    expected = [plain.encode(text, prompt_name=name) for text, name in zip(said, names, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_request_picks_the_prompt_by_language_or_task_and_a_wrong_one_is_told_what_there_is(served):
    plain = SentenceTransformer(str(served / "encoder"), device="cpu")
    names = [
        "document-ar" if p.language == "ar" else "document-en" if p.language == "en" else "document" for p in PASSAGES
    ]
    vectors = np.stack([plain.encode(p.text, prompt_name=name) for p, name in zip(PASSAGES, names, strict=True)])
    services = clients_of({("Flat", 2): served}, Serve(max_batch=8))
    with services["Flat", 2, "local"] as http:

        def best(name: str) -> list[float]:
            return sorted((vectors @ plain.encode(TEXTS[1], prompt_name=name)).tolist(), reverse=True)[:5]

        for more, name in (
            ({}, "query"),
            ({"query_language": "th"}, "query-th"),
            ({"query_language": "tha"}, "query-th"),
            ({"query_language": "de"}, "query"),
            ({"task": "qa"}, "qa"),
            ({"task": "qa", "query_language": "th"}, "qa-th"),
        ):
            for _ in range(2):  # the second time by the cache
                hits = ask(http, TEXTS[1], k=5, **more)["results"][0]["hits"]
                assert [hit["score"] for hit in hits] == pytest.approx(best(name), abs=1e-4), name
            body = {"input": TEXTS[1], "input_type": "query", "language": more.get("query_language")}
            answer = http.post("/v1/embeddings", json={**body, "task": more.get("task")}).json()
            theirs = plain.encode(TEXTS[1], prompt_name=name)
            np.testing.assert_allclose(answer["data"][0]["embedding"], theirs, atol=1e-4)
        passage = http.post("/v1/embeddings", json={"input": TEXTS[1], "language": "en"}).json()
        theirs = plain.encode(TEXTS[1], prompt_name="document-en")
        np.testing.assert_allclose(passage["data"][0]["embedding"], theirs, atol=1e-4)
        for body, said, param in (
            (
                {"query": "a", "task": "law"},
                "task: the index names no prompt 'law' of its encoder; it names qa",
                "task",
            ),
            ({"query": "a", "task": "query-th"}, "task: the index names no prompt 'query-th'", "task"),
            (
                {"query": "a", "query_language": "klingon"},
                "'klingon' is no language; there are prompts",
                "query_language",
            ),
            ({"like": PASSAGES[0].doc_id, "task": "qa"}, "task: it is of a query, and `like` has none", "task"),
        ):
            refused = http.post("/search", json=body)
            assert (refused.status_code, refused.json()["error"]["param"]) == (422, param)
            assert said in refused.json()["error"]["message"]
        refused = http.post("/v1/embeddings", json={"input": "a", "task": "qa"})
        assert "task: a task is of queries" in refused.json()["error"]["message"]
        for name in ("query", "document", *PROMPTS):  # as clients of text-embeddings-inference ask
            found = http.post("/embed", json={"inputs": TEXTS[1], "prompt_name": name}).json()
            np.testing.assert_allclose(found[0], plain.encode(TEXTS[1], prompt_name=name), atol=1e-4)
        refused = http.post("/embed", json={"inputs": TEXTS[1], "prompt_name": "law"}).json()["error"]
        names = ", ".join(["query", "document", *sorted(PROMPTS)])
        assert refused == f"prompt_name: the index names the encoder's prompts {names}, not 'law'"


def test_another_release_with_other_words_under_a_tasks_name_finds_none_of_the_kept_vectors():
    from hybrid_ir.serving.query_cache import Text, _key

    def release(text: str):
        return SimpleNamespace(manifest=SimpleNamespace(space={"id": "same", "prompts": {"qa": text}}))

    keys = {_key(release(text), Text("river", "qa")) for text in ("a", "b")}  # type: ignore[arg-type]
    keys |= {_key(release("a"), Text("river"))}  # type: ignore[arg-type]
    # Texts that read like the prompt and a query.
    keys |= {_key(release("a"), Text(f"{['qa', 'a']} river")), _key(release("a"), Text('["qa", "a"], "river'))}  # type: ignore[arg-type]
    assert len(keys) == 5


def test_an_index_that_was_built_again_with_other_prompts_of_tasks_is_another_version_with_its_own_encoder(tmp_path):
    index, releases = tmp_path / "index", []
    for name in ("qa", "faq"):
        shutil.rmtree(index, ignore_errors=True)
        write_served_index(index, PASSAGES, prompts={name: "Find it: "})
        releases.append(LocalRelease(str(index), like=releases[-1] if releases else None))
    first, second = releases
    third = LocalRelease(str(index), like=second)
    assert first.manifest.space["id"] == second.manifest.space["id"]
    assert first.key != second.key == third.key
    assert first._encoder is not second._encoder is third._encoder
    assert len(asyncio.run(second.encode(["river"], "faq")).vectors) == 1
    for release in (*releases, third):
        release.close()


def test_an_index_without_further_prompts_has_the_version_that_it_had_before_there_were_any():
    assert version_of({"id": "s"}, "Flat", 0, CANDIDATES, []) == "78a90508f4c297ac"


def test_an_index_of_before_does_not_say_that_its_encoder_has_no_prompt():
    with pytest.raises(
        RequestError, match="the index names no prompt 'qa' of its encoder; it names none: leave it out"
    ):
        prompt_of("query", "qa", None, {"id": "s"}, ("task", "query_language"))


def test_the_manifest_of_a_training_names_the_encoders_prompts(folder):
    said = json.loads((folder / "config_sentence_transformers.json").read_text(encoding="utf-8"))
    assert PROMPTS.items() <= said["prompts"].items()
    encoder = describe_encoder(load_experiment(None, []), load_encoder(str(folder)))
    assert encoder["prompts"] == PROMPTS
