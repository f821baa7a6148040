"""How many bytes the Triton kernels have to move: what their speed is measured against.

Every byte counts once however often it is read or written, because a row that all frames share, or a program's own
partial sum, rests in the GPU's cache. Tensors may be on the meta device; none is copied, so their rows' values have to
follow each other.
"""

from math import prod

from torch import Tensor

from more4d_kernels.madanorm.gpu import in_kernel, partial_sums
from more4d_kernels.madanorm.problem import Problem, empty_gradients, empty_outputs


def forward_bytes(problem: Problem) -> int:
    """Bytes of all inputs, read once, and of y, the sum of an update, mean and rstd, written once.

    With L tokens, S positions and widths of b bytes that is near b · D · (2 L + 2 S): x, y, motion_scale, motion_shift.
    """
    inputs = (value for value in vars(problem).values() if isinstance(value, Tensor))
    return sum(map(_distinct, inputs)) + sum(map(_distinct, vars(empty_outputs(problem)).values()))


def backward_bytes(problem: Problem, programs: int) -> int:
    """Bytes of `backward_kernel` and of the sum of its partial sums; `programs` share a sample.

    Near b · D · (3 L + 4 S) + 24 · B · programs · D: x, dy and dx, motion's two rows and their gradients, and three
    fp32 sums, each written once and read once.
    """
    return backward_kernel_bytes(problem, programs) + final_sum_bytes(problem, programs) + _gate_bytes(problem)


def backward_kernel_bytes(problem: Problem, programs: int) -> int:
    """What the kernel reads (dy, dtotal where there is an update, inputs, mean, rstd) and writes, each byte once."""
    problem = in_kernel(problem)
    dy = problem.x.new_empty(problem.x.shape, device="meta")
    normed = empty_outputs(problem)
    read = [problem.x, dy, normed.mean, normed.rstd, problem.time_scale, problem.motion_scale, problem.motion_shift]
    read += [problem.gate, problem.update_gate]
    if problem.motion_scale is not None:
        # Only motion_scale's gradient has it.
        read.append(problem.time_shift)
    if problem.update is not None:
        read.append(dy)
    if problem.update_gate is not None:
        read.append(problem.update)
    partial = partial_sums(problem, programs)
    written = [value for name, value in vars(empty_gradients(problem)).items() if name not in partial]
    return sum(_distinct(tensor) for tensor in (*read, *written, *partial.values()) if tensor is not None)


def final_sum_bytes(problem: Problem, programs: int) -> int:
    """The partial sums, read once, and the gradients that they add up to, written once."""
    partial = partial_sums(problem, programs)
    gradients = vars(empty_gradients(problem))
    return sum(_distinct(part) + _distinct(gradients[name]) for name, part in partial.items())


def _gate_bytes(problem: Problem) -> int:
    """PyTorch's part: dx twice, a gate for each token and its update, and the gradients of the two."""
    if not problem.gate_per_token or problem.update is None or problem.update_gate is None:
        return 0
    return 2 * (_distinct(problem.x) + _distinct(problem.update) + _distinct(problem.update_gate))


def _distinct(tensor: Tensor) -> int:
    """Bytes of the tensor, rows that are repeated by a stride of 0 once."""
    sizes = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride != 0 or size == 0)
    return prod(sizes) * tensor.element_size()
