"""Find better parameters by measuring, and claim a gain only where fresh data show it.

workload      the request that is to be fast (configs/*.toml)
objective     the seconds or joules of one request, out of llama-bench's separate tests
space         the parameters that are searched, and the way to a configuration
dimensions    which those are: what can move the objective here
devices       those of several devices
memory        which configurations fit
visits        one step: what is measured and why, and what came of it
study         the record of every step, an Optuna study; nothing else knows Optuna
job           some visits in as few runs of llama-bench as they take
lab           where visits are measured, within the time there is, and answered on resume
knowledge     what is known so far
costs         what measuring takes, learned
disturbance   whether the machine was itself meanwhile
power         whether a limit of power that was met is news
search        the order of work
contest       the best so far and its challengers: what every step is made of
race          values of one parameter against each other
ladder        on a GPU: each ubatch with the placement that fits beside it
frontier      what was not measured and promises most
switches      one switch at a time
tail          neighbours of the best, then Optuna's proposals
settling      what is close to the best, until it is told from it
verify        fresh, interleaved data: the only ones that decide
confirm       whether a real server serves what was measured
session       a search and its verification
fleet         the same as one of many workers, on a study that is shared
recheck       whether what was found once still holds: a verification without a search
ground        what is here, and whether it runs
plan          what to search, and what the study belongs to
instruments   what measures here, and what serves
environment   under which circumstances numbers may be compared
watch         looks at the machine around each test, and waits
breaker       the same failure again and again
clock         time, real or simulated
tune          the whole of it as one call
events        what is told to whoever watches
"""
