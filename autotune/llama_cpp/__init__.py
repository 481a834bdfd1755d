"""The only room that knows llama.cpp's programs.

locate        where they are
capabilities  what one of them can, by its own help
dialect       one configuration as the argument list that it understands
launch        the command that starts llama-cli or llama-server
preflight     whether a llama-bench really runs here
checkup       what there is of llama.cpp, without an exception
grids         trials put together into what one llama-bench runs
batches       the same for llama-batched-bench
bench         either of them, run for many trials without losing one
serving       a llama-server that is asked by several at once
patience      how long each of its phases may take
records       what it measured, and what it failed at
gauge         what its repetitions have used, by a meter
failures      why it failed
process       one child process, of which nothing is left behind
environment   what it is started in
"""
