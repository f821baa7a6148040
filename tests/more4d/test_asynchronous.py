import asyncio

import pytest
from more4d.asynchronous import completed


async def answer(value: int) -> int:
    await asyncio.sleep(0)
    if value < 0:
        raise ArithmeticError
    return value


def test_a_coroutine_is_completed_where_no_loop_runs() -> None:
    assert completed(answer(3)) == 3


def test_a_coroutine_is_completed_where_a_loop_runs() -> None:
    async def notebook() -> int:
        return completed(answer(3))

    assert completed(notebook()) == 3


def test_what_it_raises_is_raised() -> None:
    async def notebook() -> int:
        return completed(answer(-1))

    for coroutine in (answer(-1), notebook()):
        with pytest.raises(ArithmeticError):
            completed(coroutine)
