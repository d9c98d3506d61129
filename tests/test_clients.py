"""Clients that people have get the served encoder's vectors unchanged: OpenAI's, LangChain's, LlamaIndex's, Cohere's,
and those of text-embeddings-inference."""

from __future__ import annotations

import base64
from pathlib import Path

import cohere
import httpx2
import huggingface_hub
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
from hybrid_ir.serving.layers.rate_limit import Buckets, limited
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


# Cohere's


@pytest.fixture(scope="module")
def http(folder):
    return service(folder)


LONG = "river " * 200


def of_cohere(http: TestClient) -> cohere.ClientV2:
    return cohere.ClientV2("none", base_url=LOCAL, httpx_client=http, max_retries=0)


def test_coheres_client_says_what_a_query_is_and_gets_floats_and_base64(folder, http):
    client = of_cohere(http)
    for kind, role in (("search_query", "query"), ("search_document", "document")):
        right = expected(folder, TEXTS, role)
        types = ["float", "base64"]
        answer = client.embed(model=NAME, texts=TEXTS, input_type=kind, embedding_types=types)
        np.testing.assert_allclose(answer.embeddings.float_, right, atol=1e-5)
        given = [np.frombuffer(base64.b64decode(row), "<f4") for row in answer.embeddings.base64]
        np.testing.assert_array_equal(np.array(given), np.array(answer.embeddings.float_, dtype=np.float32))
        assert answer.texts == TEXTS
        assert answer.meta.billed_units.input_tokens > 0
        assert answer.meta.warnings is None
    plain = client.embed(model=f"{NAME}:query", texts=TEXTS, input_type="search_query").embeddings
    np.testing.assert_allclose(plain.float_, expected(folder, TEXTS, "query"), atol=1e-5)
    assert plain.base64 is None


def test_coheres_older_client_gets_bare_vectors_unless_it_names_a_type(folder, http):
    client = cohere.Client("none", base_url=LOCAL, httpx_client=http, max_retries=0)
    right = expected(folder, TEXTS, "document")
    bare = client.embed(texts=TEXTS, model=NAME, input_type="search_document")
    assert bare.response_type == "embeddings_floats"
    np.testing.assert_allclose(bare.embeddings, right, atol=1e-5)
    typed = client.embed(texts=TEXTS, model=NAME, input_type="search_document", embedding_types=["float"])
    np.testing.assert_allclose(typed.embeddings.float_, right, atol=1e-5)


def test_what_is_cut_for_coheres_client_is_a_warning_or_refused(http):
    answer = of_cohere(http).embed(model=NAME, texts=["short", LONG], input_type="search_document", truncate="END")
    assert answer.meta.warnings == ["longer than the 32 tokens that the encoder reads, and cut: texts 1"]
    with pytest.raises(cohere.UnprocessableEntityError) as refused:
        of_cohere(http).embed(model=NAME, texts=["short", LONG], input_type="search_document", truncate="NONE")
    assert refused.value.body["message"] == (
        "texts: text 1 is longer than the 32 tokens that the encoder reads; truncate: END cuts it"
    )


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"input_type": "clustering"}, 422, "input_type: Input should be 'search_query' or 'search_document'"),
        ({"input_type": None}, 422, "input_type: Input should be"),
        ({"embedding_types": ["int8"]}, 422, "embedding_types.0: Input should be 'float' or 'base64'"),
        ({"truncate": "START"}, 422, "truncate: Input should be 'NONE' or 'END'"),
        ({"texts": None, "images": ["data:"]}, 422, "images: texts alone are encoded here; send them as `texts`"),
        ({"texts": None}, 422, "texts: it is required"),
        ({"texts": [" "]}, 422, "texts is empty"),
        ({"max_tokens": 5}, 422, "max_tokens: texts are cut at the 32 tokens that the encoder reads; leave it out"),
        ({"output_dimension": 5}, 422, "dimensions must be"),
        ({"model": "embed-v4.0"}, 404, "there is one model here"),
        ({"model": f"{NAME}:query"}, 422, "model asks for query and input_type for passage"),
        ({"texts": ["a"] * 3000}, 422, "texts: at most 2048 texts, got 3000"),
    ],
)
def test_what_coheres_client_cannot_have_is_refused_in_its_own_form(http, asked, status, said):
    body = {"model": NAME, "texts": TEXTS, "input_type": "search_document"}
    answer = http.post("/v2/embed", json={**body, **asked})
    assert answer.status_code == status
    assert answer.json()["message"].startswith(said)
    assert answer.json()["detail"] == answer.json()["error"]["message"] == answer.json()["message"]


