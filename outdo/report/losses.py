"""The loss on rows of data that a stage did not train on, as one of the page's small charts."""

from __future__ import annotations

from outdo.report.curves import Spec, _chart, _line
from outdo.report.data import Row, RunData
from outdo.report.format import number, pair, plain


def charts(run: RunData) -> list[Spec]:
    """One chart, a line per stage; none where nothing was measured."""
    series, ends = [], []
    for stage in run.stages.values():
        points = [_point(e) for e in stage.losses if number(e.get("value")) is not None]
        if points:
            series.append(_line(stage.name, stage.colour, "all", points))
            ends.append(f"{stage.name} {plain(points[0]['y'])} → {plain(points[-1]['y'])}")
    caption = f"nats per token on held-out rows of data, with 95 % intervals; lower is a better copy. {', '.join(ends)}"
    return [_chart("held-out-loss", series, y="plain", title="Held-out loss", caption=caption, small=True)] if series else []


def _point(e: Row) -> Row:
    low, high = pair(e.get("ci95")) or (None, None)
    return {"x": {"flops": number(e.get("flops"))}, "y": number(e.get("value")), "lo": low, "hi": high, "n": number(e.get("n"))}
