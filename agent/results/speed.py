"""How fast a trial is beside the reference, and how that is known."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Speed:
    """How many times as fast as the reference a trial is."""

    times: float | None
    """None where a trial that was measured once cannot be compared: on an unsteady machine, and when the reference was
    never again where it had been.
    """
    tie: bool = False
    """Nothing was shown: the difference is within the noise floor, or the blocks' interval holds 1."""
    interval: tuple[float, float] | None = None
    """The 95 % interval in confirming blocks, whose ratio `times` is then; None when the trial was measured once."""
    blocks: int = 0
    unconfirmed: bool = False
    """Whether it rests on one measurement of the trial alone."""

    def __str__(self) -> str:
        words = [] if self.times is None else [f"{self.times:.2f}x"]
        if self.interval is not None:
            words[0] += f" ({self.interval[0]:.2f} to {self.interval[1]:.2f} in {self.blocks} blocks)"
        words += [word for word, so in (("a tie", self.tie), ("unconfirmed", self.unconfirmed)) if so]
        return ", ".join(words)
