"""What a machine is: the types that `detect_hardware()` fills and every other room reads.

Counts are of this machine as the operating system shows it; what *this process* may use of it
stands in the `usable_*` fields. Memory is in bytes. A fact that could not be read is None or a
safe default, and `Hardware.notes` says so.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """The processors, and how much of them this process may use."""

    name: str  # As the vendor writes it; "" where unknown.
    architecture: str  # As `uname -m` writes it: x86_64, aarch64, arm64.
    isa: tuple[str, ...]  # Of the instruction sets that llama.cpp has kernels for, those present.
    sockets: int
    numa_nodes: int
    physical_cores: int
    logical_cores: int
    performance_cores: int  # Physical cores of the fastest kind; all of them where all are alike.
    smt: bool  # Some physical core runs more than one hardware thread.
    usable_cpus: tuple[int, ...]  # Logical CPUs that affinity and cpusets leave to this process.
    usable_cores: int  # Physical cores behind `usable_cpus`.
    usable_performance_cores: int
    quota: float | None  # CPUs' worth of time that the tightest cgroup grants; None: no limit.

    @property
    def efficiency_cores(self) -> int:
        """Physical cores that are not of the fastest kind."""
        return self.physical_cores - self.performance_cores

    @property
    def max_threads(self) -> int:
        """Threads that can run at once in this process: `nproc` with the quota, rounded down."""
        cpus = max(len(self.usable_cpus), 1)
        return cpus if self.quota is None else max(min(cpus, int(self.quota)), 1)

    @property
    def max_cores(self) -> int:
        """Physical cores that can work at once in this process."""
        return max(min(self.usable_cores, self.max_threads), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Host memory in bytes, and the limits this process lives under."""

    total_bytes: int  # Of the machine.
    available_bytes: int  # What can be taken without swapping, under the tightest cgroup limit.
    limit_bytes: int | None  # The tightest cgroup limit; None: none.
    swap_total_bytes: int
    swap_free_bytes: int
    memlock_bytes: int | None  # RLIMIT_MEMLOCK, soft; None: unlimited, or CAP_IPC_LOCK lifts it.

    @property
    def usable_total_bytes(self) -> int:
        """The machine's memory, or the cgroup's limit where that is less."""
        return (
            self.total_bytes
            if self.limit_bytes is None
            else min(self.total_bytes, self.limit_bytes)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A NUMA node: processors, and the memory that is near to them."""

    number: int  # As the kernel counts.
    cpus: tuple[int, ...]  # Logical CPUs that this process may use.
    cores: int  # Physical cores behind them.
    total_bytes: int
    free_bytes: int  # With what the cache of files would give up.


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One device that llama.cpp could offload to."""

    backend: str  # llama.cpp's name of the backend that drives it: CUDA, Metal, ROCm, Vulkan, SYCL.
    index: int  # As llama.cpp numbers the devices of one backend: CUDA0, CUDA1.
    name: str
    total_bytes: int  # 0 where nobody tells.
    free_bytes: int
    integrated: bool  # It shares the host's memory, so its bytes are not extra bytes.
    driver: str  # "" where unknown.
    compute_capability: str  # NVIDIA's, as "8.9"; "" elsewhere.
    sources: tuple[str, ...] = ()  # Who tells of it: NVML, sysfs, ROCm-SMI, sysctl, llama.cpp.
    listed_as: str = ""  # llama.cpp's own word for it; "" where that was not asked.
    own_backend: str = ""  # The one of its vendor, where llama.cpp drives it by another.

    @property
    def device(self) -> str:
        """What llama.cpp calls it, for `--device`: CUDA0, MTL0, Vulkan1."""
        return self.listed_as or f"{self.backend}{self.index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """What a path lies on."""

    filesystem: str  # As the mount table names it: ext4, nfs4, 9p; "" where unknown.
    device: str  # The mount's source: /dev/sda1, server:/export; "" where unknown.
    rotational: bool | None  # A spinning disk; None where it cannot be told.
    network: bool

    @property
    def slow(self) -> bool:
        """Random reads are expensive, so page faults into a memory-mapped model hurt."""
        return self.network or bool(self.rotational)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """One machine, as this process sees it."""

    operating_system: str  # Linux, Darwin, Windows.
    wsl: bool
    cpu: Cpu
    memory: Memory
    gpus: tuple[Gpu, ...]  # Those to plan with.
    notes: tuple[str, ...]  # What could not be read, and what was assumed instead.
    # The others: llama.cpp does not list them, or only it could tell whether they are of use.
    idle_gpus: tuple[Gpu, ...] = ()
    nodes: tuple[Node, ...] = ()  # Where there are several.
    asked: str = ""  # The program of llama.cpp that was asked for its devices; "" where none was.
