"""What llama.cpp's programs are not told, and what is written down of that."""

from autotune.llama_cpp.environment import clean, removed

ENVIRON = {
    "PATH": "/bin",
    "GGML_CUDA_DISABLE_GRAPHS": "",
    "LLAMA_ARG_THREADS": "3",
    "LLAMA_API_KEY": "sk-1",
    "LLAMA_ARG_SSL_KEY_FILE": "/k",
    "HF_TOKEN": "hf-1",
    "GGML_VK_VISIBLE_DEVICES": "0",
}


def test_what_would_change_a_measurement_is_taken_out() -> None:
    kept = clean(ENVIRON)

    assert kept["PATH"] == "/bin"
    assert kept["GGML_VK_VISIBLE_DEVICES"] == "0"  # Which devices there are, not how they compute.
    assert not kept.keys() & removed(ENVIRON).keys()


def test_what_was_taken_out_is_recorded_without_its_secrets() -> None:
    assert removed(ENVIRON) == {
        "GGML_CUDA_DISABLE_GRAPHS": "",
        "LLAMA_ARG_THREADS": "3",
        "LLAMA_API_KEY": "(hidden)",
        "LLAMA_ARG_SSL_KEY_FILE": "(hidden)",
    }
