"""A measured configuration in the formats of the tools that put it to use.

- setup: what is put to use and where, as all formats take it; the comment above each text
- text: quoting, and what a format cannot hold
- server: llama-server itself: a shell command, its variables, its preset file
- services: what starts llama-server when it is needed: systemd, llama-swap
- container: llama-server out of an image: Docker Compose
- ollama: what has llama.cpp inside, with parameters of its own
- yaml_text: the only import of PyYAML
"""

from collections.abc import Callable, Mapping

from autotune.results.apply.container import docker_compose
from autotune.results.apply.ollama import modelfile
from autotune.results.apply.server import env_file, preset_ini, shell
from autotune.results.apply.services import llama_swap, systemd_unit
from autotune.results.apply.setup import Applied, Setup

TARGETS: Mapping[str, Callable[[Setup], Applied]] = {
    "sh": shell,
    "env": env_file,
    "llama-server-ini": preset_ini,
    "llama-swap": llama_swap,
    "ollama": modelfile,
    "systemd": systemd_unit,
    "docker-compose": docker_compose,
}

__all__ = ["TARGETS", "Applied", "Setup"]
