"""What `lcm doctor` concludes: facts into sections, and what is wrong into findings."""

from collections.abc import Iterator, Sequence

from autotune.cli.answer import (
    SCHEMA_VERSION,
    DialectSection,
    DoctorAnswer,
    FindingSection,
    LimitsSection,
    ProgramSection,
)
from autotune.cli.compose import hardware_section
from autotune.hardware import Hardware, Storage
from autotune.hardware.energy import Metered
from autotune.hardware.listed import with_listed
from autotune.llama_cpp.capabilities import Capabilities
from autotune.llama_cpp.checkup import Checked
from autotune.llama_cpp.locate import BENCH
from autotune.model import Model
from autotune.recommend.devices import build_for, device_advice
from autotune.recommend.placement import used_gpus
from autotune.words import size

_MIB = 1 << 20

_USES = {
    "llama-batched-bench": "`--deep --profile server` measures with it",
    "llama-cli": "`lcm run` starts it for a chat",
    "llama-server": "`lcm run --mode server` starts it",
    "llama-fit-params": "nothing needs it yet",
}
# Whose list of devices is believed first: that of what `lcm run` starts.
_LISTING = ("llama-server", "llama-cli", BENCH)


def doctor_answer(
    hardware: Hardware,
    storage: Storage,
    governor: str | None,
    programs: Sequence[Checked],
    model: Model | None,
    *,
    metered: Metered,
) -> DoctorAnswer:
    """The answer of `lcm doctor`."""
    memory, usable = hardware.memory, _as_listed(hardware, programs)
    limits: LimitsSection = {
        "memlock_bytes": memory.memlock_bytes,
        "ram_limit_bytes": memory.limit_bytes,
        "cpu_quota": hardware.cpu.quota,
        "cpu_governor": governor,
        "swap_total_bytes": memory.swap_total_bytes,
        "swap_used_bytes": max(memory.swap_total_bytes - memory.swap_free_bytes, 0),
    }
    findings = [
        *_of_programs(programs),
        *_of_gpus(hardware, programs),
        *_of_devices(usable, programs),
        *_of_limits(hardware, limits, model),
        *_of_energy(metered),
        *(_note(note, "") for note in hardware.notes),
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "healthy": all(finding["kind"] != "problem" for finding in findings),
        "hardware": hardware_section(usable, storage),
        "limits": limits,
        "energy": {
            "of": list(metered.of),
            "gap": metered.gap,
            "remedy": metered.remedy if metered.gap else "",
        },
        "programs": [_program_section(checked) for checked in programs],
        "findings": findings,
    }


def _of_energy(metered: Metered) -> Iterator[FindingSection]:
    """Counters that are there and cannot be read; that there are none is no fault to be found."""
    if metered.hidden:
        yield _note(
            f"joules cannot be told, nor --objective efficiency: {metered.gap}", metered.remedy
        )


def _program_section(checked: Checked) -> ProgramSection:
    program, can = checked.program, checked.capabilities
    return {
        "name": checked.name,
        "path": str(program.path) if program else None,
        "command": list(program.command) if program else [],
        "found_by": program.found_by if program else "",
        "version": can.version if can else "",
        "flavor": can.flavor if can else "",
        "backends": list(checked.backends),
        "devices": [
            {
                "name": device.name,
                "description": device.description,
                "total_bytes": device.total_mib * _MIB,
                "free_bytes": device.free_mib * _MIB,
            }
            for device in checked.devices or ()
        ],
        "dialect": _dialect_section(checked.name, can) if can else None,
        "usable": checked.trouble is None,
        "runs": checked.flight.usable if checked.flight else None,
        "repack_off": checked.flight is not None and checked.flight.repack_off,
    }


def _dialect_section(name: str, can: Capabilities) -> DialectSection:
    old = [flag for flag in ("-mmp", "--no-mmap", "--mlock") if can.has(flag)]
    loading = ["--load-mode"] if can.has("--load-mode") else old
    section: DialectSection = {
        "flash_attn": None,
        "load_mode": ", ".join(loading) or None,
        "jsonl": can.streams_records if name == BENCH else None,
    }
    if can.has("-fa"):
        choices = can.choices("-fa")
        section["flash_attn"] = (
            "words" if "on" in choices else "numbers" if "0" in choices else "switch"
        )
    return section


def _problem(what: str, remedy: str, places: Sequence[str] = ()) -> FindingSection:
    return {"kind": "problem", "what": what, "places": list(places), "remedy": remedy}


def _note(what: str, remedy: str) -> FindingSection:
    return {"kind": "note", "what": what, "places": [], "remedy": remedy}


