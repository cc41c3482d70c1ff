"""Numbers, dates, times and money as they are spoken."""

from __future__ import annotations

import random

ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen").split()  # fmt: skip
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = (
    "_ first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
).split()
SCALES = ("hundred", "thousand", "million", "thirtieth", "o'clock", "oh", "and", "point", "half", "quarter",
          "past", "to", "dollars", "cents", "euros", "pounds", "am", "pm", "minus", "percent", "double")  # fmt: skip


def cardinal(value: int) -> str:
    """Spell 0 <= value < 10**9 in American style, without "and"."""
    if value < 20:
        return ONES[value]
    if value < 100:
        tail = value % 10
        return TENS[value // 10] + (f" {ONES[tail]}" if tail else "")
    for size, name in ((1_000_000, "million"), (1_000, "thousand"), (100, "hundred")):
        if value >= size:
            tail = value % size
            return f"{cardinal(value // size)} {name}" + (f" {cardinal(tail)}" if tail else "")
    raise AssertionError(value)


def ordinal(value: int) -> str:
    """Spell the ordinal of 1 <= value <= 31."""
    if value <= 20:
        return ORDINALS[value]
    if value == 30:
        return "thirtieth"
    return f"{TENS[value // 10]} {ORDINALS[value % 10]}"


def digits(rng: random.Random, count: int) -> str:
    """Say `count` random digits one by one; zero is sometimes "oh"."""
    zero = rng.choice(("zero", "oh"))
    return " ".join(zero if d == 0 else ONES[d] for d in (rng.randrange(10) for _ in range(count)))


def year(rng: random.Random) -> str:
    """Say a year between 1900 and 2059."""
    value = rng.randrange(1900, 2060)
    high, low = divmod(value, 100)
    if 2000 <= value < 2010:
        return "two thousand" + (f" {ONES[low]}" if low else "")
    if low == 0:
        return f"{cardinal(high)} hundred"
    return f"{cardinal(high)} " + (f"oh {ONES[low]}" if low < 10 else cardinal(low))


def clock(rng: random.Random) -> str:
    """Say a time of day."""
    hour = ONES[rng.randrange(1, 13)]
    minute = rng.choice((5, 10, 12, 15, 18, 20, 25, 30, 35, 40, 45, 50, 55, rng.randrange(1, 60)))
    spoken = f"oh {ONES[minute]}" if minute < 10 else cardinal(minute)
    style = rng.randrange(6)
    if style == 0:
        return f"{hour} o'clock"
    if style == 1:
        return f"half past {hour}"
    if style == 2:
        return f"{rng.choice(('quarter', 'ten', 'twenty', 'five'))} {rng.choice(('past', 'to'))} {hour}"
    if style == 3:
        return f"{hour} {spoken} {rng.choice(('am', 'pm'))}"
    if style == 4:
        return f"{hour} {rng.choice(('am', 'pm'))}"
    return f"{hour} {spoken}"


def money(rng: random.Random) -> str:
    """Say an amount of money."""
    unit = rng.choice(("dollars", "euros", "pounds"))
    amount = cardinal(
        rng.choice((rng.randrange(2, 100), rng.randrange(100, 1000), rng.randrange(20, 990) * 10))
    )
    if unit == "dollars" and rng.random() < 0.4:
        return f"{amount} dollars and {cardinal(rng.randrange(2, 100))} cents"
    return f"{amount} {unit}"
