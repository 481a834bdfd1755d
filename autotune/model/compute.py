"""stub"""

from dataclasses import dataclass
from autotune.model.reader import Model
from autotune.params import Params


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    n_ctx_seq: int
    n_seqs: int
    n_streams: int
    n_ubatch: int
    n_outputs: int
    flash_attn: bool
    type_k: str
    type_v: str

    def cells(self, window: int) -> int:
        if not window:
            return self.n_ctx_seq
        seqs = self.n_seqs if self.n_streams == 1 else 1
        padded = -(-min(self.n_ctx_seq, window * seqs + self.n_ubatch) // 256) * 256
        return padded


Devices = tuple[int | None, ...]
def compute_bytes(model, params, batch, devices):
    return __import__("collections").defaultdict(int)
