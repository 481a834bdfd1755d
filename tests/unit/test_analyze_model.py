from __future__ import annotations

import os
import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fakes.gguf_writer import GgufType, TensorSpec, Typed, Value, write_gguf, write_shards
from fakes.small import SMALL, small_unknown
from fakes.zoo import (
    ZOO,
    Spec,
    gemma3_270m,
    glm4_moe_air,
    gpt_oss_20b,
    lfm2_1b,
    llama3_8b,
    llama3_70b,
    qwen3_4b,
    qwen3moe_30b,
)

from autotune.errors import AutotuneError, GGUFInvalid, ModelNotFound, ModelUnreadable
from autotune.model import Model, analyze_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ALIGNMENT = 32


def model_of(model: Spec, folder: Path, **metadata: Value) -> Model:
    """Read a model of which some general metadata is another: `name` means `general.name`."""
    file = folder / "model.gguf"
    general = {f"general.{key}": value for key, value in metadata.items()}
    Spec({**model.metadata, **general}, model.tensors).write(file)
    return analyze_model(file)


def with_key(model: Spec, key: str, value: Value | None) -> Spec:
    """Give a key of the architecture another value, or none."""
    name = f"{model.arch}.{key}"
    metadata = {k: v for k, v in model.metadata.items() if k != name}
    return Spec(metadata if value is None else {**metadata, name: value}, model.tensors)


def raised(path: str | Path) -> AutotuneError:
    with pytest.raises(AutotuneError) as caught:
        analyze_model(path)
    return caught.value


