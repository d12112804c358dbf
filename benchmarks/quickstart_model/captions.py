"""Short sentences about faces, as a person would write a prompt."""

from __future__ import annotations

import random

from .faces import Face

OPENINGS = (
    "a comic face of {person}",
    "a comic portrait of {person}",
    "a cartoon of {person}",
    "a drawing of {person}",
    "comic style, {person}",
    "a picture of {person}",
    "{person}",
)
PEOPLE = {"woman": ("a woman", "a woman", "a lady", "a girl"), "man": ("a man", "a man", "a guy", "a boy")}
EXPRESSIONS = {
    "smiling": ("smiling", "with a smile", "happy"),
    "laughing": ("laughing", "laughing out loud"),
    "sad": ("sad", "looking sad", "unhappy"),
    "surprised": ("surprised", "looking surprised", "astonished"),
    "angry": ("angry", "looking angry"),
    "winking": ("winking", "winking at us"),
    "neutral": ("serious", "with a neutral face", "calm"),
}
BACKGROUNDS = ("{colour} background", "on a {colour} background", "in front of a {colour} wall", "{colour} backdrop")


def caption(face: Face, rng: random.Random, left_out: float = 0.15) -> str:
    """One sentence about a face.

    Glasses, hats and beards are always said: a sentence that is silent about them means that there are none.
    Of the rest, each attribute is left out with probability `left_out`.
    """

    def said() -> bool:
        return rng.random() >= left_out

    person = rng.choice(PEOPLE[face.person]) if said() else "a person"
    hair = _hair(face.hair_colour if said() else "", face.hair_style if said() else "", rng)
    has = [hair] if hair else []
    if said() and rng.random() < 0.5:
        has.append(f"{face.skin} skin")
    if face.beard:
        has.append("a beard")
    wears: list[str] = []
    if face.glasses:
        (wears if rng.random() < 0.5 else has).append(face.glasses)
    elif rng.random() < 0.3:
        has.append("no glasses")
    if face.hat:
        hat = f"{face.hat_colour} {face.hat}" if face.hat_colour and said() else face.hat
        wears.append(f"a {hat}")
    rng.shuffle(has)
    rng.shuffle(wears)

    tail = []
    if said():
        tail.append(rng.choice(EXPRESSIONS[face.expression]))
    if said():
        tail.append(rng.choice(BACKGROUNDS).format(colour=face.background))
    rng.shuffle(tail)

    sentence = rng.choice(OPENINGS).format(person=person)
    if has:
        sentence += " with " + _listed(has)
    if wears:
        sentence += (", " if has else " ") + "wearing " + _listed(wears)
    return ", ".join([sentence, *tail])


def _hair(colour: str, style: str, rng: random.Random) -> str:
    if style == "bun":
        return f"{colour} hair in a bun".strip() if rng.random() < 0.5 else f"a {colour} bun".replace("  ", " ")
    if style == "pigtails":
        return f"{colour} pigtails".strip()
    if style == "bob":
        return f"a {colour} bob".replace("  ", " ")
    if not colour and not style:
        return ""
    return " ".join(word for word in (style, colour, "hair") if word)


def _listed(things: list[str]) -> str:
    return things[0] if len(things) == 1 else ", ".join(things[:-1]) + " and " + things[-1]
