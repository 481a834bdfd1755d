"""The environment that llama.cpp's programs are started in: clean, and recorded."""

import re
from collections.abc import Mapping

# Any of these changes what is measured; some by being set at all, even to nothing.
CLEANED_PREFIXES = ("GGML_", "GOMP_", "KMP_", "LLAMA_", "OMP_")
# But not these: they say which devices there are to be, as CUDA_VISIBLE_DEVICES does.
_CHOICES = frozenset(
    "GGML_HEXAGON_DEVICES GGML_METAL_DEVICES GGML_OPENCL_DEVICE GGML_OPENCL_PLATFORM "
    "GGML_VK_VISIBLE_DEVICES".split()
)

STORAGE = "LCM_STORAGE"  # Where a shared study is, and often its password.
# With the passwords of databases: llama.cpp's programs need none of it.
_OF_DATABASES = frozenset({STORAGE, "PGPASSWORD", "PGPASSFILE", "MYSQL_PWD"})
# Such as LLAMA_API_KEY.
_SECRET = re.compile("KEY|TOKEN|SECRET|PASSWORD")
_HIDDEN = "(hidden)"

# A failed assertion otherwise starts a debugger, which prints to stdout among the records.
_SET = {"GGML_NO_BACKTRACE": "1", "LC_ALL": "C"}


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without what would silently change a measurement, and what is not its business."""
    kept = {key: value for key, value in environ.items() if not _is_cleaned(key)}
    return {key: value for key, value in kept.items() if key not in _OF_DATABASES} | _SET


def removed(environ: Mapping[str, str]) -> dict[str, str]:
    """What `clean` takes out, for the record; records are shown to others, so without secrets."""
    return {
        key: _HIDDEN if _SECRET.search(key) else value
        for key, value in environ.items()
        if _is_cleaned(key)
    }


def _is_cleaned(key: str) -> bool:
    return key.startswith(CLEANED_PREFIXES) and key not in _CHOICES
