"""llama-server out of an image: a service for Docker Compose."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from autotune.llama_cpp.dialect import DIALECT
from autotune.llama_cpp.launch import launch_of
from autotune.llama_cpp.locate import Program
from autotune.params import Params
from autotune.results.apply.setup import Applied, Setup, comment
from autotune.results.apply.text import holding
from autotune.results.apply.yaml_text import dump

# docs/docker.md of llama.cpp: the image of each backend, and what it needs to see of the host.
_IMAGE = "ghcr.io/ggml-org/llama.cpp"
_TAGS: Mapping[str, str] = {
    "": "server",
    "CUDA": "server-cuda",
    "ROCm": "server-rocm",
    "Vulkan": "server-vulkan",
    "SYCL": "server-intel",
    "MUSA": "server-musa",
}
_NODES: Mapping[str, tuple[str, ...]] = {
    "ROCm": ("/dev/kfd", "/dev/dri"),
    "Vulkan": ("/dev/dri",),
    "SYCL": ("/dev/dri",),
}
_PORT = 8080
_MODELS = PurePosixPath("/models")

_MIB = 1 << 20
_PROMPT_CACHE_MIB = 8192  # common_params::cache_ram_mib, common/common.h
# Above the memory that is counted: the program itself, and requests under way.
_HEADROOM, _HEADROOM_MIB = 1.1, 1024


def docker_compose(setup: Setup) -> Applied:
    """A service that any machine with Docker Compose starts; its llama.cpp is that of the image.

    Raises:
        ConfigError: the model's path is no text.
    """
    backend = _backend(setup)
    folder = setup.mount or setup.model.parent
    inside = _MODELS / setup.model.relative_to(folder).as_posix()
    # The image's entrypoint is llama-server, so the command is its arguments.
    params = replace(setup.params, numactl=None)  # The image has none.
    if setup.params.numactl:
        params = replace(params, numa=None)
    launch = launch_of(_ENTRYPOINT, None, "server", Path(inside), params)
    command = [*launch.argv, "--host", "0.0.0.0", "--port", str(_PORT)]  # noqa: S104 - in there
    service: dict[str, object] = {
        "image": f"{_IMAGE}:{_TAGS.get(backend, _TAGS[''])}",
        "command": [_uninterpolated(word) for word in command],
        "ports": [f"127.0.0.1:{_PORT}:{_PORT}"],
        "volumes": [_read_only(folder)],
        **_privileges(setup, backend),
        "restart": "unless-stopped",
    }
    unsaid = [*setup.unbound, *launch.unsupported, *_without_image(backend)]
    above = comment(setup, "#", _use(setup), dialect=DIALECT, unsaid=unsaid)
    return Applied(text=above + dump({"services": {"llama-server": service}}), unsaid=tuple(unsaid))


_ENTRYPOINT = Program(name="llama-server", command=(), found_by="the image")


def _backend(setup: Setup) -> str:
    """The backend that computes; "": the processor alone."""
    params = setup.params
    if params.devices == ("none",) or (params.n_gpu_layers == 0 and not params.devices):
        return ""
    if params.devices:
        return re.sub(r"\d+$", "", params.devices[0])
    return setup.gpu or ("CUDA" if params.n_gpu_layers else "")


def _without_image(backend: str) -> list[str]:
    if backend in _TAGS:
        return []
    return [f"llama.cpp has no image for {backend}: this one computes on the processor alone"]


def _uninterpolated(text: str) -> str:
    return holding(text, "docker-compose").replace("$", "$$")


def _read_only(folder: Path) -> Mapping[str, object]:
    return {
        "type": "bind",
        "source": _uninterpolated(str(folder)),
        "target": str(_MODELS),
        "read_only": True,
        "bind": {"create_host_path": False},
    }


def _privileges(setup: Setup, backend: str) -> Mapping[str, object]:
    """What the service may use of the host; keys that would be empty are left out."""
    nvidia = {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    reservations = {"devices": [nvidia]} if backend == "CUDA" else {}
    resources = {"limits": _limits(setup), "reservations": reservations}
    nodes = [f"{node}:{node}" for node in _NODES.get(backend, ())]
    kept = {key: value for key, value in resources.items() if value}
    privileges: Mapping[str, object] = {
        "ulimits": {"memlock": {"soft": -1, "hard": -1}} if setup.locked else {},
        "devices": nodes,
        "deploy": {"resources": kept} if kept else {},
    }
    return {key: value for key, value in privileges.items() if value}


def _limits(setup: Setup) -> Mapping[str, str]:
    limits = {}
    threads = max(setup.params.n_threads or 0, setup.params.n_threads_batch or 0)
    if threads:
        # One more answers HTTP; Docker refuses more than the machine has.
        limits["cpus"] = str(min(threads + 1, setup.n_cpus or threads))
    memory = _memory_mib(setup.params, setup.memory_bytes)
    if memory is not None:
        limits["memory"] = f"{memory}M"
    return limits


def _memory_mib(params: Params, counted: int | None) -> int | None:
    """What llama-server may take in all; None: nobody can say."""
    prompts = _PROMPT_CACHE_MIB if params.cache_ram is None else params.cache_ram
    if counted is None or prompts < 0:
        return None
    return int(counted / _MIB * _HEADROOM) + _HEADROOM_MIB + prompts


def _use(setup: Setup) -> list[str]:
    lines = [
        "The image brings a llama.cpp of its own, which is not the one that was measured.",
        "Use: save it as compose.yaml, then: docker compose up -d",
    ]
    if setup.locked:
        lines.append("The weights are locked into memory, so memlock has no limit here.")
    if _memory_mib(setup.params, setup.memory_bytes) is None:
        lines.append("No limit of memory is set: what llama-server takes is not known here.")
    else:
        lines.append("memory: the model and its cache, room to spare, and the cache of prompts.")
    return lines
