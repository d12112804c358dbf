"""Comic faces drawn by a program from known attributes: the data that the quickstart model was trained on.

A `Face` names what a caption can say (hair, glasses, hat, background, ...). Everything it does not say (place, size,
eye colour, clothes, pattern of the background) varies with its seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from PIL import Image, ImageDraw

from .faces import (
    BACKGROUND_COLOURS,
    CLOTHES_COLOURS,
    EYE_COLOURS,
    HAIR_COLOURS,
    HAT_COLOURS,
    OUTLINE,
    SIZE_PX,
    SKIN_COLOURS,
    Colour,
    Face,
)

Point = tuple[float, float]

SUPERSAMPLING = 3  # drawn three times as large and averaged down: smooth edges from Pillow's hard ones


def draw(face: Face) -> Image.Image:
    """The picture of a face: RGB, 128 x 128 pixels."""
    return _Drawing(face).finish()


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    """`share` of `b`, the rest `a`."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def _darker(colour: Colour, share: float = 0.25) -> Colour:
    return _mix(colour, (40, 20, 60), share)


def _lighter(colour: Colour, share: float = 0.3) -> Colour:
    return _mix(colour, (255, 255, 255), share)


def _arc(centre: Point, rx: float, ry: float, start: float, end: float, points: int = 24) -> list[Point]:
    """Points of an ellipse's arc; angles in degrees, 0 to the right, 90 downwards."""
    angles = [math.radians(start + (end - start) * i / (points - 1)) for i in range(points)]
    return [(centre[0] + rx * math.cos(a), centre[1] + ry * math.sin(a)) for a in angles]


def _spline(corners: Sequence[Point], steps: int = 6) -> list[Point]:
    """An open Catmull-Rom curve through the corners."""
    padded = [corners[0], *corners, corners[-1]]
    curve: list[Point] = []
    for p0, p1, p2, p3 in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for i in range(steps):
            t = i / steps
            weights = (
                -0.5 * t + t * t - 0.5 * t**3,
                1 - 2.5 * t * t + 1.5 * t**3,
                0.5 * t + 2 * t * t - 1.5 * t**3,
                -0.5 * t * t + 0.5 * t**3,
            )
            near = (p0, p1, p2, p3)
            curve.append(
                (
                    sum(w * p[0] for w, p in zip(weights, near, strict=True)),
                    sum(w * p[1] for w, p in zip(weights, near, strict=True)),
                )
            )
    return [*curve, corners[-1]]


def _mirrored(points: Sequence[Point]) -> list[Point]:
    return [(-x, y) for x, y in points]


