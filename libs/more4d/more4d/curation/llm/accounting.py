"""What answers took, and how tables and metrics say it."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from more4d.curation.llm.replies import Reply
from more4d.curation.llm.settings import Prices


@dataclass(frozen=True)
class Spent:
    """What an answer took when it was asked for, in all its attempts; `cost` in the currency of the prices.

    An answer out of the cache says the same again, so that a rerun writes the same tables.
    """

    attempts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(
            self.attempts + other.attempts,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost + other.cost,
        )

    @classmethod
    def on(cls, reply: Reply, prices: Prices) -> "Spent":
        """What one attempt took."""
        cost = prices.cost(reply.prompt_tokens, reply.completion_tokens)
        return cls(1, reply.prompt_tokens, reply.completion_tokens, cost)


def answer_columns(spent: Spent, *, undecided: bool) -> dict[str, Any]:
    """A table row's columns undecided, attempts, prompt_tokens, completion_tokens and cost."""
    return {"undecided": undecided, **asdict(spent)}


def answer_metrics(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The sums of `answer_columns` over a table's rows."""
    kept = list(rows)
    counts = {name: sum(row[name] for row in kept) for name in ("undecided", "prompt_tokens", "completion_tokens")}
    return {**counts, "cost": round(sum(row["cost"] for row in kept), 6)}
