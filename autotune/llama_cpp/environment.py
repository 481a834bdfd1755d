"""The environment that llama.cpp's programs are started in: clean, and recorded."""

import re
from collections.abc import Mapping

# Any of these changes what is measured; some by being set at all, even to nothing.
CLEANED_PREFIXES = ("GGML_", "GOMP_", "KMP_", "LLAMA_", "OMP_")

# Such as LLAMA_API_KEY.
_SECRET = re.compile("KEY|TOKEN|SECRET|PASSWORD")
_HIDDEN = "(hidden)"

# A failed assertion otherwise starts a debugger, which prints to stdout among the records.
_SET = {"GGML_NO_BACKTRACE": "1", "LC_ALL": "C"}


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without what would silently change a measurement."""
    kept = {key: value for key, value in environ.items() if not key.startswith(CLEANED_PREFIXES)}
    return kept | _SET


def removed(environ: Mapping[str, str]) -> dict[str, str]:
    """What `clean` takes out, for the record; records are shown to others, so without secrets."""
    return {
        key: _HIDDEN if _SECRET.search(key) else value
        for key, value in environ.items()
        if key.startswith(CLEANED_PREFIXES)
    }
