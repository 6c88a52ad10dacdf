"""placeholder"""


def resident() -> None: ...
