"""What a training is about, for the one loop that runs all of them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from more4d.training.draws import Draws


class Objective(ABC):
    """What one training is about: which parameters, which batch, which loss, which validation."""

    module: nn.Module
    """Everything that is trained and saved. What wraps it (DDP, FSDP) is the loop's business; `loss` calls its parts."""
    size: int
    """Number of samples."""
    frozen: Sequence[nn.Module] = ()
    """Networks that the loss or the validation runs and nothing trains: the loop moves them to the device."""

    @property
    def ids(self) -> Sequence[str]:
        """A name a sample, for the digest of what was seen; by default its number."""
        return range_ids(self.size)

    @property
    def buckets(self) -> Sequence[int]:
        """A number a sample, equal where samples can be stacked into one batch; by default all are."""
        return [0] * self.size

    @property
    def learning_rates(self) -> Mapping[str, float]:
        """Factors of the learning rate, by how parameters' names begin; by default all learn at the same rate."""
        return {}

    @property
    def tokens(self) -> int:
        """Tokens that the network sees a sample, for tokens/s; 0 where there is nothing to count."""
        return 0

    @property
    def flops(self) -> int:
        """Operations of a sample's forward and backward together, for MFU; 0 where they are not known."""
        return 0

    @abstractmethod
    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The samples at `indices` [B], stacked."""

    @abstractmethod
    def loss(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """Scalars to log, each a mean over the batch's samples; the one called "loss" is minimised."""

    def validate(self, step: int) -> dict[str, float]:
        """Measures of the module as it is now (the loop puts the averaged weights in place), after `step` steps."""
        del step
        return {}

    def shown(self, step: int) -> Mapping[str, Path]:
        """The videos that the validation after `step` steps made, by name."""
        del step
        return {}


def range_ids(size: int) -> Sequence[str]:
    """ "0", "1", ... for samples without names."""
    return [str(number) for number in range(size)]
