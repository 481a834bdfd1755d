"""The quick recommendation, printed: the work of `lcm run --optimize`."""

from pathlib import Path

from autotune.cli import console
from autotune.cli.answer import MeasuredSection
from autotune.cli.compose import run_answer
from autotune.cli.machine import as_llama_cpp_sees_it
from autotune.errors import ConfigError
from autotune.hardware import Hardware, detect_hardware, storage_of
from autotune.model import Model, analyze_model
from autotune.recommend import Recommendation, Request, generate_recommendations


def recommend(model: Path, ctx_size: int | None, explain: str | None) -> None:
    """Print the recommendation for a model, or the reason for one of its parameters."""
    analyzed = analyze_model(model)
    machine, storage = detect_hardware(), storage_of(model)
    hardware = as_llama_cpp_sees_it(machine)
    for note in hardware.notes:
        console.warning(note)
    recommendation = generate_recommendations(
        hardware, analyzed, storage=storage, request=Request(n_ctx=ctx_size)
    )
    if explain is not None:
        console.text(_explained(recommendation, explain))
        return
    answer = run_answer(hardware, storage, analyzed, recommendation)
    measured = _measured(analyzed, machine)
    if measured:
        answer["measured"] = measured
    console.answer(answer)


def _measured(model: Model, hardware: Hardware) -> MeasuredSection | None:
    """The profile of this model, machine and installed build, where one was measured."""
    from autotune.results.profile import profile_folder  # noqa: PLC0415 - --explain does without

    if not profile_folder().is_dir():
        return None
    from autotune.cli.stored import measured_section  # noqa: PLC0415 - many machines have none

    return measured_section(model, hardware)


def _explained(recommendation: Recommendation, key: str) -> str:
    """One parameter's value, reason and evidence."""
    wanted = "--" + key.strip("-").replace("_", "-")
    for choice in recommendation.choices:
        if choice.key == wanted:
            value = console.shown(choice.value)
            evidence = "".join(f"\n  - {line}" for line in choice.evidence)
            return f"{choice.key} {value}\n{choice.reason}{evidence}"
    keys = ", ".join(choice.key.strip("-") for choice in recommendation.choices)
    raise ConfigError(f"there is no recommended parameter {key!r}", hint=f"one of: {keys}")
