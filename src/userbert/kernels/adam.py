"""What a step of Adam is in C (`adam.h`): the same for rows and for heads."""

import ctypes
from dataclasses import dataclass


class AdamStep(ctypes.Structure):
    """`AdamStep` in adam.h."""

    _fields_ = tuple(
        (name, ctypes.c_float)
        for name in ("rate", "root", "mean_less", "square_less", "square_keep", "tiny")
    )


@dataclass(frozen=True)
class AdamSettings:
    """Of Adam."""

    learning_rate: float
    mean_decay: float
    square_decay: float
    epsilon: float

    def step(self, number: int) -> AdamStep:
        """The factors of a step, counted from 1."""
        return AdamStep(
            rate=self.learning_rate / (1 - self.mean_decay**number),
            root=(1 - self.square_decay**number) ** -0.5,
            mean_less=1 - self.mean_decay,
            square_less=1 - self.square_decay,
            square_keep=self.square_decay,
            tiny=self.epsilon,
        )
