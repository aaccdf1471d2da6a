"""Numbers as people read them."""


def show_bytes(count: float) -> str:
    """In binary units: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{_three_digits(count)} {unit}"
        count /= 1024
    return f"{count:,.2f} TiB"


def _three_digits(count: float) -> str:
    return f"{count:.0f}" if abs(count) >= 100 else f"{count:.3g}"


def show_count(count: float) -> str:
    """In thousands: `2.05 M`."""
    for unit in ("", " k", " M"):
        if abs(count) < 1000:
            return f"{_three_digits(count)}{unit}"
        count /= 1000
    return f"{count:.3g} G"


def show_ms(milliseconds: float) -> str:
    """To three digits, in ms or µs."""
    if milliseconds and milliseconds < 0.1:
        return f"{_three_digits(milliseconds * 1000)} µs"
    return f"{_three_digits(milliseconds)} ms"
