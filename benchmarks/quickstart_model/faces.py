"""Faces as lists of attributes: what a caption can say of a comic face, and the colours it is drawn in."""

from __future__ import annotations

import random
from dataclasses import dataclass

Colour = tuple[int, int, int]

SIZE_PX = 128

OUTLINE: Colour = (34, 29, 44)
HAIR_COLOURS: dict[str, Colour] = {
    "black": (48, 46, 60),
    "brown": (104, 62, 36),
    "blonde": (244, 204, 92),
    "red": (208, 68, 34),
    "grey": (166, 171, 182),
    "pink": (244, 118, 178),
    "blue": (58, 116, 214),
    "green": (66, 158, 84),
    "purple": (134, 78, 188),
}
BACKGROUND_COLOURS: dict[str, Colour] = {
    "white": (245, 244, 240),
    "yellow": (255, 219, 84),
    "orange": (252, 156, 66),
    "pink": (255, 172, 206),
    "purple": (184, 150, 240),
    "blue": (122, 188, 250),
    "green": (142, 214, 130),
    "red": (234, 88, 82),
}
SKIN_COLOURS: dict[str, Colour] = {"fair": (255, 220, 190), "tan": (226, 168, 120), "dark": (146, 94, 66)}
HAT_COLOURS: dict[str, Colour] = {
    "red": (214, 46, 56),
    "blue": (44, 92, 190),
    "green": (44, 140, 80),
    "yellow": (250, 200, 50),
    "purple": (126, 66, 170),
}
EYE_COLOURS: tuple[Colour, ...] = ((92, 58, 34), (58, 120, 190), (70, 140, 84), (70, 70, 84))
CLOTHES_COLOURS: tuple[Colour, ...] = (
    (228, 72, 74),
    (60, 112, 196),
    (64, 156, 110),
    (246, 190, 62),
    (138, 92, 190),
    (246, 246, 244),
    (70, 74, 92),
    (240, 136, 170),
)
STYLES: dict[str, tuple[str, ...]] = {
    "woman": ("long", "long", "short", "curly", "bob", "bun", "pigtails"),
    "man": ("short", "short", "spiky", "curly", "long"),
}
STYLES_UNDER_A_HAT = ("long", "short", "curly", "bob", "pigtails")  # a hat would hide a bun, or spikes
GLASSES = ("round glasses", "square glasses", "sunglasses")
HATS = ("cap", "beanie", "top hat", "party hat", "crown")
EXPRESSIONS = ("smiling", "laughing", "sad", "surprised", "angry", "winking", "neutral")


@dataclass(frozen=True)
class Face:
    """What a caption can say about a face; `""` stands for none. `seed` decides everything else."""

    person: str  # woman, man
    hair_colour: str
    hair_style: str
    skin: str
    glasses: str
    hat: str
    hat_colour: str  # "" where the hat has a colour of its own (top hat, crown)
    beard: bool
    expression: str
    background: str
    seed: int


def random_face(seed: int) -> Face:
    """The face with this seed: the same on every machine."""
    rng = random.Random(seed)
    person = rng.choice(("woman", "man"))
    hat = rng.choice(HATS) if rng.random() < 0.3 else ""
    styles = [style for style in STYLES[person] if not hat or style in STYLES_UNDER_A_HAT]
    glasses = rng.choice(GLASSES) if rng.random() < 0.45 else ""
    expressions = [e for e in EXPRESSIONS if not (e == "winking" and glasses == "sunglasses")]
    return Face(
        person=person,
        hair_colour=rng.choice(list(HAIR_COLOURS)),
        hair_style=rng.choice(styles),
        skin=rng.choice(list(SKIN_COLOURS)),
        glasses=glasses,
        hat=hat,
        hat_colour=rng.choice(list(HAT_COLOURS)) if hat in ("cap", "beanie", "party hat") else "",
        beard=person == "man" and rng.random() < 0.3,
        expression=rng.choice(expressions),
        background=rng.choice(list(BACKGROUND_COLOURS)),
        seed=seed,
    )