class _Drawing:
    """One face in the making. Coordinates are pixels of the finished picture, from the centre of the face."""

    def __init__(self, face: Face) -> None:
        self.face = face
        rng = self.rng = random.Random(face.seed + 1_000_000_007)  # not the stream that chose the attributes
        self.centre = (64 + rng.uniform(-2.5, 2.5), 69 + rng.uniform(-2, 2))
        self.scale = rng.uniform(0.96, 1.05)
        self.width = rng.uniform(26, 28) + (1 if face.person == "man" else 0)  # half the face's width
        self.skin = self._vary(SKIN_COLOURS[face.skin])
        self.hair = self._vary(HAIR_COLOURS[face.hair_colour])
        self.background = self._vary(BACKGROUND_COLOURS[face.background])
        self.clothes = rng.choice(CLOTHES_COLOURS)
        self.eyes = rng.choice(EYE_COLOURS)
        side = SIZE_PX * SUPERSAMPLING
        self.image = Image.new("RGB", (side, side), self.background)
        self.pen = ImageDraw.Draw(self.image)

    def finish(self) -> Image.Image:
        """Draws from the back to the front."""
        self._draw_background()
        self._draw_hair_behind()
        self._draw_body()
        self._draw_head()
        if self.face.beard:
            self._draw_beard()
        self._draw_mouth()
        self._draw_eyes()
        self._draw_hair_in_front()
        if self.face.glasses:
            self._draw_glasses()
        if self.face.hat:
            self._draw_hat()
        return self.image.reduce(SUPERSAMPLING)

    # --- pens

    def _vary(self, colour: Colour) -> Colour:
        red, green, blue = (max(0, min(255, c + self.rng.randint(-5, 5))) for c in colour)
        return red, green, blue

    def _place(self, points: Sequence[Point]) -> list[Point]:
        zoom = self.scale * SUPERSAMPLING
        x, y = self.centre[0] * SUPERSAMPLING, self.centre[1] * SUPERSAMPLING
        return [(x + p[0] * zoom, y + p[1] * zoom) for p in points]

    def _line(self, points: Sequence[Point], width: float = 1.8, colour: Colour = OUTLINE) -> None:
        placed = self._place(points)
        thick = max(1, round(width * self.scale * SUPERSAMPLING))
        self.pen.line(placed, fill=colour, width=thick, joint="curve" if len(placed) < 14 else None)
        for x, y in (placed[0], placed[-1]):  # round ends
            r = thick / 2 - 0.5
            self.pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def _shape(self, points: Sequence[Point], fill: Colour, width: float = 1.8) -> None:
        """A filled shape; `width` 0 leaves its outline away."""
        self.pen.polygon(self._place(points), fill=fill)
        if width:
            self._line([*points, points[0], points[1]], width)

    def _disc(self, centre: Point, rx: float, ry: float, fill: Colour, width: float = 1.8) -> None:
        (x0, y0), (x1, y1) = self._place(
            (
                (centre[0] - rx - width / 2, centre[1] - ry - width / 2),
                (centre[0] + rx + width / 2, centre[1] + ry + width / 2),
            )
        )
        if width:
            self.pen.ellipse((x0, y0, x1, y1), fill=OUTLINE)
        inset = width * self.scale * SUPERSAMPLING
        self.pen.ellipse((x0 + inset, y0 + inset, x1 - inset, y1 - inset), fill=fill)

    # --- layers

    def _draw_background(self) -> None:
        light = _lighter(self.background, 0.28) if self.face.background != "white" else (226, 226, 230)
        pattern = self.rng.choice(("plain", "rays", "disc"))
        if pattern == "rays":
            turn = self.rng.uniform(0, 30)
            for start in range(0, 360, 30):
                self._shape([(0, 0), *_arc((0, 0), 120, 120, start + turn, start + turn + 15, 3)], light, width=0)
        elif pattern == "disc":
            self._disc((0, -6), 52, 52, light, width=0)

    def _draw_body(self) -> None:
        wide = 46 if self.face.person == "man" else 40
        self._shape(_arc((0, 72), wide, 33, 180, 360, 40), self.clothes)
        if self.rng.random() < 0.35:  # a striped shirt
            for y in (50, 57):
                self._line(_arc((0, y + 22), wide - 6, 22, 215, 325), 2.6, _darker(self.clothes, 0.3))
        neck = 10 if self.face.person == "man" else 8
        self._disc((0, 40), neck + 5, 7, _darker(self.clothes, 0.35))
        self._shape([(-neck, 22), (neck, 22), (neck, 38), *_arc((0, 38), neck, 6, 0, 180, 10), (-neck, 38)], self.skin)
        self._shape([(-neck + 1, 24), (neck - 1, 24), (neck - 1, 31), (0, 35), (-neck + 1, 31)], _darker(self.skin), 0)

    def _draw_head(self) -> None:
        for side in (-1, 1):
            self._disc((side * (self.width + 1), 6), 5, 7, self.skin)
            self._line([(side * (self.width + 2), 3), (side * (self.width + 3), 8)], 1.2, _darker(self.skin, 0.4))
        outline = _arc((0, 0), self.width, 33, 180, 360, 30)
        for x, y in _arc((0, 0), self.width, 33, 0, 180, 40):
            down = y / 33
            # A man's jaw is square, a woman's chin narrow.
            slim = 1 + 0.07 * math.sin(down * math.pi) if self.face.person == "man" else 1 - 0.09 * down * down
            outline.append((x * slim, y))
        self._shape(outline, self.skin)
        self._line([(-1, 6), (-3 if self.rng.random() < 0.5 else 2.5, 10), (0.5, 11)], 1.5, _darker(self.skin, 0.5))
        if self.face.person == "woman" or self.rng.random() < 0.3:
            blush = _mix(self.skin, (240, 90, 90), 0.35)
            for side in (-1, 1):
                self._disc((side * 16, 12), 4.5, 3, blush, width=0)

    def _draw_beard(self) -> None:
        w = self.width
        outer = [(w * 0.99, 4), *[(x * 1.04, y + 2) for x, y in _arc((0, 0), w, 33, 15, 165, 30)], (-w * 0.99, 4)]
        inner = _spline([(-w + 5, 6), (-w + 8, 14), (-9, 13), (0, 14.5), (9, 13), (w - 8, 14), (w - 5, 6)])
        self._shape([*outer, *inner], self.hair, 1.5)

    def _draw_mouth(self) -> None:
        expression, y = self.face.expression, 20
        half = self.rng.uniform(7, 9)
        lip = (196, 54, 70) if self.face.person == "woman" else (126, 44, 48)
        if self.face.beard and expression != "laughing":
            self._disc((0, y), half + 3, 5.5, self.skin, width=0)
        if expression == "laughing":
            self._shape(_arc((0, y - 4), half + 1.5, 11, 0, 180), (132, 34, 48))
            self._shape(_arc((0, y + 4), 5.5, 3, 0, 360), (236, 110, 118), 0)
            self._shape(
                [(-half, y - 3), (half, y - 3), (half - 1.2, y - 0.3), (-half + 1.2, y - 0.3)], (255, 255, 255), 0
            )
        elif expression == "surprised":
            self._disc((0, y + 1), 4.2, 5.4, (132, 34, 48))
        elif expression in ("smiling", "winking"):
            self._line(_arc((0, y - 5), half, 8, 15, 165), 2.2, lip)
        elif expression == "sad":
            self._line(_arc((0, y + 6), half - 1, 7, 205, 335), 2.2, lip)
        elif expression == "angry":
            self._line([(-half + 1, y + 2.5), (-2.5, y - 1), (2.5, y - 1), (half - 1, y + 2.5)], 2.4, lip)
        else:
            self._line([(-half + 2, y), (half - 2, y)], 2.2, lip)

    def _draw_eyes(self) -> None:
        expression = self.face.expression
        wide = 7.2 if expression == "surprised" else 5.9 if expression == "angry" else 6.5
        look = self.rng.uniform(-1.2, 1.2)
        wink = self.rng.choice((-1, 1)) if expression == "winking" else 0
        for side in (-1, 1):
            x = side * 12
            if side == wink:
                self._line(_arc((x, 2), 6.5, 5, 195, 345), 2.2)
                continue
            self._disc((x, -1), 6, wide, (255, 255, 255), 1.5)
            self._disc((x + look, -0.5), 3.6, 4.2, self.eyes, 0)
            self._disc((x + look, -0.5), 2, 2.5, OUTLINE, 0)
            self._disc((x + look + 1.3, -2.2), 1.2, 1.2, (255, 255, 255), 0)
            self._line(_arc((x, -1), 6.4, wide + 0.3, 200, 340), 2.2)
            if self.face.person == "woman":
                for angle in (200, 225):
                    a = math.radians(angle if side < 0 else 540 - angle)
                    reach = [(x + r * math.cos(a), -1 + r * math.sin(a)) for r in (6, 10)]
                    self._line(reach, 1.4)
        raised = {"surprised": -5.0, "angry": 1.5}.get(expression, 0.0)
        tilt = {"angry": 2.8, "sad": -2.6}.get(expression, -0.4)  # how much lower the inner end is
        brow = _darker(self.hair, 0.3)
        for side in (-1, 1):
            y = -12.5 + raised
            ends = [(side * 6.5, y + tilt), (side * 12, y - 1.5), (side * 18, y - tilt * 0.6)]
            self._line(_spline(ends, 4), 3 if self.face.person == "man" else 2.1, brow)

    def _skull(self, wider: float = 7.0, down: float = 6.0) -> list[Point]:
        """The outside of the hair, from the left temple over the top to the right one."""
        w = self.width + wider
        return [(-w + 1.5, down), *_arc((0, -6), w, 35, 180, 360, 40), (w - 1.5, down)]

    def _hairline(self) -> list[Point]:
        """The inside of the hair, from the right temple to the left one."""
        w = self.width
        hairlines: dict[str, list[Point]] = {
            "straight": [(w - 7, -15), (8, -17), (0, -16), (-8, -17), (-w + 7, -15)],
            "swept": [(w - 6, -14), (11, -26), (2, -19), (-10, -15), (-w + 7, -13)],
            "parted": [(w - 6, -12), (9, -22), (0, -29), (-9, -22), (-w + 6, -12)],
        }
        inside = hairlines[self.rng.choice(("straight", "swept", "parted"))]
        if self.rng.random() < 0.5:
            inside = _mirrored(inside)[::-1]
        return _spline([(w - 1, 6), (w - 2.5, -4), *inside, (-w + 2.5, -4), (-w + 1, 6)])

    def _draw_hair_behind(self) -> None:
        w, style = self.width, self.face.hair_style
        shade = _darker(self.hair, 0.22)
        if style == "long":
            length = self.rng.uniform(44, 54)
            right = [(w + 6, -14), (w + 10, 10), (w + 9, 28), (w + 13, length), (w - 2, length + 4)]
            self._shape(_spline([*_mirrored(right)[::-1], *_arc((0, -6), w + 7, 35, 200, 340, 9), *right]), shade)
        elif style == "bob":
            right = [(w + 7, -12), (w + 11, 8), (w + 10, 22), (w + 2, 31), (w - 8, 30)]
            self._shape(_spline([*_mirrored(right)[::-1], *_arc((0, -6), w + 7, 35, 200, 340, 9), *right]), shade)
        elif style == "bun":
            size = self.rng.uniform(10, 12.5)
            self._disc((0, -46), size, size - 1, self.hair)
            self._line(_arc((0, -45), size - 4, size - 5, 190, 300), 1.4, shade)
        elif style == "pigtails":
            for side in (-1, 1):
                tail = [(w + 2, -12), (w + 16, -20), (w + 23, -4), (w + 20, 16), (w + 13, 28), (w + 9, 14), (w + 4, 0)]
                self._shape(_spline([(side * x, y) for x, y in [*tail, tail[0]]]), self.hair)
                self._line(_spline([(side * x, y) for x, y in ((w + 12, -11), (w + 16, 2), (w + 14, 16))]), 1.4, shade)
        elif style == "curly":
            self._curls([(x * 1.05, y) for x, y in _arc((0, -4), w + 6, 32, 140, 400, 15)], 9.5)

    def _curls(self, places: Sequence[Point], size: float) -> None:
        curls = [(place, size + self.rng.uniform(-1.2, 1.2)) for place in places]
        for place, r in curls:
            self._disc(place, r, r, self.hair)
        for place, r in curls:  # once more without outlines, so that only the outside keeps one
            self._disc(place, r - 0.9, r - 0.9, self.hair, 0)
        for place, r in curls[1:-1:2]:
            self._line(_arc(place, r - 4, r - 4, 180, 330, 10), 1.3, _darker(self.hair, 0.25))

    def _draw_hair_in_front(self) -> None:
        w, style = self.width, self.face.hair_style
        if style == "curly":
            self._curls(_arc((0, -3), w + 3, 26, 182, 358, 9), 8.5)
            return
        outside = self._skull()
        if style == "spiky":
            outside = [(-w - 5, 6)]
            spikes = 8
            for i in range(spikes + 1):
                angle = math.radians(180 + 180 * i / spikes)
                valley = (0.99 * (w + 6) * math.cos(angle), -8 + 30 * math.sin(angle))
                outside.append(valley)
                if i < spikes:
                    peak = math.radians(180 + 180 * (i + 0.5) / spikes + self.rng.uniform(-4, 4))
                    reach = self.rng.uniform(1.15, 1.3)
                    outside.append((reach * (w + 6) * math.cos(peak), -10 + reach * 36 * math.sin(peak)))
            outside.append((w + 5, 6))
        self._shape([*outside, *self._hairline()], self.hair)
        if style in ("long", "bob"):  # strands that fall in front of the ears
            end = 40 if style == "long" else 25
            strand = [(w + 5.5, -2), (w + 9, 14), (w + 7, end), (w + 1, end - 3), (w - 1, 14), (w - 2, 0)]
            for side in (-1, 1):
                points = _spline([(side * x, y) for x, y in strand])
                self._shape(points, self.hair, 0)
                self._line(points[2:-1])
        shine = _lighter(self.hair, 0.38)
        if not self.face.hat and style != "spiky":
            self._line(_arc((0, -8), w - 1, 27, 205, 250), 3.4, shine)
            self._line(_arc((0, -8), w - 1, 27, 262, 270), 3.4, shine)

    def _draw_glasses(self) -> None:
        frame = OUTLINE
        lens = (56, 58, 82)
        for side in (-1, 1):
            x = side * 12.5
            if self.face.glasses == "round glasses":
                self._line(_arc((x, -1), 10, 10, 0, 370, 40), 2.3, frame)
                edge = 10.0
            elif self.face.glasses == "square glasses":
                box = [(x - 10, -9), (x + 10, -9), (x + 10, 7.5), (x - 10, 7.5), (x - 10, -9), (x, -9)]
                self._line(box, 2.5, frame)
                edge = 10.0
            else:
                shade = [(x - 10.5, -8), (x + 10.5, -8), (x + 9, 5), (x + 4, 8), (x - 4, 8), (x - 9, 5)]
                self._shape(shade, lens, 2.2)
                self._line([(x - 5, 2), (x + 1, -5)], 2.2, (150, 160, 200))
                edge = 10.5
            self._line([(x + side * edge, -3), (side * (self.width + 1), -4)], 2.2, frame)
        self._line(_arc((0, -1), 3.2, 3, 190, 350, 10), 2.4, frame)

    def _draw_hat(self) -> None:
        w, hat = self.width, self.face.hat
        colour = self._vary(HAT_COLOURS[self.face.hat_colour]) if self.face.hat_colour else (52, 50, 66)
        if hat == "cap":
            self._shape([(-w - 8, -17), *_arc((0, -18), w + 8, 29, 180, 360, 40), (w + 8, -17)], colour)
            self._line(_arc((0, -18), 12, 28, 190, 350), 1.3, _darker(colour, 0.35))
            self._disc((0, -47), 3.2, 2.4, _darker(colour, 0.2))
            self._shape(
                _spline([(-w - 3, -18), (0, -26), (w + 3, -18), (0, -13.5), (-w - 3, -18)]), _darker(colour, 0.25)
            )
        elif hat == "beanie":
            self._shape([(-w - 7, -18), *_arc((0, -19), w + 7, 30, 180, 360, 40), (w + 7, -18)], colour)
            self._disc((0, -50), 7, 6.5, _lighter(colour, 0.75))
            band = [(-w - 9, -27), (w + 9, -27), (w + 9, -16), (-w - 9, -16)]
            self._shape([*band, band[0]], _lighter(colour, 0.35))
            for i in range(-4, 5):
                self._line([(i * 8, -24), (i * 8, -19)], 1.3, _darker(colour, 0.1))
        elif hat == "top hat":
            self._shape([(-w + 3, -23), (-w + 1, -58), *_arc((0, -58), w - 1, 4, 180, 360, 20), (w - 3, -23)], colour)
            ribbon = [(-w + 3, -32), (w - 3, -32), (w - 3, -24), (-w + 3, -24)]
            self._shape([*ribbon, ribbon[0]], self.clothes)
            self._disc((0, -21), w + 13, 4.6, colour)
            self._line([(-w + 7, -53), (-w + 8, -38)], 2.4, _lighter(colour, 0.3))
        elif hat == "party hat":
            self._shape([(-17, -32), (0, -65), (17, -32), *_arc((0, -32), 17, 4, 0, 180, 12)], colour)
            for x, y in ((-7, -35), (6, -34), (0, -44), (-3, -53)):
                self._disc((x, y), 2.4, 2.4, _lighter(colour, 0.75), 0)
            self._disc((0, -64), 5, 5, _lighter(colour, 0.75))
        else:
            gold = (252, 198, 52)
            points = [(-22, -29), (-25, -55), (-12, -43), (0, -60), (12, -43), (25, -55), (22, -29)]
            self._shape([*points, *_arc((0, -30), 22, 4, 10, 170, 12)], gold)
            for x, y, gem in ((-12, -34, (220, 50, 70)), (0, -33, (60, 120, 220)), (12, -34, (220, 50, 70))):
                self._disc((x, y), 3, 3, gem, 1.2)
