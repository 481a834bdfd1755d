"""docs/schema.json is what the types say, and what the answers are."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from fakes.hosts import card, cards, host, recorded, zoo_model
from jsonschema import Draft202012Validator

from autotune.cli.compose import inspect_answer, run_answer
from autotune.cli.schema import json_schema
from autotune.hardware import Hardware, Storage
from autotune.model.footprint import footprint
from autotune.params import Params
from autotune.recommend import generate_recommendations

SCHEMA_FILE = Path(__file__).parents[2] / "docs" / "schema.json"
COMMAND = "python -m autotune.cli.schema > docs/schema.json"

STORAGE = Storage(filesystem="ext4", device="/dev/sda1", rotational=None, network=False)

# The specification's names, to the letter.
SECTIONS = ("hardware", "model", "recommended_params", "rationale")
SPECIFIED = {
    "hardware": {
        "cpu_cores_physical",
        "cpu_cores_logical",
        "ram_total_gb",
        "gpu_type",
        "gpu_vram_gb",
    },
    "model": {"path", "size_gb"},
    "recommended_params": {"--threads", "--n-gpu-layers", "--n-ctx", "--batch-size", "--mlock"},
}

Json = dict[str, Any]

MACHINES: Mapping[str, Hardware] = {
    "CPU": host(),
    "GPU": host(cards(24)),
    "experts on the CPU": host(cards(8)),
    "two GPUs": host(cards(16, 12)),  # The model fits on neither alone.
    "card and graphics core": recorded("amd-gpu"),
    "Mac": host([card(20, integrated=True, backend="Metal")], available_gib=20),
    "two sockets": recorded("two-socket-numa"),
    "container": recorded("container-quota"),
    "nothing could be read": recorded("missing-files"),
}


def answer_on(machine: str, model: str = "qwen3moe-30b-a3b") -> Json:
    hardware, analyzed = MACHINES[machine], zoo_model(model)
    recommendation = generate_recommendations(hardware, analyzed, storage=STORAGE)
    answer = run_answer(hardware, STORAGE, analyzed, recommendation)
    printed: Json = json.loads(json.dumps(answer))
    return printed


def inspect_on(machine: str, model: str = "qwen3moe-30b-a3b") -> Json:
    hardware, analyzed = MACHINES[machine], zoo_model(model)
    gpus = [1.0] * len(hardware.gpus)
    memory = footprint(analyzed, Params(n_ctx=4096), program="server", gpus=gpus)
    ladder = generate_recommendations(hardware, analyzed).ladder
    printed: Json = json.loads(json.dumps(inspect_answer(analyzed, memory, ladder)))
    return printed


def errors(answer: Json, root: str = "RunAnswer") -> list[str]:
    """Give what is wrong with an answer, under the part of the schema that is meant for it."""
    schema = {"$ref": f"#/$defs/{root}", "$defs": json_schema()["$defs"]}
    return [error.message for error in Draft202012Validator(schema).iter_errors(answer)]


def undeclared(value: object, schema: Json, definitions: Json, where: str = "") -> Iterator[str]:
    """Name the keys that an answer has and its schema does not speak of."""
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if isinstance(value, list):
        for item in value:
            yield from undeclared(item, schema["items"], definitions, where)
    elif isinstance(value, dict):
        options = schema.get("anyOf", [schema])
        schema = next(option for option in options if option.get("type") != "null")
        while "$ref" in schema:
            schema = definitions[schema["$ref"].rpartition("/")[2]]
        for key, item in value.items():
            if key in schema["properties"]:
                deeper = f"{where}/{key}"
                yield from undeclared(item, schema["properties"][key], definitions, deeper)
            else:
                yield f"{where}/{key}"


def undeclared_in(answer: Json, root: str) -> list[str]:
    schema = json_schema()
    return list(undeclared(answer, schema["$defs"][root], schema["$defs"]))


def test_the_schema_that_is_shipped_is_the_one_of_the_types() -> None:
    shipped = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    assert shipped == json_schema(), f"docs/schema.json is out of date: {COMMAND}"


def test_the_command_that_makes_the_schema_makes_it_to_the_byte() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "autotune.cli.schema"],
        cwd=SCHEMA_FILE.parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == SCHEMA_FILE.read_text(encoding="utf-8"), f"make it anew: {COMMAND}"
    assert done.stderr == ""


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("machine", MACHINES)
def test_a_recommendation_is_valid(machine: str) -> None:
    assert errors(answer_on(machine)) == []


@pytest.mark.parametrize("machine", ["CPU", "GPU", "two GPUs"])
def test_an_inspection_is_valid(machine: str) -> None:
    assert errors(inspect_on(machine), "InspectAnswer") == []


@pytest.mark.parametrize("machine", MACHINES)
def test_every_key_of_a_recommendation_is_described(machine: str) -> None:
    assert undeclared_in(answer_on(machine), "RunAnswer") == []


def test_every_key_of_an_inspection_is_described() -> None:
    assert undeclared_in(inspect_on("two GPUs"), "InspectAnswer") == []


def test_a_key_that_is_not_described_is_found() -> None:
    answer = answer_on("GPU")
    answer["hardware"]["gpus"][0]["colour"] = "green"
    assert undeclared_in(answer, "RunAnswer") == ["/hardware/gpus/colour"]


@pytest.mark.parametrize("key", ["--n-cpu-moe", "--tensor-split", "--numa"])
def test_every_optional_parameter_was_among_the_answers(key: str) -> None:
    """Otherwise nothing above would have looked at it."""
    assert any(key in answer_on(machine)["recommended_params"] for machine in MACHINES)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_four_sections_are_there(section: str) -> None:
    assert section in answer_on("CPU")
    assert section in json_schema()["$defs"]["RunAnswer"]["required"]


@pytest.mark.parametrize("section", SPECIFIED)
@pytest.mark.parametrize("machine", MACHINES)
def test_the_specifications_keys_are_there(machine: str, section: str) -> None:
    assert answer_on(machine)[section].keys() >= SPECIFIED[section]


def test_the_specifications_types_are_kept() -> None:
    with_gpu, without = answer_on("GPU"), answer_on("CPU")
    assert (without["hardware"]["gpu_type"], without["hardware"]["gpu_vram_gb"]) == (None, 0)
    assert (with_gpu["hardware"]["gpu_type"], with_gpu["hardware"]["gpu_vram_gb"]) == ("CUDA", 24)
    assert type(with_gpu["recommended_params"]["--mlock"]) is bool
    assert with_gpu["recommended_params"]["--n-gpu-layers"] == 999
    assert without["recommended_params"]["--n-gpu-layers"] == 0
    assert all(isinstance(line, str) for line in with_gpu["rationale"])


def test_a_graphics_core_beside_a_card_is_not_counted_as_vram() -> None:
    hardware = answer_on("card and graphics core")["hardware"]
    assert [gpu["integrated"] for gpu in hardware["gpus"]] == [False, True]
    assert hardware["gpu_vram_gb"] == 24.0


def test_memory_is_given_by_place_and_part_with_what_is_exact() -> None:
    memory = inspect_on("two GPUs")["memory"]
    parts = {"weights_bytes", "kv_cache_bytes", "recurrent_bytes", "compute_bytes"}
    for place in (memory["host"], *memory["gpus"]):
        assert place.keys() == parts | {"exact"}
        assert place["exact"] == {part: part != "compute_bytes" for part in parts}
    assert len(memory["gpus"]) == 2


def without(path: str) -> Json:
    answer = answer_on("two GPUs")
    *parents, last = path.split("/")
    place = answer
    for parent in parents:
        place = place[parent]
    del place[last]
    return answer


def changed(path: str, value: object) -> Json:
    answer = deepcopy(answer_on("two GPUs"))
    *parents, last = path.split("/")
    place = answer
    for parent in parents:
        place = place[parent]
    assert last in place
    place[last] = value
    return answer


@pytest.mark.parametrize(
    "path",
    [
        "schema_version",
        "hardware",
        "rationale",
        "hardware/gpu_type",
        "model/path",
        "recommended_params/--threads",
        "recommended_params/--n-ctx",
        "memory/host",
        "command/llama-server",
    ],
)
def test_an_answer_without_a_required_key_is_not_valid(path: str) -> None:
    assert any("is a required property" in error for error in errors(without(path)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema_version", 2),
        ("hardware/gpu_vram_gb", "24 GB"),
        ("hardware/cpu_cores_physical", 7.5),
        ("hardware/ram_total_bytes", None),
        ("recommended_params/--threads", "7"),
        ("recommended_params/--mlock", "true"),
        ("recommended_params/--mlock", 1),
        ("recommended_params/--flash-attn", "maybe"),
        ("recommended_params/--tensor-split", "24,8"),
        ("rationale", "because"),
        ("rationale", [1]),
        ("verdict", "perhaps"),
        ("memory/gpus", {}),
        ("command/llama-cli", "llama-cli --model x"),
    ],
    ids=str,
)
def test_a_wrong_answer_is_not_valid(path: str, value: object) -> None:
    assert len(errors(changed(path, value))) > 0


@pytest.mark.parametrize("key", ["--n-cpu-moe", "--tensor-split", "--numa"])
def test_what_does_not_apply_may_be_missing(key: str) -> None:
    answer = answer_on("CPU")
    assert key not in answer["recommended_params"]
    assert errors(answer) == []
