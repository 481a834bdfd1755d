"""A Modelfile for Ollama, whose llama.cpp has parameters of its own, and few of them."""

import re
from collections.abc import Iterator
from dataclasses import fields

from autotune.errors import ConfigError
from autotune.params import Params
from autotune.results.apply.setup import Applied, Setup, comment
from autotune.words import parameter, shown

# Caches that Ollama can be told of, docs/faq.mdx of 2026; of the server, for all models.
_CACHE_TYPES = {"f16", "q8_0", "q4_0"}


def modelfile(setup: Setup) -> Applied:
    """What Ollama has a parameter for; a comment says the rest.

    The parameters are the fields of `Runner` in api/types.go of 2026.

    Raises:
        ConfigError: the path has letters that Ollama's reader leaves out.
    """
    params = setup.params
    said = {name: value for name, value in _parameters(params) if value is not None}
    unsaid = [*_unsaid(params), *_of_many_files(setup)]
    use = [
        f"Use: ollama create {setup.name} -f FILE && ollama run {setup.name}",
        *_environment(params),
    ]
    lines = [f"FROM {_path(str(setup.model))}", *(f"PARAMETER {k} {v}" for k, v in said.items())]
    above = comment(setup, "#", use, unsaid=unsaid)
    return Applied(text=above + "\n".join(lines) + "\n", unsaid=tuple(unsaid))


def _path(text: str) -> str:
    # parser/parser.go: what Go does not call printable is dropped, and spaces at the ends are.
    if not text.isprintable():
        raise ConfigError(
            f"an Ollama Modelfile cannot say {text!r}: its reader drops what is not printable",
            hint="give the file another name",
        )
    return text if text == text.strip() else f'"{text}"'


def _parameters(params: Params) -> Iterator[tuple[str, object]]:
    # Ollama multiplies by its OLLAMA_NUM_PARALLEL; ours is of all slots together.
    slots = params.n_parallel or 1
    yield "num_ctx", params.n_ctx and params.n_ctx // slots
    # It sets both batches; the micro-batch is the one that decides speed and memory.
    yield "num_batch", params.n_ubatch or params.n_batch
    yield "num_gpu", params.n_gpu_layers
    yield "main_gpu", params.main_gpu
    yield "num_thread", params.n_threads
    yield "use_mmap", "false" if params.load_mode in {"none", "mlock", "dio"} else None


# The fields that a parameter, a variable or a sentence of its own stands for.
_SAID = {
    *("n_ctx", "n_batch", "n_ubatch", "n_gpu_layers", "main_gpu", "n_threads"),
    *("n_parallel", "flash_attn", "load_mode"),
}


def _environment(params: Params) -> Iterator[str]:
    """Variables of `ollama serve`, which say what no parameter does."""
    variables = []
    if params.n_parallel is not None:
        variables.append(f"OLLAMA_NUM_PARALLEL={params.n_parallel}")
    if isinstance(params.flash_attn, bool):
        variables.append(f"OLLAMA_FLASH_ATTENTION={int(params.flash_attn)}")
    cache = _cache_type(params)
    if cache is not None:
        variables.append(f"OLLAMA_KV_CACHE_TYPE={cache}")
    if variables:
        yield f"Start the server with: {' '.join(variables)} ollama serve (for all its models)"


def _cache_type(params: Params) -> str | None:
    """The one type of both caches, where Ollama has it."""
    same = params.type_k == params.type_v
    return params.type_k if same and params.type_k in _CACHE_TYPES else None


def _unsaid(params: Params) -> Iterator[str]:
    if params.n_batch and params.n_ubatch and params.n_batch != params.n_ubatch:
        yield f"Ollama has one batch size for both; batch {params.n_batch} is left out"
    if params.load_mode in {"mlock", "mmap+mlock"}:
        yield "Ollama locks no weights into memory; it no longer takes use_mlock"
    without = [
        f"{parameter(field.name)} {shown(field.name, value)}"
        for field in fields(Params)
        if (value := getattr(params, field.name)) is not None
        and field.name not in _SAID
        and not (field.name in {"type_k", "type_v"} and _cache_type(params))
    ]
    if without:
        yield f"Ollama has no parameter for {', '.join(without)}"


def _of_many_files(setup: Setup) -> Iterator[str]:
    if re.search(r"-\d{5}-of-\d{5}\.gguf$", setup.model.name):
        yield "Ollama takes a model of one file: merge the parts with llama-gguf-split --merge"
