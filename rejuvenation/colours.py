"""Colours of the report, for light and dark: sequential ramps, and ink that can be read on them."""

from __future__ import annotations

from collections.abc import Sequence

STEPS = 8
"""Shades of a ramp."""

HEAT = {
    "light": ("#f1f5fa", "#a9cbe6", "#3c86c0", "#08306b"),
    "dark": ("#1e2732", "#20507c", "#3f8ccb", "#c3e4ff"),
}
"""Share of a heat map's largest value: from the page's own colour to the strongest."""
ENTROPY = {
    "light": ("#f3f3f1", "#fde3b0", "#f9a13a", "#c4460a", "#7f2704"),
    "dark": ("#24272c", "#6a4812", "#b06d10", "#f49d35", "#ffe3b8"),
}
"""Entropy of a token: grey where the model is certain."""
CHECKPOINTS = {
    "light": {"base": "#6b7280", "sft": "#d55e00", "fused": "#56b4e9", "rejuvenated": "#0072b2"},
    "dark": {"base": "#9aa3af", "sft": "#ff8f4a", "fused": "#3f86b8", "rejuvenated": "#62c3ff"},
}
"""Okabe and Ito's palette, which stays distinguishable with colour-blindness; lighter on dark ground."""


def ramp(stops: Sequence[str], steps: int = STEPS) -> list[str]:
    """Evenly spaced shades along a line through `stops` (#rrggbb), its ends included."""
    channels = [rgb(stop) for stop in stops]
    shades = []
    for step in range(steps):
        at = step / (steps - 1) * (len(stops) - 1)
        left = min(int(at), len(stops) - 2)
        pairs = zip(channels[left], channels[left + 1], strict=True)
        mixed = [round(low + (high - low) * (at - left)) for low, high in pairs]
        shades.append("#" + "".join(f"{value:02x}" for value in mixed))
    return shades


def ink(ground: str) -> str:
    """Black or white, whichever contrasts more; the contrast is at least 4.5, as WCAG 2 asks of text."""
    return "#000000" if contrast("#000000", ground) >= contrast("#ffffff", ground) else "#ffffff"


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance, 0 to 1 (WCAG 2, sRGB)."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in rgb(colour))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green, blue of #rrggbb, 0 to 255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
