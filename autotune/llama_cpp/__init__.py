"""The only room that knows llama.cpp's programs.

    dialect   one configuration as the argument list of llama-cli or llama-server

The dialect is that of llama.cpp 0.5.0 (2026-09); which one an installed binary speaks is not asked.
"""
