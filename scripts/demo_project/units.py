"""Numbers and names as the demo shows them, on the terminal and on the page."""


def milliseconds(seconds: float) -> str:
    value = seconds * 1000
    return f"{value:,.{0 if value >= 9.95 else 1}f} ms"


def size(count: float) -> str:
    """Of so many bytes."""
    if count < 1000:
        return f"{count:.0f} bytes"
    if count < 1_000_000:
        return f"{count / 1000:.1f} kB"
    return f"{count / 1_000_000:.1f} MB"


def display_name(op: str, name: str) -> str:
    """Of a span, on one line."""
    return " ".join((name.replace('"', "") if op == "db" else name).split())
