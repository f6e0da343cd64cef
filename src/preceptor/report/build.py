"""Writes the report: one HTML file with its stylesheet inside, no script, nothing loaded from elsewhere."""

import os
import re
from importlib.resources import files
from pathlib import Path

from preceptor.errors import need_extra
from preceptor.report import words
from preceptor.report.data import ReportData
from preceptor.report.sections import lineage_tree, ordered_samples, sections


def stylesheet() -> str:
    """The one stylesheet of pages and report; the web app serves the same file."""
    return (files("preceptor") / "preceptor.css").read_text(encoding="utf-8")


def render(data: ReportData) -> str:
    """The report as HTML. Every text of the data is escaped; only our own figures and stylesheet are markup."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup, escape
    except ImportError as error:
        raise need_extra("jinja2", "eval") from error

    environment = Environment(
        loader=PackageLoader("preceptor.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = lambda text: Markup("<wbr>").join(words.pieces(text))
    environment.globals.update(words=words)
    environment.filters["drawing"] = Markup
    environment.filters["commands"] = lambda text: Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
    return environment.get_template("report.html").render(
        data=data,
        css=Markup(stylesheet()),
        sections=sections(data),
        samples=ordered_samples(data),
        tree=lineage_tree(data),
    )


def write_report(data: ReportData, path: Path | str) -> Path:
    """Writes `render(data)` to `path`, under another name first, so that no half-written report is ever there."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        draft.write_text(render(data), encoding="utf-8")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target
