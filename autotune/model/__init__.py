"""What a GGUF file is and what it needs: `analyze_model(path) -> Model`.

    gguf          the header: metadata and tensor table
    architecture  which layers keep what between tokens
    reader        the two together, over all shards: the Model
    footprint     bytes by part and place, for one configuration

Nothing here starts a program or knows what machine it runs on.
"""

from autotune.model.reader import Layer, Model, analyze_model

__all__ = ["Layer", "Model", "analyze_model"]
