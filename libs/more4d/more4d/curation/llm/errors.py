"""What can go wrong with a question, from the question's own fault to the whole server's."""


class CannotAskError(ValueError):
    """The question itself cannot be made, an unreadable clip say; it is left undecided for the reason in the message."""


class NotACompletionError(ValueError):
    """The server's answer is no chat completion; the message says what is wrong with it."""


class UnansweredError(RuntimeError):
    """This question got no answer, for the reason in the message; it is left undecided and not remembered."""


class ServerRefusedError(ValueError):
    """The server would refuse every question: a wrong key, model or address. The message says what to change."""


class ServerDownError(RuntimeError):
    """Too many questions in a row went unanswered. The answers so far are kept: run again when the server is back."""


class BudgetSpentError(RuntimeError):
    """The run has spent what it may. The answers so far are kept: run again with a higher max_cost."""
