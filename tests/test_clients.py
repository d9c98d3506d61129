"""Clients that people have get the served encoder's vectors unchanged: OpenAI's, LangChain's and LlamaIndex's."""

from __future__ import annotations

from pathlib import Path

import llama_index.core
import numpy as np
import openai
import pytest
import tiktoken
from indices import sample_passages, write_served_index
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.openai import OpenAIEmbedding
from starlette.testclient import TestClient

from hybrid_ir.client import SearchClient
from hybrid_ir.config import Serve
from hybrid_ir.encoders import encode, load_encoder
from hybrid_ir.index import read_manifest
from hybrid_ir.serving.checks import decoder_of
from hybrid_ir.serving.http_app import create_app
from hybrid_ir.serving.local_release import LocalRelease
from hybrid_ir.serving.search_service import SearchService
from hybrid_ir.types import InputError

LOCAL = "http://localhost"
NAME = "acme/our-encoder"
TEXTS = ["The river is long.", "النهر طويل.", "河很长。"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clients") / "index"
    write_served_index(folder, sample_passages())
    return folder


@pytest.fixture(autouse=True)
def tokens_without_a_network(monkeypatch):
    """LlamaIndex brings the file of cl100k_base along."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(Path(llama_index.core.__file__).parent / "_static" / "tiktoken_cache"))


def service(folder: Path, **settings) -> TestClient:
    served = SearchService(LocalRelease(str(folder)), Serve(model_name=NAME, **settings))
    return TestClient(create_app(served), base_url=LOCAL)


def expected(folder: Path, texts: list[str], role: str) -> np.ndarray:
    return encode(load_encoder(str(folder / "encoder")), texts, role=role, precision="fp32")


def langchain(http: TestClient, model: str = NAME, **options) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(model=model, base_url=f"{LOCAL}/v1", api_key="none", http_client=http, **options)


def test_langchain_with_its_defaults_sends_token_ids_which_are_read_back(folder):
    http = service(folder, token_ids="cl100k_base")
    vectors = langchain(http).embed_documents(TEXTS)
    np.testing.assert_allclose(vectors, expected(folder, TEXTS, "document"), atol=1e-5)
    query = langchain(http, f"{NAME}:query").embed_query(TEXTS[0])
    np.testing.assert_allclose(query, expected(folder, TEXTS[:1], "query")[0], atol=1e-5)


def test_langchain_without_its_own_tokens_needs_no_setting(folder):
    vectors = langchain(service(folder), check_embedding_ctx_length=False).embed_documents(TEXTS)
    np.testing.assert_allclose(vectors, expected(folder, TEXTS, "document"), atol=1e-5)


def test_token_ids_of_who_knows_which_tokenizer_are_refused_with_what_to_do(folder):
    with pytest.raises(openai.UnprocessableEntityError, match=r"check_embedding_ctx_length=False.*serve\.token_ids"):
        langchain(service(folder)).embed_documents(TEXTS)


@pytest.mark.parametrize("ids", [[10**9], [[-1]], [[5], [2**70]]])
def test_ids_that_the_tokenizer_does_not_have_are_refused(folder, ids):
    answer = service(folder, token_ids="cl100k_base").post("/v1/embeddings", json={"input": ids})
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "input"


def test_ids_of_one_text_may_be_more_than_a_request_may_have_texts(folder):
    text = "river " * 50
    ids = tiktoken.get_encoding("cl100k_base").encode(text)
    http = service(folder, token_ids="cl100k_base", max_inputs=5)
    given = http.post("/v1/embeddings", json={"input": ids}).json()["data"]
    np.testing.assert_allclose([row["embedding"] for row in given], expected(folder, [text], "document"), atol=1e-5)


def test_llamaindex_gets_passages_and_queries_by_two_names(folder):
    options = {"api_base": f"{LOCAL}/v1", "api_key": "none", "http_client": service(folder)}
    passages = OpenAIEmbedding(model_name=NAME, **options).get_text_embedding_batch(TEXTS)
    np.testing.assert_allclose(passages, expected(folder, TEXTS, "document"), atol=1e-5)
    query = OpenAIEmbedding(model_name=f"{NAME}:query", **options).get_query_embedding(TEXTS[1])
    np.testing.assert_allclose(query, expected(folder, TEXTS[1:2], "query")[0], atol=1e-5)


def test_openais_client_lists_the_model_by_both_names_and_finds_it_by_either(folder):
    client = openai.OpenAI(base_url=f"{LOCAL}/v1", api_key="none", http_client=service(folder), max_retries=0)
    space = read_manifest(folder).space["id"]
    assert [model.id for model in client.models.list().data] == [space, NAME]
    assert client.models.retrieve(NAME).id == NAME
    assert client.models.retrieve(space).id == space
    with pytest.raises(openai.NotFoundError, match=f"{space} or {NAME}, not 'text-embedding-3-small'"):
        client.models.retrieve("text-embedding-3-small")
    answer = client.embeddings.create(model=NAME, input=TEXTS[0], user="u", extra_body={"truncate": True, "x": None})
    assert answer.model == NAME


def test_a_thousand_texts_are_one_request(folder):
    texts = [f"river {n % 7} is long" for n in range(1000)]
    vectors = langchain(service(folder), check_embedding_ctx_length=False, chunk_size=1000).embed_documents(texts)
    np.testing.assert_allclose(vectors, expected(folder, texts, "document"), atol=1e-5)


def test_two_roles_in_one_request_are_refused_and_unknown_names_too(folder):
    http = service(folder)

    def ask(**body) -> tuple[int, str]:
        answer = http.post("/v1/embeddings", json={"input": "a", **body})
        return answer.status_code, answer.json().get("error", {}).get("message", "")

    assert ask(model=f"{NAME}:query", input_type="query")[0] == 200
    assert ask(model=f"{NAME}:query", input_type="passage") == (
        422, "model asks for query and input_type for passage: leave one out"
    )  # fmt: skip
    assert ask(model=f"{NAME}:document")[0] == ask(model="other:query")[0] == 404


def test_an_encoding_that_is_not_there_is_refused_when_the_service_starts():
    with pytest.raises(InputError, match=r"serve.token_ids='klingon' is no encoding of tiktoken's; there are .*cl100k"):
        decoder_of("klingon")


def class_of_the_docs(name: str, folder: Path) -> tuple[type, SearchClient]:
    """A retriever's class as it stands in docs/serve.md, and a client of the service of `folder`."""
    page = (Path(__file__).parent.parent / "docs" / "serve.md").read_text(encoding="utf-8")
    start = page.index(f"class {name}(BaseRetriever)")
    code = page[page.rindex("```python\n", 0, start) + len("```python\n") : page.index("```", start)]
    names: dict = {"__name__": "docs"}
    exec(compile(code, "serve.md", "exec", dont_inherit=True), names)  # without this file's own __future__
    client = SearchClient(LOCAL)
    client._http = service(folder)
    return names[name], client


def test_the_docs_retriever_for_langchain_finds_what_the_service_finds(folder):
    made, client = class_of_the_docs("SearchRetriever", folder)
    retriever = made(client=client, k=2, languages=None)
    assert isinstance(retriever, BaseRetriever)
    found = retriever.invoke("river")
    hits = client.search("river", k=2)["results"][0]["hits"]
    assert [(each.page_content, each.metadata["doc_id"]) for each in found] == [(h["text"], h["doc_id"]) for h in hits]
    assert len(found) == 2
    assert isinstance(found[0], Document)


def test_the_docs_retriever_for_llamaindex_finds_what_the_service_finds_with_its_scores(folder):
    made, client = class_of_the_docs("SearchNodeRetriever", folder)
    found = made(client, k=2, languages=["ar"]).retrieve("river")
    hits = client.search("river", k=2, languages=["ar"])["results"][0]["hits"]
    assert len(found) == 2
    assert {each.node.metadata["language"] for each in found} == {"ar"}
    assert [(each.node.node_id, each.node.text, each.score) for each in found] == [
        (hit["doc_id"], hit["text"], hit["score"]) for hit in hits
    ]
