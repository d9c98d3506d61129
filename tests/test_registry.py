"""What a registry of releases does with deploys, swaps and its own restarts. No Ray: its store is a dict."""

from __future__ import annotations

import asyncio

import pytest

from hybrid_ir.serving.ray_serve.registry import Releases


def spec(name: str, app: str | None = None):
    return {"index": f"/{name}", "version": "1", "checkpoint": None, "app": app}


A, B, C = spec("a"), spec("b"), spec("c")


@pytest.fixture
def store():
    return {}


def run(steps):
    return asyncio.run(steps)


def test_a_new_deploy_serves_whatever_was_deployed_or_swapped_before(store):
    async def steps():
        releases = Releases(store)
        await releases.deployed("app", "first", A)
        state = await releases.propose("app", 1, B, loading=True)
        state = await releases.change("app", state["number"], "activate")
        assert (state["active"], state["previous"]) == (B, A)
        state = await releases.deployed("app", "second", C)
        assert (state["active"], state["previous"], state["candidate"]) == (C, None, None)
        # A gateway of the first deploy, which comes late, does not bring it back.
        assert await releases.deployed("app", "first", A) == state

    run(steps())


def test_an_app_that_stops_says_so_until_it_is_deployed_again(store):
    async def steps():
        releases = Releases(store)
        assert await releases.stop("app") is None
        await releases.deployed("app", "first", A)
        watching = asyncio.create_task(releases.watch("app", "g1", 1, {"number": 1, "loaded": {}, "serves": ""}))
        await asyncio.sleep(0)
        stopped = await releases.stop("app")
        assert await watching == stopped  # a gateway hears of it at once
        assert (stopped["stopping"], stopped["active"]) == (True, A)
        assert (await releases.deployed("app", "first", A))["stopping"]  # a gateway that is only started again
        assert not (await releases.deployed("app", "second", A))["stopping"]

    run(steps())


def test_apps_do_not_touch_each_other(store):
    async def steps():
        releases = Releases(store)
        await releases.deployed("one", "x", A)
        await releases.deployed("other", "y", B)
        assert (await releases.state("one"))["active"] == A
        assert (await releases.state("other"))["active"] == B
        assert await releases.apps() == ["one", "other"]

    run(steps())


def test_a_registry_that_is_started_again_goes_on_with_what_was_swapped(store):
    async def steps():
        releases = Releases(store)
        await releases.deployed("app", "first", A)
        proposed = await releases.propose("app", 1, B, loading=True)
        state = await releases.change("app", proposed["number"], "activate")
        again = Releases(store)
        assert await again.state("app") == state
        # A gateway that Serve starts again is of the same deploy, and changes nothing.
        assert await again.deployed("app", "first", A) == state

    run(steps())


def test_of_two_operators_one_is_refused_and_activates_nothing(store):
    async def steps():
        releases = Releases(store)
        await releases.deployed("app", "first", A)
        first = await releases.propose("app", 1, B, loading=True)
        assert await releases.propose("app", 1, C, loading=True) is None
        assert await releases.propose("app", first["number"], C, loading=True) is None
        assert (await releases.state("app"))["candidate"] == B
        # One who was silent for too long is gone; should it wake up, it does not activate the other's candidate.
        releases._operators.clear()
        second = await releases.propose("app", first["number"], C, loading=True)
        assert await releases.change("app", first["number"], "activate") is None
        state = await releases.change("app", second["number"], "activate")
        assert (state["active"], state["previous"]) == (C, A)

    run(steps())


def test_a_deploy_ends_a_swap_that_was_under_way(store):
    async def steps():
        releases = Releases(store)
        await releases.deployed("app", "first", A)
        proposed = await releases.propose("app", 1, B, loading=True)
        await releases.deployed("app", "second", C)
        assert await releases.change("app", proposed["number"], "activate") is None
        assert (await releases.state("app"))["active"] == C

    run(steps())


def test_the_apps_that_swaps_made_are_known_until_they_are_gone(store):
    async def steps():
        releases = Releases(store)
        await releases.deployed("app", "first", spec("a", "app"))
        await releases.propose("app", 1, spec("b", "app-release-1"), loading=False)
        assert (await Releases(store).state("app"))["owned"] == ["app-release-1"]
        await releases.disown("app", ["app-release-1"])
        assert (await releases.state("app"))["owned"] == []

    run(steps())


def test_gateways_hear_of_a_change_at_once_and_of_none_after_two_seconds(store):
    async def steps():
        releases = Releases(store)
        await releases.deployed("app", "first", A)
        report = {"number": 1, "loaded": {}, "serves": "/a@1"}
        watching = asyncio.create_task(releases.watch("app", "g1", 1, report))
        await asyncio.sleep(0)
        proposed = await releases.propose("app", 1, B, loading=True)
        assert await watching == proposed
        assert await releases.reports("app") == {"g1": report}

    run(steps())
