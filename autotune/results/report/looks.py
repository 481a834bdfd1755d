"""How the charts look: one shape for each kind of point, because not everybody sees colours."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autotune.results.report.series import Outcome

# Drawn with these, shown in what the page's style sheet has under that name.
COLOURS: Mapping[str, str] = {
    "#0a0b01": "var(--ink)",
    "#0a0b02": "var(--muted)",
    "#0a0b03": "var(--line)",
    "#0a0b04": "var(--base)",
    "#0a0b05": "var(--win)",
    "#0a0b06": "var(--bad)",
    "#0a0b07": "var(--paper)",
    "#0a0b08": "var(--third)",
    "#0a0b09": "var(--fourth)",
}
INK, MUTED, LINE, BASE, WIN, BAD, PAPER, THIRD, FOURTH = COLOURS

# In inches of 72 points: what a phone shows at its own size.
WIDTH = 5.2
STYLE: Mapping[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11.5,
    "figure.facecolor": "none",
    "font.size": 11.5,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "hatch.color": PAPER,
    "hatch.linewidth": 1.5,
    "legend.borderaxespad": 0,
    "legend.columnspacing": 1.2,
    "legend.frameon": False,
    "legend.handletextpad": 0.3,
    "legend.labelcolor": INK,
    "path.simplify": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "lcm",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
}


@dataclass(frozen=True, slots=True)
class Look:
    """How points of one kind are drawn."""

    label: str
    marker: str
    colour: str
    filled: bool = True
    size: float = 5

    @property
    def style(self) -> Mapping[str, Any]:
        """In matplotlib's words."""
        return {
            "linestyle": "none",
            "marker": self.marker,
            "markersize": self.size,
            "markerfacecolor": self.colour if self.filled else PAPER,
            "markeredgecolor": self.colour,
            "label": self.label,
        }


OUTCOMES: Mapping[Outcome, Look] = {
    "searched": Look("search", "o", MUTED),
    "verified": Look("verification", "D", WIN),
    "disturbed": Look("disturbed", "o", MUTED, filled=False),
    "ended early": Look("ended early", "v", THIRD),
    "failed": Look("failed", "x", BAD),
}
TRIED = Look("tried", "o", MUTED)
DEFAULTS = Look("defaults", "s", BASE)
CANDIDATE = Look("candidate", "o", WIN)
ANCHOR = Look("anchor", "^", WIN)
DISTURBED = Look("disturbed, not counted", "o", MUTED, filled=False)
# Of a line's kinds and a bar's parts: colours with dashes, colours with hatches.
DASHES = ((BASE, "-"), (WIN, "--"), (THIRD, ":"), (FOURTH, "-."))
HATCHES = ((WIN, ""), (BASE, "//"), (THIRD, "xx"), (MUTED, ".."))
