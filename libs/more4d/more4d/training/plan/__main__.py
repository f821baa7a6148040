"""`python -m more4d.training.plan wan-14b`: which GPUs can train a preset, and how."""

import argparse
import sys

from more4d.models.architectures import ARCHITECTURES
from more4d.training.plan.choose import PREFERRED
from more4d.training.plan.memory import STRATEGIES
from more4d.training.plan.report import Question, report


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 2 where the question has no answer."""
    options = _parser().parse_args(arguments)
    question = Question(
        gpus=options.gpus,
        memory_gb=options.memory_gb,
        strategies=options.strategy,
        batch_size=options.batch_size,
        precision=options.precision,
        average=options.average,
    )
    try:
        for line in report(ARCHITECTURES[options.preset], question):
            sys.stdout.write(line + "\n")
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m more4d.training.plan", description="which GPUs can train a preset")
    parser.add_argument("preset", choices=list(ARCHITECTURES))
    parser.add_argument("--gpus", type=_positive, nargs="+", default=[4, 8, 32], help="numbers of GPUs")
    parser.add_argument("--memory-gb", type=_positive, nargs="+", default=[80, 141], help="of each, in GB")
    parser.add_argument(
        "--strategy",
        nargs="+",
        choices=STRATEGIES,
        default=list(PREFERRED),
        help="in the order in which they are tried",
    )
    parser.add_argument("--batch-size", type=int, default=0, help="of a step, over all GPUs; 0: one sample on each")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--average", action="store_true", help="keep a moving average of the weights")
    return parser


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} must be 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
