"""From data to HTML: the templates, their filters, and one `render` that every page goes through."""

import hashlib
import math
import re
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from preceptor.labelling import questions
from preceptor.labelling.access import form_token, gate_of, visitor

HERE = Path(__file__).parent
STATIC = HERE / "static"
STYLE = HERE.parent / "preceptor.css"  # the report's too
FIRST_WORDS = 120  # a long answer shows about this many words, then "Show the rest"

LABELER_NAV = (("Work", "/home"), ("Guide", "/guide"), ("My history", "/history"))
RESEARCHER_NAV = (
    ("Round", "/round"),
    ("Queues", "/queues"),
    ("Labelers", "/labelers"),
    ("Screening", "/screening"),
    ("Guides", "/rubrics"),
    ("Review", "/review"),
    ("Export", "/export"),
    ("API keys", "/keys"),
    ("Work", "/home"),
)
ADMIN_NAV = (("Accounts", "/accounts"), ("Trail", "/trail"))


def matter(text: str) -> Markup:
    """Somebody's text as HTML: paragraphs, line breaks and fenced code; everything else is escaped."""
    out = []
    for place, part in enumerate(re.split(r"^```[^\n]*\n?", text, flags=re.MULTILINE)):
        if place % 2:
            out.append(f"<pre>{escape(part)}</pre>")
        else:
            for paragraph in re.split(r"\n\s*\n", part.strip("\n")):
                if paragraph.strip():
                    out.append("<p>" + "<br>".join(str(escape(line)) for line in paragraph.split("\n")) + "</p>")
    return Markup("\n".join(out) or "<p></p>")


def halves(text: str) -> tuple[str, str]:
    """A long text cut at the end of a paragraph after about FIRST_WORDS words; the second half may be empty."""
    if count_words(text) <= FIRST_WORDS * 3 // 2 or "```" in text:
        return text, ""
    paragraphs = re.split(r"(\n\s*\n)", text)
    head = ""
    for paragraph in paragraphs:
        head += paragraph
        if count_words(head) >= FIRST_WORDS:
            break
    rest = text[len(head) :]
    if count_words(head) > 2 * FIRST_WORDS or count_words(rest) < 30:
        matches = list(re.finditer(r"\S+\s*", text))
        if count_words(rest) < 30 and count_words(head) <= 2 * FIRST_WORDS:
            return text, ""
        cut = matches[FIRST_WORDS - 1].end()
        return text[:cut], text[cut:]
    return head, rest


def count_words(text: str) -> int:
    return len(re.findall(r"\S+", text))


def first_words(text: str, characters: int = 90) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= characters else line[: characters - 2].rsplit(" ", 1)[0] + " …"


def local(moment: float) -> datetime:
    return datetime.fromtimestamp(moment, tz=UTC).astimezone()


def clock(moment: float | None) -> Markup:
    """14:31 today, `Thu 14:31` this week, else the date; inside a `time` element."""
    if moment is None:
        return Markup("")
    when, now = local(moment), datetime.now().astimezone()
    days = abs((now.date() - when.date()).days)
    shown = when.strftime("%H:%M" if days == 0 else "%a %H:%M" if days < 7 else "%-d %b %Y")
    return Markup('<time datetime="{}">{}</time>').format(when.isoformat(timespec="seconds"), shown)


def minutes(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 600 else f"{seconds / 60:.0f} min"


def thousands(number: float) -> str:
    return f"{number:,.0f}"


def signed(number: float, digits: int = 2) -> str:
    return f"{number:+.{digits}f}".replace("-", "−")


def conversation(messages: Any) -> list[dict[str, str]]:
    """Messages of a prompt as dictionaries, from nouns or from rows."""
    return [
        dict(message) if isinstance(message, Mapping) else {"role": message.role, "content": message.content}
        for message in messages or ()
    ]


def prompt_line(messages: Any) -> str:
    turns = conversation(messages)
    return first_words(turns[-1]["content"]) if turns else "a prompt of your own"


def asset(name: str) -> str:
    """The address of a static file, with its hash so that browsers may keep it for ever."""
    if name not in _ASSETS:
        _ASSETS[name] = hashlib.sha256(static_path(name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?v={_ASSETS[name]}"


def static_path(name: str) -> Path:
    return STYLE if name == STYLE.name else STATIC / name


_ASSETS: dict[str, str] = {}


class Blank(dict):
    """Fields of a form or of settings: what is not there is empty."""

    def __missing__(self, _key: str) -> str:
        return ""


def _environment() -> Environment:
    env = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "matter": matter,
        "halves": halves,
        "words": count_words,
        "clock": clock,
        "minutes": minutes,
        "thousands": thousands,
        "signed": signed,
        "exp": math.exp,
        "first_words": first_words,
        "conversation": conversation,
        "prompt_line": prompt_line,
    }
    env.globals |= {"asset": asset, "questions": questions, "new_key": lambda: secrets.token_urlsafe(12)}
    env.globals["now"] = time.time
    return env


ENV = _environment()


def render(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """A whole page. Every template finds the visitor, the form token and the menu in `page`."""
    user = visitor(request)
    nav = [] if user is None else list(LABELER_NAV if not user.researches else RESEARCHER_NAV)
    if user is not None and user.role == "admin":
        nav += ADMIN_NAV
    nav += getattr(request.app.state, "more_navigation", []) if user is not None else []
    settings = user.settings if user else {}
    page = {
        "user": user,
        "nav": nav,
        "path": request.url.path,
        "token": form_token(request),
        "place": request.app.state.workspace_name,
        "settings": Blank(settings),
        "theme": settings.get("theme", ""),
        "single_keys": settings.get("keys", "on"),
    }
    if "fields" in values:
        values["fields"] = Blank(values["fields"])
    html = ENV.get_template(template).render(page=page, **values)
    response = HTMLResponse(html, status)
    if fresh := getattr(request.state, "new_visit", None):
        gate_of(request).set_visit(response, fresh)
    return response


def fragment(template: str, **values: Any) -> Response:
    """A part of a page, for htmx."""
    return HTMLResponse(ENV.get_template(template).render(**values))


def go(path: str) -> Response:
    """After a form was taken: on to `path`, always inside this site."""
    return RedirectResponse(path, 303)
