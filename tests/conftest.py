"""What holds for every test."""

import signal

from hypothesis import settings

# Other processes want the cores too: how long an example takes says nothing.
settings.register_profile("realm", deadline=None)
settings.load_profile("realm")


def pytest_configure() -> None:
    """Ctrl-C works in tests wherever they run: a shell starts what goes on in the background with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
