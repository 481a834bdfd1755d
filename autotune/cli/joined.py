"""`--storage`: measure together with other machines, on one study in a database."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autotune import json_text
from autotune.cli import console
from autotune.cli.answer import FleetSection, WorkerSection
from autotune.cli.circumstances import circumstances, machine_in_words
from autotune.cli.measured import rounded
from autotune.cli.measuring import Undertaking, begun_folder
from autotune.cli.storage import server_of
from autotune.results.profile import model_digest
from autotune.results.studies import Folder, shared_folder
from autotune.tuning.fleet import FleetSession
from autotune.tuning.ground import Ground, Order
from autotune.tuning.plan import facts_between_machines, plan_of, plan_with_others
from autotune.tuning.search import Seed
from autotune.tuning.space import Space
from autotune.tuning.study import Journalled, SharedStudy
from autotune.tuning.study.address import Address
from autotune.tuning.study.founding import open_or_create
from autotune.tuning.study.server import Server
from autotune.tuning.study.workers import Worker

_LONGEST_NAME = 100


class Membership:
    """This machine's part in a shared study."""

    def __init__(self, server: Server, name: str, machine: str) -> None:
        self.server = server
        self.name = name
        self._machine = machine
        self._study: SharedStudy | None = None

    def join(self, space: Space, seed: int, known: Journalled) -> SharedStudy:
        """Become a worker; what a journal has that the database lacks is told again."""
        me = Worker.here(self._machine)
        self._study = SharedStudy(self.server, self.name, space, seed=seed, me=me, known=known)
        return self._study

    def section(self) -> FleetSection | None:
        """Where the winner holds, as far as the machines have said by now."""
        if self._study is None:
            return None
        workers = [worker_section(worker) for worker in self._study.workers()]
        return {"study": self.name, "storage": self.server.where, "workers": workers}


def joined(
    order: Order,
    ground: Ground,
    environ: Mapping[str, str],
    *,
    address: Address,
    per_machine: bool,
    resume: bool,
    seeds: list[Seed],
    hint: str,
) -> Undertaking:
    """Begin a study in a database, or go on with it beside the others.

    Raises:
        OtherStudy: this machine is not like those that work on it.
        SurroundingsError: the database cannot be used.
    """
    server = server_of(address)
    _, facts = plan_of(order, ground, seeds)  # What a new study would be of.
    facts = facts_between_machines(ground, facts)
    facts["workload"] = order.workload.name
    name = study_name(order, ground, facts, per_machine=per_machine)
    kept = open_or_create(server, name, facts, seed=order.seed)
    plan = plan_with_others(order, ground, name, kept)
    console.note(f"measuring together with others on {name} in {server.where}")
    member = Membership(server, name, machine_in_words(ground.machine))
    folder = _folder(order, ground, environ, name, resume=resume)
    folder.keep_environment(circumstances(order, ground, plan))
    return Undertaking(
        order=order,
        ground=ground,
        environ=environ,
        folder=folder,
        plan=plan,
        open=lambda known: member.join(plan.space, kept["seed"], known),
        hint=hint,
        session=FleetSession,
        fleet=member.section,
    )


def study_name(order: Order, ground: Ground, facts: Mapping[str, Any], *, per_machine: bool) -> str:
    """The same on every machine that has the same model, request and objective.

    Args:
        order: what is asked.
        ground: what it is asked of.
        facts: what a study of this machine belongs to.
        per_machine: it is to be one of machines like this.
    """
    name, environment = order.workload.name, facts["environment"]
    request = [environment["request"], environment.get("requests at once", 1)]
    words = [ground.model.name, name, _digest([model_digest(ground.model), name, request])]
    if per_machine:
        words.append(_digest([environment, facts["space"]]))
    longest = _LONGEST_NAME // 2
    named = [re.sub(r"[^A-Za-z0-9._]+", "-", word)[:longest].strip("-.") for word in words]
    return "-".join(["lcm", *filter(None, named)])


def _digest(facts: object) -> str:
    return hashlib.sha256(json_text.dumps(facts).encode()).hexdigest()[:12]


def _folder(
    order: Order, ground: Ground, environ: Mapping[str, str], name: str, *, resume: bool
) -> Folder:
    kept = shared_folder(name, environ) if resume else None
    if kept is not None:
        machine, build = machine_in_words(ground.machine), ground.capabilities.version
        return replace(kept, machine=machine, build=build)
    made = replace(begun_folder(order, ground, environ), fleet=name)
    made.write()
    return made


def worker_section(worker: Worker) -> WorkerSection:
    """A worker in the words of the JSON."""
    holding = worker.holding
    return {
        "host": worker.host,
        "pid": worker.pid,
        "machine": worker.machine,
        "state": worker.state,
        "verdict": holding.verdict if holding else "",
        "ratio": rounded(holding.ratio if holding else None),
        "low": rounded(holding.low if holding else None),
        "high": rounded(holding.high if holding else None),
        "params": dict(holding.params) if holding else None,
    }
