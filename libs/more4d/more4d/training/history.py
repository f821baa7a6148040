"""What a training logged: a row every so many steps, the means over them. Holds nothing that depends on the machine."""

from typing import Any


class History:
    """Rows of means over windows of `every` steps; resumed in the middle of a window it goes on in it."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._window: dict[str, list[float]] = {}
        self.rows: list[dict[str, float]] = []

    def add(self, done: int, logs: dict[str, float], *, last: bool) -> bool:
        """A step's logs; tells whether they filled a window, whose row was then added."""
        for key, value in logs.items():
            self._window.setdefault(key, []).append(value)
        if done % self._every and not last:
            return False
        self.rows.append({"step": done} | {key: sum(all_) / len(all_) for key, all_ in self._window.items()})
        self._window = {}
        return True

    def validated(self, done: int, found: dict[str, float]) -> None:
        """Put a validation's measures into the row of `done` steps, or into one of their own."""
        if not self.rows or self.rows[-1]["step"] != done:
            self.rows.append({"step": done})
        self.rows[-1] |= {f"validation_{key}": value for key, value in found.items()}

    def state(self) -> dict[str, Any]:
        """Rows and the window begun, for `restore`."""
        return {"rows": self.rows, "window": self._window}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.rows, self._window = state["rows"], state["window"]