# --- facts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "billions"),
    [
        (llama3_8b, 8.03),
        (llama3_70b, 70.55),
        (qwen3_4b, 4.02),
        (qwen3moe_30b, 30.53),
        (gpt_oss_20b, 20.91),
        (gemma3_270m, 0.268),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_parameters_are_as_many_as_the_model_was_published_with(
    tmp_path: Path, model: Callable[[], Spec], billions: float
) -> None:
    assert model_of(model(), tmp_path).n_parameters / 1e9 == pytest.approx(billions, rel=0.002)


def test_the_shape_is_what_the_metadata_says(tmp_path: Path) -> None:
    model = model_of(llama3_8b(), tmp_path)

    shape = model.shape
    assert (shape.n_layers, shape.n_embd, shape.n_ctx_train) == (32, 4096, 131072)
    assert (shape.heads, shape.kv_heads) == ((32,) * 32, (8,) * 32)
    assert (shape.key_length, shape.value_length, model.n_vocab) == (128, 128, 128256)


def test_every_byte_of_the_file_is_counted_once(tmp_path: Path) -> None:
    for name, zoo in ZOO.items():
        spec = zoo()
        model = model_of(spec, tmp_path)
        loaded = [t for t in spec.tensors if not _is_further(t, spec)]

        padded = sum(-(-tensor.n_bytes // ALIGNMENT) * ALIGNMENT for tensor in loaded)
        assert (name, model.weight_bytes) == (name, padded)


def _is_further(tensor: TensorSpec, spec: Spec) -> bool:
    """Tell the tensors of layers that only speculative decoding loads."""
    prefix, _, rest = tensor.name.partition(".")
    return prefix == "blk" and int(rest.partition(".")[0]) >= spec.n_layer


def test_the_name_is_the_one_in_the_file(tmp_path: Path) -> None:
    assert model_of(small_unknown(), tmp_path, name="Grüße 7B").name == "Grüße 7B"


@pytest.mark.parametrize("name", [None, "", 7], ids=["none", "empty", "no text"])
def test_without_a_name_the_file_gives_it(tmp_path: Path, name: Value | None) -> None:
    metadata = {} if name is None else {"name": name}

    assert model_of(small_unknown(), tmp_path, **metadata).name == "model"


def test_a_name_cannot_move_the_cursor_of_a_terminal(tmp_path: Path) -> None:
    name = model_of(small_unknown(), tmp_path, name="nice\x1b[2J\r\nmodel\x07").name

    assert name == r"nice\x1b[2J\r\nmodel\x07"


@pytest.mark.parametrize(
    ("file_type", "name"),
    [(0, "F32"), (1, "F16"), (7, "Q8_0"), (15, "Q4_K_M"), (32, "BF16"), (38, "MXFP4_MOE")],
)
def test_the_quantization_is_that_of_the_recipe(tmp_path: Path, file_type: int, name: str) -> None:
    assert model_of(small_unknown(), tmp_path, file_type=file_type).quantization == name


@pytest.mark.parametrize("file_type", [4, 9999, "15", Typed(GgufType.INT32, -1)], ids=repr)
def test_without_a_recipe_the_quantization_is_what_most_bytes_have(
    tmp_path: Path, file_type: Value
) -> None:
    tensors = (TensorSpec("output.weight", (64, 64), "q8_0"), TensorSpec("b", (64, 2), "f32"))
    bare = Spec(small_unknown().metadata, tensors)

    assert model_of(bare, tmp_path, file_type=file_type).quantization == "Q8_0"


def test_experts_are_counted_apart(tmp_path: Path) -> None:
    spec = qwen3moe_30b()
    experts = [t.n_bytes for t in spec.tensors if t.name.startswith("blk.7.") and "_exps" in t.name]

    layer = model_of(spec, tmp_path).layers[7]

    assert (layer.expert_bytes, layer.largest_expert_bytes) == (sum(experts), max(experts))
    assert layer.dense_bytes < layer.expert_bytes // 20


def test_a_shared_expert_stays_with_the_rest_of_its_layer(tmp_path: Path) -> None:
    spec = glm4_moe_air()
    shared = [t for t in spec.tensors if "_shexp" in t.name and t.name.startswith("blk.7.")]

    assert len(shared) == 3
    assert model_of(spec, tmp_path).layers[7].dense_bytes > sum(t.n_bytes for t in shared)


@pytest.mark.parametrize(("model", "is_moe"), [(llama3_8b, False), (glm4_moe_air, True)])
def test_a_model_with_experts_says_so(
    tmp_path: Path, model: Callable[[], Spec], *, is_moe: bool
) -> None:
    assert model_of(model(), tmp_path).is_moe is is_moe


def test_a_tied_embedding_is_the_output_too(tmp_path: Path) -> None:
    spec = qwen3_4b()
    (embedding,) = (t for t in spec.tensors if t.name == "token_embd.weight")

    model = model_of(spec, tmp_path)

    assert (model.input_bytes, model.tied_bytes) == (embedding.n_bytes, embedding.n_bytes)
    assert model.output_bytes == 2560 * 4  # The norm.


def test_an_output_of_its_own_is_not_tied(tmp_path: Path) -> None:
    spec = llama3_8b()
    (output,) = (t for t in spec.tensors if t.name == "output.weight")

    model = model_of(spec, tmp_path)

    assert (model.output_bytes, model.tied_bytes) == (output.n_bytes + 4096 * 4, 0)


def test_rope_factors_are_counted_by_themselves(tmp_path: Path) -> None:
    assert model_of(llama3_8b(), tmp_path).rope_bytes == 64 * 4


@pytest.mark.parametrize(
    ("model", "n_layers", "n_offloadable"),
    [(llama3_8b, 32, 33), (lfm2_1b, 16, 17), (glm4_moe_air, 46, 48)],
    ids=["llama", "hybrid", "with a layer for further tokens"],
)
def test_offloadable_are_all_blocks_and_the_output(
    tmp_path: Path, model: Callable[[], Spec], n_layers: int, n_offloadable: int
) -> None:
    read = model_of(model(), tmp_path)

    assert (len(read.layers), read.n_offloadable) == (n_layers, n_offloadable)


def test_a_block_number_that_is_none_belongs_to_no_layer(tmp_path: Path) -> None:
    spec = small_unknown()
    names = ("blk.x.attn_q.weight", "blk.99999.attn_q.weight", "blk.2.attn_q.weight", "blk")
    extra = tuple(TensorSpec(name, (32,), "f32") for name in names)

    plain = model_of(spec, tmp_path)
    odd = model_of(Spec(spec.metadata, spec.tensors + extra), tmp_path)

    assert odd.layers == plain.layers


def test_tensors_of_an_unknown_type_make_the_weights_an_estimate(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    spec = small_unknown()
    spec.write(file)
    data, name = file.read_bytes(), b"blk.1.attn_q.weight"
    at = data.index(name) + len(name) + 4 + 2 * 8  # Behind the count of dimensions and these two.
    file.write_bytes(data[:at] + (77).to_bytes(4, "little") + data[at + 4 :])

    model = analyze_model(file)

    assert model.weights_exact is False
    assert model.notes[-1] == (
        "tensor types 77 are newer than this tool; their size is taken from offsets"
    )


@pytest.mark.parametrize("name", sorted(SMALL.keys() - {"llama"}))
def test_reading_a_file_twice_gives_equal_models(tmp_path: Path, name: str) -> None:
    spec = SMALL[name]()

    assert model_of(spec, tmp_path) == model_of(spec, tmp_path)


# --- shards --------------------------------------------------------------------------------------


def three_shards(folder: Path) -> list[Path]:
    spec = small_unknown()
    return write_shards(
        folder / "model.gguf", metadata=spec.metadata, tensors=spec.tensors, count=3
    )


def test_shards_are_read_as_one_model(tmp_path: Path) -> None:
    paths = three_shards(tmp_path)
    whole = model_of(small_unknown(), tmp_path)

    model = analyze_model(paths[0])

    assert model == replace(
        whole,
        path=paths[0],
        files=tuple(paths),
        file_bytes=sum(path.stat().st_size for path in paths),
        name="model-00001-of-00003",
    )


@pytest.mark.parametrize("given", [0, 1, 2], ids=["first", "second", "third"])
def test_any_shard_leads_to_the_first(tmp_path: Path, given: int) -> None:
    paths = three_shards(tmp_path)

    model = analyze_model(paths[given])

    assert (model.path, model.files) == (paths[0], tuple(paths))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    paths = three_shards(tmp_path)
    paths[1].unlink()

    error = raised(paths[0])

    assert isinstance(error, ModelNotFound)
    assert error.message == f"1 of the model's 3 shards are missing: {paths[1]}"


def test_of_many_missing_shards_three_are_named(tmp_path: Path) -> None:
    spec = small_unknown()
    paths = write_shards(
        tmp_path / "model.gguf", metadata=spec.metadata, tensors=spec.tensors, count=6
    )
    for path in paths[1:]:
        path.unlink()

    named = ", ".join(map(str, paths[1:4]))
    assert raised(paths[0]).message == f"5 of the model's 6 shards are missing: {named}, ..."


@pytest.mark.parametrize(
    "name",
    [
        "renamed.gguf",
        "model-00001-of-00002.gguf",
        "model-00004-of-00003.gguf",
        "model-00000-of-00003.gguf",
        "model-first-of-00003.gguf",
        "model00001-of-00003.gguf",
        "model-00001-of-00003.gguf.part",
    ],
)
def test_a_renamed_shard_is_refused(tmp_path: Path, name: str) -> None:
    renamed = three_shards(tmp_path)[0].rename(tmp_path / name)

    error = raised(renamed)

    assert isinstance(error, GGUFInvalid)
    assert error.message == (
        f"{renamed} is one of 3 shards, but its name does not end in -NNNNN-of-00003.gguf, "
        "so the others cannot be found"
    )
    assert error.hint == "give every shard its original name"


def test_a_broken_shard_is_named(tmp_path: Path) -> None:
    paths = three_shards(tmp_path)
    paths[2].write_bytes(b"")

    assert raised(paths[0]).message == f"{paths[2]} is empty"


def test_a_model_of_one_shard_may_have_any_name(tmp_path: Path) -> None:
    spec = small_unknown()
    alone = {"split.count": Typed(GgufType.UINT16, 1)}
    file = tmp_path / "any.gguf"

    write_gguf(file, metadata={**spec.metadata, **alone}, tensors=spec.tensors)

    assert analyze_model(file).files == (file,)


def test_more_shards_than_the_names_can_count_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(file, metadata={"split.count": 100_000}, tensors=())

    assert raised(file).message == f"{file} announces 100,000 shards"


# --- paths ---------------------------------------------------------------------------------------


def kinds_of_nothing(folder: Path) -> Mapping[str, Path]:
    (folder / "file").touch()
    (folder / "broken").symlink_to(folder / "gone")
    return {
        "missing": folder / "missing.gguf",
        "below a file": folder / "file" / "model.gguf",
        "broken link": folder / "broken",
        "zero byte": folder / "model\0.gguf",
        "half a surrogate pair": folder / "model\ud800.gguf",
    }


@pytest.mark.parametrize(
    "kind", ["missing", "below a file", "broken link", "zero byte", "half a surrogate pair"]
)
def test_where_there_is_no_file_it_says_so(tmp_path: Path, kind: str) -> None:
    path = kinds_of_nothing(tmp_path)[kind]

    error = raised(path)

    assert isinstance(error, ModelNotFound)
    assert error.message.startswith(f"there is no model at {tmp_path}")


def test_a_directory_is_unreadable(tmp_path: Path) -> None:
    error = raised(tmp_path)

    assert isinstance(error, ModelUnreadable)
    assert error.message == f"{tmp_path} is a directory"


@pytest.fixture(scope="module", params=["fifo", "socket", "endless device", "empty device"])
def special_file(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Give a file that is none; a socket's path must be shorter than pytest's folders are."""
    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as server:
        folder = Path(name)
        os.mkfifo(folder / "fifo")
        server.bind(str(folder / "socket"))
        yield {
            "fifo": folder / "fifo",
            "socket": folder / "socket",
            "endless device": Path("/dev/zero"),
            "empty device": Path("/dev/null"),
        }[request.param]


def test_what_is_no_regular_file_is_unreadable_at_once(special_file: Path) -> None:
    error = raised(special_file)

    assert isinstance(error, ModelUnreadable)
    assert error.message == f"{special_file} is not a regular file"


def test_a_link_to_a_fifo_is_unreadable_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link.gguf").symlink_to("fifo")

    assert raised(tmp_path / "link.gguf").message.endswith("link.gguf is not a regular file")


def test_a_shard_that_is_a_fifo_is_unreadable_at_once(tmp_path: Path) -> None:
    paths = three_shards(tmp_path)
    paths[1].unlink()
    os.mkfifo(paths[1])

    assert raised(paths[0]).message == f"{paths[1]} is not a regular file"


def test_a_file_that_may_not_be_read_is_unreadable(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    small_unknown().write(file)
    file.chmod(0)
    if os.access(file, os.R_OK):
        pytest.skip("this user may read a file of mode 0: it is root")

    error = raised(file)

    assert isinstance(error, ModelUnreadable)
    assert error.message == f"{file} may not be read by this user"


def test_links_in_a_circle_are_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")

    error = raised(tmp_path / "a")

    assert isinstance(error, ModelUnreadable)
    assert error.message == f"{tmp_path / 'a'} cannot be read: {os.strerror(40)}"


def test_a_name_that_is_too_long_is_unreadable(tmp_path: Path) -> None:
    error = raised(tmp_path / ("m" * 300))

    assert isinstance(error, ModelUnreadable)
    assert "cannot be read: " in error.message


def test_a_link_to_a_model_is_read(tmp_path: Path) -> None:
    small_unknown().write(tmp_path / "blob")
    link = tmp_path / "model.gguf"
    link.symlink_to("blob")

    assert analyze_model(link).path == link


def test_a_path_may_be_text(tmp_path: Path) -> None:
    small_unknown().write(tmp_path / "model.gguf")

    assert analyze_model(str(tmp_path / "model.gguf")).path == tmp_path / "model.gguf"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\N{RIGHT-TO-LEFT OVERRIDE}b", r"a\u202eb"),
        (os.fsdecode(b"a\xffb"), r"a\udcffb"),
        ("Grüße", "Grüße"),
    ],
    ids=["newline", "escape", "right to left", "no UTF-8", "umlauts"],
)
@pytest.mark.parametrize("there", [True, False], ids=["broken file", "missing"])
def test_a_path_is_printed_without_its_control_characters(
    tmp_path: Path, name: str, shown: str, *, there: bool
) -> None:
    path = tmp_path / name
    if there:
        path.write_bytes(b"")

    message = raised(path).message

    assert message == (
        f"{tmp_path}/{shown} is empty" if there else f"there is no model at {tmp_path}/{shown}"
    )


# --- metadata ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("32", "is '32', not a non-negative integer"),
        (-1, "is -1, not a non-negative integer"),
        (2.5, "is 2.5, not a non-negative integer"),
        (0, "is 0"),
        (513, "is 513"),
        (Typed(GgufType.UINT64, 2**64 - 1), f"is {2**64 - 1}"),
        (["2"], "is an array without a number"),
        (None, "is missing"),
    ],
    ids=["text", "negative", "float", "none", "too many", "hostile", "texts", "missing"],
)
def test_a_wrong_number_of_layers_is_refused(
    tmp_path: Path, value: Value | None, what: str
) -> None:
    with pytest.raises(GGUFInvalid) as caught:
        model_of(with_key(small_unknown(), "block_count", value), tmp_path)

    key = "new-in-2027.block_count"
    assert caught.value.message == f"{tmp_path / 'model.gguf'}: the metadata key {key} {what}"


@pytest.mark.parametrize("key", ["embedding_length", "context_length"])
@pytest.mark.parametrize("value", ["many", -1, None], ids=["text", "negative", "missing"])
def test_a_wrong_size_is_refused_by_its_key(tmp_path: Path, key: str, value: Value | None) -> None:
    with pytest.raises(GGUFInvalid, match=f"the metadata key new-in-2027.{key} is "):
        model_of(with_key(small_unknown(), key, value), tmp_path)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ([1], "has 1 values, not one number for each of 2 layers"),
        ([1] * 513, "has 513 values, not one number for each of 2 layers"),
        (["1", "1"], "has 2 values, not one number for each of 2 layers"),
        (Typed(GgufType.INT32, [1, -1]), "has a value that is not a non-negative integer"),
        ([1.0, float("nan")], "has a value that is not a non-negative integer"),
        ("2", "is '2', not a non-negative integer"),
    ],
    ids=["too short", "too long", "texts", "negative", "not a number", "text"],
)
def test_wrong_numbers_by_layer_are_refused(tmp_path: Path, value: Value, what: str) -> None:
    with pytest.raises(GGUFInvalid) as caught:
        model_of(with_key(small_unknown(), "attention.head_count_kv", value), tmp_path)

    key = "new-in-2027.attention.head_count_kv"
    assert caught.value.message == f"{tmp_path / 'model.gguf'}: the metadata key {key} {what}"


@pytest.mark.parametrize("n_further", [2, 3, 2**32 - 1])
def test_a_model_without_a_layer_for_the_next_token_is_refused(
    tmp_path: Path, n_further: int
) -> None:
    with pytest.raises(GGUFInvalid, match=f"nextn_predict_layers is {n_further} of 2 layers"):
        model_of(with_key(small_unknown(), "nextn_predict_layers", n_further), tmp_path)


@pytest.mark.parametrize("value", [None, "", 7, ["llama"]], ids=["none", "empty", "int", "array"])
def test_a_file_without_an_architecture_is_refused(tmp_path: Path, value: Value | None) -> None:
    key = "general.architecture"
    metadata = {k: v for k, v in small_unknown().metadata.items() if k != key}
    file = tmp_path / "model.gguf"
    write_gguf(
        file,
        metadata=metadata if value is None else {**metadata, key: value},
        tensors=small_unknown().tensors,
    )

    assert raised(file).message == f"{file}: the metadata key general.architecture is missing"


def test_a_vocabulary_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "vocabulary.gguf"
    write_gguf(file, metadata=small_unknown().metadata, tensors=())

    assert raised(file).message == (
        f"{file} has no tensors: it holds a vocabulary or an adapter, not a model"
    )


def test_a_recurrent_model_without_the_size_of_its_state_is_refused(tmp_path: Path) -> None:
    spec = with_key(SMALL["nemotron"](), "ssm.state_size", None)

    with pytest.raises(GGUFInvalid, match=r"ssm\.state_size is missing$"):
        model_of(spec, tmp_path)
