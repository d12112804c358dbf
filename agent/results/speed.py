"""How fast a trial is beside the reference, and how that is known."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Speed:
    """How many times as fast as the reference a trial is."""

    times: float
    tie: bool = False
    """Nothing was shown: the difference is within the noise floor, or the blocks' interval holds 1."""
    interval: tuple[float, float] | None = None
    """The 95 % interval in confirming blocks, whose ratio `times` is then; None when the trial was measured once."""
    blocks: int = 0
    comparable: bool = True
    """Whether a trial that was measured once can be compared with the reference: not on an unsteady machine, and not
    when the reference was never again where it had been.
    """
    reference: bool = False
    """Whether this is the reference itself."""

    @property
    def unconfirmed(self) -> bool:
        """Whether it rests on one measurement of the trial alone."""
        return self.interval is None and not self.reference

    def __str__(self) -> str:
        if self.unconfirmed and not self.comparable:
            return "unconfirmed"
        words = f"{self.times:.2f}x"
        if self.interval is not None:
            words += f" ({self.interval[0]:.2f} to {self.interval[1]:.2f} in {self.blocks} blocks)"
        if self.tie:
            words += ", a tie"
        return f"{words}, unconfirmed" if self.unconfirmed else words
