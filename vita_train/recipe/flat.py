"""When a training loss counts as flat, and what is done about it."""

from __future__ import annotations

from vita_train.recipe.base import OptionalCount, Share, Strict


class FlatSpec(Strict):
    """A loss that does not get better any more."""

    steps: OptionalCount = 1000
    """The mean loss over so many steps is held against the best such mean before; 0 looks at
    nothing. Curriculum phases are not looked at: each has a loss of its own."""
    tolerance: Share = 0.002
    """Share of the best mean that the next has to be below it."""
    stop: bool = False
    """End the stage there, without its decay, instead of a warning alone. What was reached still
    has to pass the gates."""
