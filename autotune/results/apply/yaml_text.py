"""YAML, as it is written by hand: keys in their order, long texts over several lines."""

from collections.abc import Mapping

import yaml


class Lines(str):
    """A text of several lines, each of which is shown on one."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """Knows `Lines`, and indents a list below its key."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - PyYAML's own
        super().increase_indent(flow, indentless=False)


def _literal(dumper: yaml.SafeDumper, text: Lines) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="|")


_Dumper.add_representer(Lines, _literal)


def dump(value: Mapping[str, object]) -> str:
    """Write YAML; whatever a text holds, it is read back as the same text."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20)
