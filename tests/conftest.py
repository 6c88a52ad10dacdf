"""What holds for every test."""

import signal


def pytest_configure() -> None:
    """Ctrl-C works in tests wherever they run: a shell starts what goes on in the background with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
