"""Laws of saying a configuration in llama.cpp's flags."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from property.params_strategies import params

from autotune.llama_cpp.dialect import NOT_IN, Target, parse, render
from autotune.params import Params

TARGETS: tuple[Target, ...] = ("bench", "cli", "server", "fit-params")

# A switch can only be given; that it was asked to be off is said by leaving it out.
SWITCHES = ("no_kv_offload", "no_op_offload")


def sayable(asked: Params, target: Target) -> Params:
    """What of a configuration an argument list of this program can hold."""
    unsaid = dict.fromkeys(NOT_IN.get(target, ()))
    if target != "bench":
        unsaid |= {name: None for name in SWITCHES if getattr(asked, name) is False}
        if asked.repack:
            unsaid["repack"] = None
    return replace(asked, **unsaid)


@pytest.mark.parametrize("target", TARGETS)
@given(asked=params())
def test_what_is_rendered_is_read_back(target: Target, asked: Params) -> None:
    rendered = render(asked, target)
    assert rendered.unsupported == ()
    assert parse(rendered.arguments, target) == sayable(asked, target)


@pytest.mark.parametrize("target", TARGETS)
@given(asked=params())
def test_a_flag_is_said_once(target: Target, asked: Params) -> None:
    flags = [word for word in render(asked, target).arguments if word.startswith("-")]
    assert len(flags) == len(set(flags))


def test_every_field_has_its_flag_but_what_stands_before_the_program() -> None:
    from autotune.llama_cpp.dialect import FLAGS  # noqa: PLC0415 - the table this is about

    assert FLAGS.keys() | {"numactl"} == {field.name for field in fields(Params)}
