"""How fast a training goes: samples and tokens a second, share of the device's peak, waiting for data, memory."""

import resource
import sys
from dataclasses import dataclass, field

import torch

from more4d.training.watch.peak import peak_flops


@dataclass
class Meter:
    """Adds up steps of global batches of `batch_size` samples on `ranks` devices; each sample is `tokens` and `flops`.

    Seconds come from the caller: of `step` a whole step from end to end, of `waited` the part in which no batch was ready.
    `tokens` and `flops` of 0 are not known and not reported; `peak` in operations a second is looked up where not given.
    """

    tokens: int
    flops: int
    batch_size: int
    device: torch.device
    ranks: int = 1
    dtype: torch.dtype = torch.float32
    peak: float | None = None
    _steps: int = field(default=0, init=False)
    _seconds: float = field(default=0.0, init=False)
    _waited: float = field(default=0.0, init=False)

    def waited(self, seconds: float) -> None:
        """No batch was ready for so long."""
        self._waited += seconds

    def step(self, seconds: float) -> None:
        """A step took so long, waiting included."""
        self._steps += 1
        self._seconds += seconds

    def read(self) -> dict[str, float]:
        """What was metered since the last reading; empty where no step was finished.

        samples_per_second and tokens_per_second of all ranks together, seconds_per_step, data_wait_share in 0..1, mfu as a
        share of all devices' peak, memory_bytes of this rank: the most allocated on its GPU since the last reading, on a
        CPU the most that the process ever held.
        """
        if not self._steps:
            return {}
        seconds = max(self._seconds, 1e-9)
        samples = self._steps * self.batch_size / seconds
        found = {
            "samples_per_second": samples,
            "seconds_per_step": self._seconds / self._steps,
            "data_wait_share": min(1.0, self._waited / seconds),
            "memory_bytes": float(peak_memory(self.device)),
        }
        if self.tokens:
            found["tokens_per_second"] = samples * self.tokens
        if self.flops:
            found["mfu"] = samples * self.flops / (self._peak() * self.ranks)
        self._steps, self._seconds, self._waited = 0, 0.0, 0.0
        return found

    def _peak(self) -> float:
        if self.peak is None:
            self.peak = peak_flops(self.device, self.dtype)
        return self.peak


def peak_memory(device: torch.device) -> int:
    """Bytes: the most allocated on a GPU since this was last asked, on a CPU the most that the process ever held."""
    if device.type == "cuda":
        most = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return most
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
