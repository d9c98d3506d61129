"""Commands of a running service: `serve`, `search`, `swap`, `rollback`.

In: words of the command line. Out: a service, or what one answers as lines.
"""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from hybrid_ir.cli.options import Config, IndexFolder, ServeKeys, Verbose, by_name, listed

Checkpoint = Annotated[
    str | None, typer.Option(help="Encoder to use in place of the index's own copy; it must be of the index's space.")
]
App = Annotated[str | None, typer.Option(help="Serve app of the service, where a Ray runs several.")]
Url = Annotated[str, typer.Option(help="Address of the service.")]


def serve(
    index: IndexFolder,
    checkpoint: Checkpoint = None,
    query: Annotated[
        list[str] | None, typer.Option(help="Search for this once the service is up; may be repeated.")
    ] = None,
    check_port: Annotated[bool, typer.Option("--check-port", help="Only say whether the port can be used.")] = False,
    config: Config = None,
    overrides: ServeKeys = None,
    verbose: Verbose = False,
) -> None:
    """Serve an index and its encoder over HTTP until Ctrl-C. With --query and no terminal: until it has searched."""
    from hybrid_ir.config import load_experiment

    settings = load_experiment(config, overrides or ()).serve
    from hybrid_ir.cli.terminal import console
    from hybrid_ir.client import SearchClient
    from hybrid_ir.serving import ServiceLost, refuse_used_port, running, wait_for_stop

    refuse_used_port(settings.host, settings.port)
    if check_port:
        return

    out = console()
    begun = time.perf_counter()
    try:
        with running(index, settings, checkpoint=checkpoint, verbose=verbose) as address:
            out.print(
                f"serving {index} at {address}/ (API: {address}/docs) after {time.perf_counter() - begun:.0f} s; "
                "Ctrl-C stops it"
            )
            if query:
                from hybrid_ir.serving import api_keys

                with SearchClient(address, api_key=next(iter(api_keys(settings)), None)) as client:
                    for text in query:
                        _print_hits(text, client.search(text, k=3))
            if not query or sys.stdin.isatty():
                wait_for_stop()
    except ServiceLost as error:
        print(f"error: {error}; the same command starts it again", file=sys.stderr)
        raise typer.Exit(1) from None
    out.print("stopped")


def search(
    query: Annotated[str, typer.Argument(help="What to search for.")],
    k: Annotated[int, typer.Option("-k", help="Hits.")] = 10,
    languages: Annotated[str | None, typer.Option(help="Comma-separated; all by default.")] = None,
    query_language: Annotated[str | None, typer.Option(help="Of the query, for an encoder with prompts by it.")] = None,
    task: Annotated[str | None, typer.Option(help="Name of the encoder's prompt for the query.")] = None,
    prefer: Annotated[
        str | None, typer.Option(help="What is added to the score of a language's passages: de=0.05,en=0.02.")
    ] = None,
    quotas: Annotated[
        str | None, typer.Option(help="Hits of a language at most, * for each other one: de=3,en=2,*=5.")
    ] = None,
    group_by: Annotated[
        str | None, typer.Option(help="Metadata key; of passages with one value of it the best is a hit.")
    ] = None,
    rerank: Annotated[
        int | None, typer.Option(help="Hits, the best, that the service's reranker puts in order again.")
    ] = None,
    lexical: Annotated[
        str | None, typer.Option(help="Search by words too: weighted, weighted=0.2, rrf, or none for words alone.")
    ] = None,
    url: Url = "http://127.0.0.1:8000",
    strict: Annotated[bool, typer.Option(help="Fail when a shard is missing, in place of a partial answer.")] = False,
) -> None:
    """Search a running service. An API key is read from HYBRID_IR_API_KEY."""
    from hybrid_ir.client import SearchClient
    from hybrid_ir.types import InputError

    wanted = listed(languages) if languages else None
    try:
        with SearchClient(url) as client:
            found = client.search(
                query,
                k=k,
                languages=wanted,
                query_language=query_language,
                task=task,
                prefer={"languages": by_name(prefer, "--prefer", float)} if prefer else None,
                quotas=by_name(quotas, "--quotas", int) if quotas else None,
                group_by=group_by,
                rerank=None if rerank is None else {"candidates": rerank},
                lexical=None if lexical is None else _lexical_of(lexical),
                policy="strict" if strict else "best_effort",
            )
    except ConnectionError as error:
        raise InputError(str(error)) from error
    _print_hits(query, found)


def _lexical_of(given: str) -> dict[str, Any]:
    """`weighted=0.2` or `rrf` as a request says it: the service checks the name."""
    from hybrid_ir.types import InputError

    fusion, equals, weight = given.partition("=")
    try:
        return {"fusion": fusion, **({"weight": float(weight)} if equals else {})}
    except ValueError:
        raise InputError(f"--lexical: {weight!r} is no number; give a weight from 0 to 1, as weighted=0.3") from None


def swap(
    index: IndexFolder,
    checkpoint: Checkpoint = None,
    app: App = None,
    config: Config = None,
    overrides: ServeKeys = None,
) -> None:
    """Have the running service serve another index and its encoder, without a failed request."""
    from hybrid_ir.config import load_experiment

    settings = load_experiment(config, overrides or ()).serve
    from hybrid_ir.serving import swap as swap_release

    begun = time.perf_counter()
    _print_swapped(swap_release(index, settings, checkpoint=checkpoint, app=app), begun)


def rollback(app: App = None) -> None:
    """Have the running service serve the index before the last swap again."""
    from hybrid_ir.serving import roll_back

    begun = time.perf_counter()
    _print_swapped(roll_back(app=app), begun)


def _print_swapped(state: dict[str, Any], begun: float) -> None:
    from hybrid_ir.cli.terminal import console

    gateways = f"{state['gateways']} gateway" + ("s" if state["gateways"] != 1 else "")
    console().print(
        f"{gateways} serve{'s' if state['gateways'] == 1 else ''} {state['active']['index']} after "
        f"{time.perf_counter() - begun:.1f} s; {state['previous']['index']} is kept: hybrid-ir rollback"
    )


def _print_hits(query: str, response: dict[str, Any]) -> None:
    from rich.text import Text

    from hybrid_ir.cli.terminal import console, printable

    out = console()
    timings, coverage = response["timings_ms"], response["coverage"]
    out.print(Text(printable(query), style="bold"), Text(f"  {timings['total']:.1f} ms", style="dim"))
    for hit in response["results"][0]["hits"]:
        first, end = hit.get("piece", (0, None))
        text = hit["text"][first:end]
        out.print(
            Text(printable(f"{hit['position']:>3}  {hit['score']:.3f}  {hit['language']}  {text}")),
            Text(printable(hit["doc_id"]), style="dim"),
        )
        for other in hit.get("also", ()):
            said = f"     {other['score']:.3f}  {other['language']}  {other['doc_id']}"
            out.print(Text(printable(said), style="dim"))
    if response["results"][0].get("groups_cut"):
        out.print("there may be more groups: as many passages as may be were considered")
    reached = response["results"][0].get("reranked")
    if reached is not None and reached["scored"] < reached["candidates"]:
        out.print(f"reranked in time: {reached['scored']} of {reached['candidates']}; the others stand behind these")
    if response["results"][0]["cut"]:
        out.print("the query is longer than the encoder reads: only its beginning was searched for")
    if not coverage["complete"]:
        missing = ", ".join(coverage["languages_missing"])
        out.print(
            f"incomplete: {coverage['shards']} of {coverage['shards_total']} shards answered; "
            f"passages are missing in {missing}"
        )