# Those of text-embeddings-inference


class Through(httpx2.BaseTransport):
    """Hands the requests of a client to the service in this process."""

    def __init__(self, http: TestClient) -> None:
        self._http = http

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        headers = {name: value for name, value in request.headers.items() if name != "content-length"}
        answer = self._http.request(request.method, str(request.url), content=request.read(), headers=headers)
        return httpx2.Response(answer.status_code, headers=dict(answer.headers), content=answer.content)


@pytest.fixture
def inference(http):
    """huggingface_hub's client, which else asks the network, or refuses to where that is off."""
    huggingface_hub.set_client_factory(lambda: httpx2.Client(transport=Through(http)))
    yield huggingface_hub.InferenceClient(model=f"{LOCAL}/embed", token="none")
    huggingface_hub.set_client_factory(huggingface_hub.utils._http.default_client_factory)


def test_huggingface_hubs_client_gets_passages_or_the_prompt_that_it_names(folder, inference):
    for prompt, role in ((None, "document"), ("document", "document"), ("passage", "document"), ("query", "query")):
        vectors = inference.feature_extraction(TEXTS, prompt_name=prompt, truncate=True, normalize=True)
        np.testing.assert_allclose(vectors, expected(folder, TEXTS, role), atol=1e-5)
    one = inference.feature_extraction(TEXTS[0])
    np.testing.assert_allclose(one, expected(folder, TEXTS[:1], "document"), atol=1e-5)
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="prompts query, document, not 'clustering'"):
        inference.feature_extraction(TEXTS, prompt_name="clustering")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"normalize": False}, "normalize: the index and its encoder have vectors of unit length alone; leave it out"),
        ({"truncation_direction": "left"}, "truncation_direction: the encoder reads the beginning of a text"),
        ({"inputs": ["a", LONG], "truncate": False}, "inputs: text 1 is longer than the 32 tokens"),
        ({"inputs": []}, "inputs"),
        ({"inputs": ""}, "inputs is empty"),
        ({"inputs": ["a"] * 3000}, "inputs: at most 2048 texts, got 3000"),
    ],
)
def test_what_a_client_of_tei_cannot_have_is_refused_in_its_own_form(http, asked, said):
    answer = http.post("/embed", json={"inputs": TEXTS, **asked})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(said)
    assert answer.json()["error_type"] == "Validation"


def test_every_error_of_a_path_has_the_form_of_its_clients(folder, http):
    assert http.get("/v2/embed").json()["message"] == "Method Not Allowed"
    assert http.post("/embed", content=b"{").json()["error"].startswith("the body is not JSON")
    assert http.post("/embed", headers={"Host": "evil.example"}, json={"inputs": "a"}).json()["error_type"] == (
        "Validation"
    )
    served = create_app(SearchService(LocalRelease(str(folder)), Serve()), ("key",))
    few = TestClient(limited(served, Buckets(("key",), 1)), headers={"Authorization": "Bearer key"}, base_url=LOCAL)
    assert few.post("/embed", json={"inputs": "a"}).status_code == 200
    assert few.post("/embed", json={"inputs": "a"}).json()["error_type"] == "Overloaded"
    assert few.post("/v2/embed").json()["message"].startswith("this key has no request left")
    stranger = few.post("/v1/embed", headers={"Authorization": "Bearer no"}, json={"texts": TEXTS})
    assert (stranger.status_code, stranger.json()["message"]) == (401, "send an API key: Authorization: Bearer KEY")


@pytest.mark.parametrize("client", ["cohere", "InferenceClient"])
def test_the_docs_examples_for_these_clients_run(folder, http, inference, monkeypatch, client):
    page = (Path(__file__).parent.parent / "docs" / "serve.md").read_text(encoding="utf-8")
    (code,) = [block for block in page.split("```python\n")[1:] if block.startswith(("import cohere", "from hugg"))
               and client in block.partition("```")[0]]  # fmt: skip
    made = cohere.ClientV2
    monkeypatch.setattr(cohere, "ClientV2", lambda *a, **k: made(*a, **{**k, "httpx_client": http, "base_url": LOCAL}))
    names: dict = {"__name__": "docs"}
    exec(compile(code.partition("```")[0].replace("our-e5", NAME).replace("127.0.0.1:8000", "localhost"), "serve.md",
                 "exec", dont_inherit=True), names)  # fmt: skip
    right = expected(folder, ["Wo endet der Rhein?"], "query")
    np.testing.assert_allclose(np.array(names["query"]).reshape(1, -1), right, atol=1e-5)


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
