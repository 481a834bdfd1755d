"""What measures here, what serves, and what looks at the machine meanwhile."""

import math
from collections.abc import Callable

from autotune.hardware.activity import Activity
from autotune.llama_cpp.bench import BatchedBench, Bench
from autotune.llama_cpp.plausibility import LEAST_ACTIVE_SHARE
from autotune.llama_cpp.records import State
from autotune.llama_cpp.serving import NotServed, Requests, Served, Server
from autotune.params import Params
from autotune.tuning.confirm import Serves
from autotune.tuning.ground import Ground, Order, n_ctx_of
from autotune.tuning.recheck import as_served


def bench_of(order: Order, here: Ground, activity: Activity) -> Bench | BatchedBench:
    """What measures: llama-bench, or llama-batched-bench where several requests are at once."""
    if not here.serving:
        return llama_bench_of(order, here, activity)
    return BatchedBench(
        program=here.serving.batched,
        capabilities=here.serving.batched_can,
        model=here.model.path,
        observe=observer_of(order, activity),
        extra_arguments=order.arguments,
        active_share=_active_share(here),
        n_ctx=n_ctx_of(order, here),
    )


def llama_bench_of(order: Order, here: Ground, activity: Activity) -> Bench:
    """The llama-bench that measures one request at a time."""
    return Bench(
        program=here.program,
        capabilities=here.capabilities,
        model=here.model.path,
        observe=observer_of(order, activity),
        meter=activity.meter.read,
        metered_s=activity.meter.metered.least_s,
        extra_arguments=order.arguments,
        active_share=_active_share(here),
    )


def _active_share(here: Ground) -> float:
    """Of the weights, how much a token reads at the least."""
    return LEAST_ACTIVE_SHARE if here.model.shape.n_expert else 1.0


def servers_of(order: Order, here: Ground) -> Serves | None:
    """What starts a llama-server as it would be shipped; None where one request is measured."""
    if not here.serving:
        return None
    workload, serving, quick = order.workload, here.serving, here.recommendation.params

    def serves(
        params: Params, *, share: float, limit_s: float, enough: Callable[[], bool]
    ) -> Served | NotServed:
        requests = Requests(
            number=workload.n_parallel,
            n_prompt=math.ceil(share * workload.n_prompt),
            # Where prompts alone count, one token shows that they were processed.
            n_gen=1 if workload.objective == "pp" else math.ceil(share * workload.n_gen),
            n_vocab=here.model.n_vocab,
        )
        server = Server(
            program=serving.server,
            capabilities=serving.server_can,
            model=here.model.path,
            model_bytes=here.model.file_bytes,
            extra_arguments=order.arguments,
            enough=enough,
        )
        return server.serve(as_served(params, quick), requests, limit_s=limit_s)

    return serves


def observer_of(order: Order, activity: Activity) -> Callable[[], State]:
    """What tells the machine's state around a test.

    A ggml-rpc-server on this machine is the device that is measured, and no foreign program; as it
    cannot be told from one, CPU time is not judged.
    """
    if not {"--rpc", "-rpc"} & {*order.arguments}:
        return activity.read
    return lambda: {key: value for key, value in activity.read().items() if key != "own_s"}
