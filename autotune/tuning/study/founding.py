"""How a shared study begins: whoever comes first says what it is of."""

import json
import time
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError

from autotune.errors import SurroundingsError
from autotune.tuning.study.server import Server

FORMAT_VERSION = 1
# Whoever has made a study says at once what it is of; after so long it has died over that.
_FACTS_WITHIN_S = 10.0


def open_or_create(
    server: Server, name: str, facts: Mapping[str, Any], *, seed: int
) -> Mapping[str, Any]:
    """Begin a study unless there is one; gives the facts of the study that there is then.

    Raises:
        SurroundingsError: the database does not let it, or the study is of a later version.
    """
    storage = server.storage
    said = {"format_version": FORMAT_VERSION, "seed": seed}
    whole: dict[str, Any] = json.loads(json.dumps({**facts, **said}))

    def create() -> bool:
        try:
            optuna.create_study(storage=storage, study_name=name, direction="minimize")
        except DuplicatedStudyError:
            return False
        return True

    is_ours = server.do(create)
    study_id = server.do(lambda: storage.get_study_id_from_name(name))
    until = time.monotonic() + _FACTS_WITHIN_S
    while not is_ours:
        kept = server.do(lambda: storage.get_study_user_attrs(study_id)).get("facts")
        if kept is not None:
            return _checked(name, kept)
        if time.monotonic() > until:  # It has died before it could say so.
            break
        time.sleep(0.1)
    server.do(lambda: storage.set_study_user_attr(study_id, "facts", whole))
    return whole


def _checked(name: str, kept: Any) -> Mapping[str, Any]:  # noqa: ANN401 - whatever stands there
    version = kept.get("format_version") if isinstance(kept, dict) else None
    if version != FORMAT_VERSION:
        raise SurroundingsError(
            f"the study {name} is of format {version!r}, and this lcm knows {FORMAT_VERSION}",
            hint="use the same lcm on every machine",
        )
    return dict(kept)
