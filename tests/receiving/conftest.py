"""What the tests of receiving may ask for."""

from postgres import postgres_server

__all__ = ["postgres_server"]
