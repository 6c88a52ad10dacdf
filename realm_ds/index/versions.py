"""Which index version belongs to which step: the whole rule, as arithmetic. Building and serving are elsewhere.

Version v is launched at step v * every_steps and asked for from step v * every_steps + adopt_after_steps on; version 0
is asked for from the start. Since adopt_after_steps <= every_steps, two versions are enough at any time.
"""


def version_at(step: int, *, every_steps: int, adopt_after_steps: int) -> int:
    """The version that every trainer asks for at `step`."""
    return max(0, (step - adopt_after_steps) // every_steps)


def launch_at(step: int, *, every_steps: int) -> int | None:
    """The version whose snapshot is taken just before `step`, if one is."""
    return step // every_steps if step % every_steps == 0 else None


def oldest_kept(launched: int) -> int:
    """The oldest version that can still be asked for once `launched` is being built.

    Trainers are in lockstep: whoever launches v at step v * every_steps has seen all of them finish the step before,
    answers included, and from that step on nobody asks for less than v - 1.
    """
    return max(0, launched - 1)


def age_in_steps(step: int, *, every_steps: int, adopt_after_steps: int) -> int:
    """How many steps old the weights are that the index of `step` was built with."""
    return step - every_steps * version_at(step, every_steps=every_steps, adopt_after_steps=adopt_after_steps)
