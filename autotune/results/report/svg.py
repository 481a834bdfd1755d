"""A drawing made part of a page: it has a name, takes the page's colours, and is small."""

import re
from collections.abc import Mapping
from xml.etree import ElementTree as ET

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_HREF, _USE = f"{{{_XLINK}}}href", f"{{{_SVG}}}use"
_LONG_NUMBER = re.compile(r"-?\d+\.\d{2,}")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_SMALL = 10.0
# What the page says of all text.
_FONT = re.compile(r"font-family:[^;]*;?\s*")
_DROPPED = frozenset({f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"})


def inline(drawing: str, *, name: str, title: str, says: str, colours: Mapping[str, str]) -> str:
    """Give an SVG file as an element of an HTML page.

    Args:
        drawing: The file, as matplotlib writes it.
        name: An id for it, one of its own on the page.
        title: What it shows, for those who do not see it.
        says: What can be seen in it, for the same.
        colours: The colours that were drawn with, and what the page has in their place.
    """
    ET.register_namespace("", _SVG)
    root = ET.fromstring(drawing)  # noqa: S314 - it is our own, and has no entities
    _drop(root)
    _rename(root, name)
    _share(root)
    for element in root.iter():
        for key, value in element.attrib.items():
            element.set(key, _plain(value, colours))
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-says"}
    root.insert(0, _words("desc", f"{name}-says", says))
    root.insert(0, _words("title", f"{name}-title", title))
    return ET.tostring(root, encoding="unicode")


def _words(tag: str, name: str, text: str) -> ET.Element:
    element = ET.Element(f"{{{_SVG}}}{tag}", id=name)
    element.text = text
    return element


def _drop(root: ET.Element) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in _DROPPED:
                parent.remove(child)
            else:
                child.tail = None  # Only the lines that the file was broken into.
        if parent.tag != f"{{{_SVG}}}text":
            parent.text = None


def _rename(root: ET.Element, name: str) -> None:
    """Keep the ids that something refers to, short and this drawing's own."""
    names: dict[str, str] = {}

    def own(old: str) -> str:
        return names.setdefault(old, f"{name}-{len(names)}")

    for element in root.iter():
        if target := element.attrib.pop(_HREF, None):
            element.set("href", f"#{own(target[1:])}")
        for key, value in element.attrib.items():
            element.set(key, _REFERENCE.sub(lambda found: f"url(#{own(found[1])})", value))
    for element in root.iter():
        old = element.attrib.pop("id", "")
        if old in names:
            element.set("id", names[old])


def _share(root: ET.Element) -> None:
    """What all markers of a group have in common is said once, of the group."""
    for group in root.iter(f"{{{_SVG}}}g"):
        styles = {marker.get("style") for marker in group}
        if len(group) > 1 and {marker.tag for marker in group} == {_USE} and len(styles) == 1:
            group.set("style", styles.pop() or "")
            for marker in group:
                del marker.attrib["style"]


def _plain(value: str, colours: Mapping[str, str]) -> str:
    value = _FONT.sub("", value).replace("\n", "")
    for drawn, shown in colours.items():
        value = value.replace(drawn, shown)
    return _LONG_NUMBER.sub(_short, value)


def _short(number: re.Match[str]) -> str:
    """A tenth of a pixel is enough for a place, not for the shape of a marker."""
    value = float(number[0])
    return f"{value:.{1 if abs(value) >= _SMALL else 2}f}".rstrip("0").rstrip(".")