def _of_programs(programs: Sequence[Checked]) -> Iterator[FindingSection]:
    if all(checked.trouble and checked.trouble.missing for checked in programs):
        first = programs[0].trouble
        if first:
            what = (
                "llama.cpp is not installed; `lcm run --optimize` works without it, starting and "
                "measuring do not. Looked at:"
            )
            yield _problem(what, first.remedy, first.details)
        return
    for checked in programs:
        trouble = checked.trouble
        if trouble and trouble.missing and checked.name != BENCH:
            yield _note(f"{checked.name} was not found; {_USES[checked.name]}", trouble.remedy)
        elif trouble:
            yield _problem(trouble.what, trouble.remedy, trouble.details)
        elif checked.flight and checked.flight.repack_off:
            yield _problem(f"{checked.name}: {checked.flight.reason}", checked.flight.remedy)
    yield from _of_versions(programs)


def _of_versions(programs: Sequence[Checked]) -> Iterator[FindingSection]:
    versions = {c.name: c.capabilities.version for c in programs if c.capabilities}
    measured = versions.get(BENCH)
    for name, version in versions.items():
        if measured and version and version != measured:
            yield _note(
                f"{name} is {version}, {BENCH} is {measured}: what one measures need not hold for "
                "the other",
                "install both from one build, or name its folder in LCM_LLAMA_DIR",
            )


def _as_listed(hardware: Hardware, programs: Sequence[Checked]) -> Hardware:
    """The machine with the devices of the first program that lists some."""
    by_name = {checked.name: checked for checked in _listing(programs)}
    for name in _LISTING:
        checked = by_name.get(name)
        if checked and checked.program:
            return with_listed(hardware, checked.devices or (), asked=str(checked.program.path))
    return hardware


def _listing(programs: Sequence[Checked]) -> list[Checked]:
    """Those that can list their devices, and did."""
    return [checked for checked in programs if _can_list(checked) and checked.devices is not None]


def _can_list(checked: Checked) -> bool:
    return checked.capabilities is not None and checked.capabilities.has("--list-devices")


def _of_gpus(hardware: Hardware, programs: Sequence[Checked]) -> Iterator[FindingSection]:
    """A GPU that stays idle, because the build has no backend for it or cannot reach it."""
    gpus = used_gpus(hardware.gpus)
    asked = _listing(programs)
    # A BLAS library is listed too, and has no memory of its own.
    without = [c.name for c in asked if not any(device.total_mib for device in c.devices or ())]
    if not gpus or not without:
        return
    names = ", ".join(f"{gpu.name} ({gpu.backend})" for gpu in gpus)
    remedy = build_for(gpus[:1])
    what = f"{names} cannot be used by {', '.join(without)}: not among the devices listed"
    if len(without) == len(asked) and not gpus[0].integrated:
        yield _problem(what, remedy)
    else:
        yield _note(what, remedy)


def _of_devices(usable: Hardware, programs: Sequence[Checked]) -> Iterator[FindingSection]:
    """A program that cannot list its devices, and what is to be said of those that are listed."""
    for checked in programs:
        if _can_list(checked) and checked.devices is None:
            yield _note(
                f"{checked.name} --list-devices fails",
                "run it by hand; a GPU driver that fails shows itself here first",
            )
    if usable.gpus:  # Without any, that itself was found.
        yield from (_note(advice.what, advice.remedy) for advice in device_advice(usable))


def _of_limits(
    hardware: Hardware, limits: LimitsSection, model: Model | None
) -> Iterator[FindingSection]:
    memlock, quota, governor = (
        limits["memlock_bytes"],
        limits["cpu_quota"],
        limits["cpu_governor"],
    )
    needed = model.weight_bytes if model else hardware.memory.usable_total_bytes
    if memlock is not None and memlock < needed:
        larger = "this model" if model else "larger models"
        yield _note(
            f"this process may lock {size(memlock)} of memory: --mlock has no effect for {larger}",
            "ulimit -l unlimited; systemd: LimitMEMLOCK=infinity; docker: --ulimit memlock=-1",
        )
    ram, total = limits["ram_limit_bytes"], hardware.memory.total_bytes
    if ram is not None and ram < total:
        yield _note(
            f"a control group limits memory to {size(ram)} of {size(total)}",
            "raise it where this is started: docker --memory, systemd MemoryMax=",
        )
    if quota is not None and quota < len(hardware.cpu.usable_cpus):
        yield _note(
            f"a control group grants {quota:g} CPUs' worth of time: threads above that are stalled",
            "raise it where this is started: docker --cpus, systemd CPUQuota=",
        )
    if governor not in {None, "performance"}:
        yield _note(
            f"the CPU governor is {governor}: speeds vary more from one run to the next",
            "sudo cpupower frequency-set --governor performance",
        )
    if limits["swap_used_bytes"]:
        yield _note(
            f"{size(limits['swap_used_bytes'])} of swap is in use: memory was short, and "
            "what lies there is slow",
            "close other programs before measuring",
        )
