"""Claims about more4d.curation.llm.settings."""

import pytest
from more4d.curation.llm.settings import Prices, ServerSettings
from pydantic import ValidationError


@pytest.mark.parametrize("url", ["http://user:pass@host/v1", "https://host/v1?key=1", "file:///etc/passwd", "host:80"])
def test_an_address_that_is_none_or_holds_credentials_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="base_url"):
        ServerSettings(base_url=url, model="m")


def test_prices_are_for_a_million_tokens() -> None:
    assert Prices(prompt=0.5, completion=2).cost(1_000_000, 500_000) == pytest.approx(1.5)
