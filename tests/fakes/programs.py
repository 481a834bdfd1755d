"""Stand-ins for llama.cpp's programs: small shell scripts, for what the real ones rarely do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fakes.common_help import COMMON_HELP

if TYPE_CHECKING:
    from pathlib import Path

# As llama.cpp 0.5.0 (2026-09) has them, shortened to what is used.
BENCH_HELP = """\
usage: llama-bench [options]
  -h, --help
  --version                                   show version and build info
  -o, --output <csv|json|jsonl|md|sql>        output format
  --list-devices                              list available devices and exit
  --no-warmup                                 skip warmup runs before benchmarking
  -m, --model <filename>                      (default: models/7B/ggml-model-q4_0.gguf)
  -fa, --flash-attn <on|off|auto>             (default: auto)
  -lm, --load-mode <auto|none|mmap|mlock|mmap+mlock|dio> (default: auto)
  --repack <0|1>                              (default: 1)
"""
# Of 2024: no devices, no repacking, -fa in numbers, the file mapped by -mmp.
OLD_BENCH_HELP = """\
usage: llama-bench [options]
options:
  -h, --help
  -m, --model <filename>              (default: models/7B/ggml-model-q4_0.gguf)
  -fa, --flash-attn <0|1>             (default: 0)
  -mmp, --mmap <0|1>                  (default: 1)
  -o, --output <csv|json|jsonl|md|sql> (default: md)
"""
SERVER_HELP = (
    COMMON_HELP
    + """\
-dev,  --device <dev1,dev2,..>          comma-separated list of devices to use for offloading
--list-devices                          print list of available devices and exit
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM
-fit,  --fit [on|off]                   whether to adjust unset arguments to fit in device memory
-cram, --cache-ram N                    set the maximum cache size in MiB
-m,    --model FNAME                    model path to load
--port PORT                             port to listen (default: 8080)
"""
)
# Of 2024: flash attention is a switch, two switches say how the file is loaded, no prompt cache.
OLD_SERVER_HELP = """\
-h,    --help, --usage                  print usage and exit
-t,    --threads N                      number of threads to use during generation (default: -1)
-tb,   --threads-batch N                number of threads to use during batch processing
-c,    --ctx-size N                     size of the prompt context (default: 0)
-b,    --batch-size N                   logical maximum batch size (default: 2048)
-ub,   --ubatch-size N                  physical maximum batch size (default: 512)
-fa,   --flash-attn                     enable Flash Attention (default: disabled)
-ctk,  --cache-type-k TYPE              KV cache data type for K (default: f16)
-ctv,  --cache-type-v TYPE              KV cache data type for V (default: f16)
--mlock                                 force system to keep model in RAM rather than swapping
--no-mmap                               do not memory-map model
-ngl,  --gpu-layers, --n-gpu-layers N   number of layers to store in VRAM
-m,    --model FNAME                    model path
"""


def write_program(path: Path, *, help_text: str, before: str = "", work: str = "") -> Path:
    """Write a program that answers `--help`, `--version` and `--list-devices`, and can work.

    Args:
        path: the file.
        help_text: its help.
        before: lines of shell that come first, whatever it is asked.
        work: lines of shell for every other command line; the arguments are in "$@".
    """
    path.write_text(
        f"""#!/bin/sh
{before}
case "$1" in
--help) cat <<'END'
{help_text}
END
exit ;;
--version) echo 'version: 0.5.0-stub (build 7, commit 1234567)' >&2; exit ;;
--list-devices) echo 'Available devices:'; echo '  (none)'; exit ;;
esac
{work}
""",
        encoding="utf-8",
    )
    path.chmod(0o755)
    return path


# A llama-batched-bench whose slots share what a step takes, as those of `fakes.llama_server` do. It
# starts in no time, so that what else runs on the machine does not decide a test.
BATCHED_WORK = """\
while [ $# -gt 0 ]; do
  case "$1" in
    -npp) npp=$2 ;;
    -ntg) ntg=$2 ;;
    -npl) npl=$2 ;;
  esac
  shift
done
for slots in $(echo "$npl" | tr , ' '); do
  pp=$((150 + 150 * slots * npp / 100)) tg=$((150 + 150 * slots * ntg / 100))
  sleep "$(printf 0.%03d $((pp + tg)))"
  printf '{"pp": %d, "tg": %d, "pl": %d, "t_pp": 0.%03d, "t_tg": 0.%03d}\\n' \
    "$npp" "$ntg" "$slots" "$pp" "$tg"
done"""


def records(*tests: tuple[int, int]) -> str:
    """Lines of shell that print llama-bench's record of each (prompt, generation)."""
    return "\n".join(
        f"""echo '{{"build_commit": "1234567", "build_number": 7, "backends": "CPU", """
        f""""n_prompt": {n_prompt}, "n_gen": {n_gen}, "n_depth": 0, "samples_ns": [1000000]}}'"""
        for n_prompt, n_gen in tests
    )


WORKS = records((16, 0), (0, 2))
