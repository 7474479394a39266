"""`batch.html`: a page of all records that can be searched and filtered, in one file without outside requests."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from onnxport._version import __version__
from onnxport.batch.records import Record, Status, counts

PAGE_NAME = "batch.html"


def render_page(records: Sequence[Record], seconds: float) -> str | None:
    """The page, or None where Jinja2 is not installed.

    Args:
        records: a row each.
        seconds: wall time of the batch.
    """
    try:
        from jinja2 import Environment
    except ImportError:
        return None
    template = (resources.files("onnxport.batch") / "page.html").read_text(encoding="utf-8")
    found = Environment(autoescape=True).from_string(template)
    number = counts(records)
    return found.render(
        records=records,
        counts=[(status.value, number.get(status, 0)) for status in Status if number.get(status)],
        tasks=sorted({record.task for record in records if record.task}),
        total=len(records),
        converted=number.get(Status.CONVERTED, 0),
        seconds=seconds,
        cpu_seconds=sum(record.cpu_seconds for record in records),
        version=__version__,
    )
