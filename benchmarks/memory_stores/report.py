"""What was measured, as a table and as a picture."""

import statistics
from collections.abc import Sequence
from html import escape
from pathlib import Path

from benchmarks.memory_stores.probes import CALLERS, Probe, resident_bytes

_HEAD = (
    f"{'':42}{'p50 ms':>9}{'p99 ms':>9}{f'calls/s, {CALLERS}':>12}{'CPU ms':>9}{'of echo':>9}{'recall':>8}"
    f"{'saved/s':>10}{'of COPY':>9}{'resident':>10}"
)
_WIDTH, _LABEL, _BAR, _ROW = 900, 320, 420, 22


def print_table(probes: Sequence[Probe], echo: Probe, copied: float | None) -> None:
    """Print a line for each probe; `copied` is COPY's rows a second into pgvector."""
    print(_HEAD)
    for probe in probes:
        saved = probe.saved_rows_per_second
        resident = f"{resident_bytes(probe.process) / 2**20:.0f} MB" if probe.process else ""
        print(
            f"{probe.name:42}{probe.percentile(0.5):9.2f}{probe.percentile(0.99):9.2f}"
            f"{statistics.median(probe.calls_per_second):12.0f}{_number(probe.cpu, '.2f'):>9}"
            f"{_ratio(probe.cpu, echo.cpu):>9}{_number(probe.recall, '.3f'):>8}{_number(saved, ',.0f'):>10}"
            f"{_ratio(saved, copied):>9}{resident:>10}",
            flush=True,
        )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _ratio(value: float | None, of: float | None) -> str:
    return f"{value / of:.2f}" if value is not None and of else ""


def write_plot(path: Path, title: str, probes: Sequence[Probe]) -> None:
    """Write bars of the milliseconds and the calls a second of each probe as SVG, which needs no library."""
    parts = [f'<text x="10" y="24" font-size="16">{escape(title)}</text>']
    top = 40
    for caption, values in (
        ("milliseconds of a search at one caller, p50: less is better", [probe.percentile(0.5) for probe in probes]),
        (
            f"searches a second at {CALLERS} callers: more is better",
            [statistics.median(probe.calls_per_second) for probe in probes],
        ),
    ):
        parts.append(f'<text x="10" y="{top + 16}" font-weight="bold">{escape(caption)}</text>')
        top += 26
        for probe, value in zip(probes, values, strict=True):
            length = _BAR * value / max(values)
            recall = "" if probe.recall is None else f"; recall {probe.recall:.3f}"
            parts += [
                f'<text x="{_LABEL - 8}" y="{top + 14}" text-anchor="end">{escape(probe.name)}</text>',
                f'<rect x="{_LABEL}" y="{top + 2}" width="{length:.1f}" height="{_ROW - 6}" fill="#4878a8"/>',
                f'<text x="{_LABEL + length + 6:.1f}" y="{top + 14}">{value:,.1f}{recall}</text>',
            ]
            top += _ROW
        top += 14
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )
