"""Having a running service serve another release, and the one before again.

In: an index folder, or nothing. Out: what every gateway serves afterwards, or why none of them turned to it.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from hybrid_ir.config import Serve
from hybrid_ir.index import read_manifest
from hybrid_ir.serving.ray_serve.control import refusal
from hybrid_ir.types import InputError

LOAD_TIMEOUT_S = 600
TURN_TIMEOUT_S = 60
"""For gateways to serve what they have loaded."""


def swap(index: str, settings: Serve, *, checkpoint: str | None = None, app: str | None = None) -> dict[str, Any]:
    """Replace what the running service serves by another index and its encoder, once every gateway has loaded it.

    `app` names the service where a Ray has several; what `settings` was not given is as it was deployed. Returns
    {"active", "previous": specs, "gateways": how many serve it}, once they do. Raises InputError if there is no
    service, another swap is under way, or a gateway cannot load the release: then what served goes on serving.
    """
    manifest = read_manifest(index)
    with _Service(app) as service:
        from hybrid_ir.serving.ray_serve.deployments import build_release_app, release_spec, settings_like
        from hybrid_ir.serving.ray_serve.registry import release_key

        state = service.state()
        distributed = state["active"]["app"] is not None
        name = f"{service.app}-release-{uuid4().hex[:8]}" if distributed else None
        settings = settings_like(state["active"], settings)
        spec = release_spec(index, manifest, checkpoint, settings, name)
        if release_key(state["active"]) == release_key(spec):
            raise InputError(f"{index} is what is served already; build the new release in another folder")
        number = service.propose(state, spec, loading=not distributed)
        with service.withdrawing(number) as step:
            if name is not None:
                service.deploy(build_release_app(index, settings, checkpoint), name)
                step("load")
            return service.turn(step, index)


def roll_back(*, app: str | None = None) -> dict[str, Any]:
    """Serve the release before again; it is still loaded. Returns and raises as `swap` does."""
    with _Service(app) as service:
        state = service.state()
        if state["previous"] is None:
            raise InputError(
                "there is no release to go back to: nothing was swapped since the service started or was deployed"
            )
        number = service.propose(state, state["previous"], loading=True)
        with service.withdrawing(number) as step:
            return service.turn(step, state["previous"]["index"])


class Unserved(Exception):
    """A version that was written cannot be served."""


class Stopping(InputError):
    """The service is being stopped, and turns to nothing any more."""

    def __init__(self) -> None:
        super().__init__("the service is stopping, and turns to no other release; swap once it runs again")


def turn_to(app: str, registry: Any, index: str, version: str) -> None:
    """Have the gateways of an app serve another version of the index that they serve, as `swap` does: from within Ray.

    Raises Unserved that says why they do not, and Stopping. The version descends from every other of its index. So a
    candidate that is an older one is given up: a writer that was killed left it, or whoever swaps to it comes late.
    """
    service = _Service(app, registry)
    state = service.state()
    candidate = state["candidate"]
    if candidate is not None and {**candidate, "version": ""} == {**state["active"], "version": ""}:
        state = service._ask("change", app, state["number"], "withdraw") or service.state()
    try:
        number = service.propose(state, {**state["active"], "version": version}, loading=True)
        with service.withdrawing(number) as step:
            service.turn(step, index)
    except Stopping:
        raise
    except InputError as error:
        raise Unserved(str(error)) from error


def let_finish(app: str, registry: Any, deadline_s: float) -> None:
    """Have the gateways of an app refuse what comes from now on, and wait for what they are answering: `deadline_s`,
    which no search takes longer than, and a little more."""
    service = _Service(app, registry)
    state = service._ask("stop", app)
    deadline = time.monotonic() + deadline_s + 2
    while state is not None and time.monotonic() < deadline:
        said = service._ask("reports", app)
        inside = {gateway for gateway, where in service._gateways().items() if has_requests(where, gateway in said)}
        if all(gateway in said and said[gateway]["number"] >= state["number"] for gateway in inside):
            return
        time.sleep(0.2)


def takes_turns(where: str, heard: bool) -> bool:
    """Whether a swap waits for a gateway that is in that state of Serve's; `heard`: it has reported once.

    One that starts compares what it has loaded with what serves after its first report, and before it serves: until
    then it holds nobody up, however long it takes to be placed.
    """
    return where not in ("STOPPING", "PENDING_MIGRATION") and (heard or where != "STARTING")


def has_requests(where: str, heard: bool) -> bool:
    """Whether a stop waits for it: also for one that Serve takes away, which answers what it is asked already."""
    return where != "STARTING" and (heard or where != "STOPPING")


class _Service:
    """The service that runs here, or at RAY_ADDRESS, as an operator sees it."""

    def __init__(self, app: str | None, actor: Any = None) -> None:
        """Within Ray the registry's `actor` is known; an operator enters the context."""
        self.app = app or ""
        self._actor = actor

    def __enter__(self) -> _Service:
        if "ray" not in sys.modules:
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        import ray

        from hybrid_ir.serving.ray_serve.registry import NAMESPACE, REGISTRY

        try:
            ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise InputError(
                "no service runs here (no Ray was found); start one: hybrid-ir serve --index INDEX"
            ) from error
        try:
            from ray import serve

            logging.getLogger("ray.serve").setLevel(logging.ERROR)  # what it did is said in one line, by who asked
            try:
                self._actor = ray.get_actor(REGISTRY, namespace=NAMESPACE)
                there = set(self._ask("apps")) & set(serve.status().applications)
            except ValueError:
                there = set()
            if not there:
                raise InputError("no service runs on this Ray; start one: hybrid-ir serve --index INDEX")
            if self.app and self.app not in there:
                raise InputError(f"no service runs as {self.app!r}; there are {', '.join(sorted(there))}")
            if not self.app and len(there) > 1:
                raise InputError(f"several services run on this Ray: say --app {' or --app '.join(sorted(there))}")
            self.app = self.app or there.pop()
        except BaseException:
            ray.shutdown()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        ray.shutdown()

    def state(self) -> dict[str, Any]:
        return self._ask("state", self.app)

    def propose(self, state: dict[str, Any], spec: dict[str, Any], *, loading: bool) -> int:
        """The number that the state has with the candidate in it. Raises InputError while another is being loaded."""
        self._check_running()
        proposed = self._ask("propose", self.app, state["number"], spec, loading=loading)
        if proposed is None:
            other = self.state()["candidate"]
            what = f"of {other['index']} is under way" if other else "has just ended"
            raise InputError(f"another swap {what}; this one was not begun, look at /stats and ask again")
        return proposed["number"]

    @contextmanager
    def withdrawing(self, number: int) -> Iterator[Callable[[str], int]]:
        """Takes steps with the candidate, each of which returns the next number. One that is not activated by the
        end is withdrawn, and what only it needed is deleted."""

        def step(name: str) -> int:
            nonlocal number
            state = self._ask("change", self.app, number, name)
            if state is None:
                self._check_running()
                raise InputError("another operator took over; this swap was given up, look at /stats and ask again")
            number = state["number"]
            return number

        try:
            yield step
        except BaseException:
            self._ask("change", self.app, number, "withdraw")
            raise
        finally:
            from hybrid_ir.serving.ray_serve.registry import retire

            self._ask("disown", self.app, retire(self.state()))

    def deploy(self, application: Any, name: str) -> None:
        """Have Serve run a release's shards and encoder. Raises InputError that one of them gave."""
        from ray import serve

        with self._heard():
            try:
                serve.run(application, name=name, route_prefix=None)
            except RuntimeError as error:
                raise refusal(error, name) from error

    def turn(self, step: Callable[[str], int], index: str) -> dict[str, Any]:
        """Activate the candidate once every gateway has loaded it, and wait until every gateway serves it."""
        from hybrid_ir.serving.ray_serve.registry import release_key

        state = self.state()
        key, number = release_key(state["candidate"]), state["number"]
        waiting = self._wait(lambda report: report["loaded"].get(key, "") is None, LOAD_TIMEOUT_S, key, number)
        if waiting:
            raise InputError(f"{index} cannot be served: {_listed(waiting)}")
        number = step("activate")
        waiting = self._wait(lambda report: report["serves"] == key, TURN_TIMEOUT_S, key, number)
        if waiting:
            raise InputError(f"{index} is to be served, but not all gateways do: {_listed(waiting)}")
        serving = [where for where in self._gateways().values() if takes_turns(where, heard=False)]
        return {**self.state(), "gateways": len(serving)}

    def _wait(self, done: Callable[[dict[str, Any]], bool], seconds: float, key: str, number: int) -> dict[str, str]:
        """What each gateway that is not `done` with that number says, after so many seconds or when one has failed.

        Serve says which gateways there are. So one that is silent is waited for, and one that is gone is not. Raises
        Stopping once the service does: a gateway that stops loads nothing, and may wait for who asks here.
        """
        deadline = time.monotonic() + seconds
        while True:
            self._check_running()
            said = self._ask("reports", self.app)
            there = [gateway for gateway, where in self._gateways().items() if takes_turns(where, gateway in said)]
            reports = {g: report for g, report in said.items() if report["number"] >= number}
            waiting = {g: "has not loaded it" for g in there if g not in reports or not done(reports[g])}
            failed = {g: why for g in waiting if g in reports and (why := reports[g]["loaded"].get(key))}
            if failed or (there and not waiting) or time.monotonic() > deadline:
                return failed or waiting or ({} if there else {"none": "no gateway runs"})
            time.sleep(0.2)

    def _check_running(self) -> None:
        """Raises Stopping."""
        if self.state().get("stopping"):
            raise Stopping

    def _gateways(self) -> dict[str, str]:
        """Each gateway's id, and the state in which Serve has it."""
        from ray.serve.context import _get_global_client

        details = _get_global_client().get_serve_details()["applications"][self.app]  # type: ignore[union-attr]
        return {each["replica_id"]: each["state"] for each in details["deployments"]["gateway"]["replicas"]}

    @contextmanager
    def _heard(self) -> Iterator[None]:
        """The registry goes on hearing of this operator, while Serve deploys for as long as it takes."""
        ended = threading.Event()

        def tell() -> None:
            while not ended.wait(2):
                self._ask("reports", self.app)

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        import ray
        from ray.exceptions import RayActorError

        for attempt in range(5):
            try:
                return ray.get(getattr(self._actor, method).remote(*arguments, **named), timeout=30)
            except RayActorError:
                if attempt == 4:
                    raise
                time.sleep(1)  # it is being started again
        raise AssertionError


def _listed(gateways: dict[str, str]) -> str:
    return "; ".join(f"gateway {name}: {why}" for name, why in sorted(gateways.items()))
