"""What the endpoints take: every parameter we honour, with its range; all others are refused by name."""

import difflib
import json
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, Len
from pydantic import BaseModel, ConfigDict, ValidationError

from preceptor.serving.errors import bad
from preceptor.types import Message, Sampling

Model = TypeVar("Model", bound="Request")

# Parameters of OpenAI's API that change the answer in ways we do not offer; these values ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
}
GREEDY_BELOW = 1e-4  # temperatures under this would overflow, and differ from 0 by less than fp32 can tell
MIN_TOP_P = 1e-9  # keeps the likeliest token, which is what 0 means

_Positive = Annotated[int, Gt(0), Le(2**31 - 1)]
_Stop = str | Annotated[list[str], Len(0, 4)] | None


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(Strict):
    type: Literal["text"]
    text: str


class ChatMessage(Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def message(self) -> Message:
        """`developer` is the newer name of `system`."""
        role = "system" if self.role == "developer" else self.role
        parts = self.content
        return Message(role=role, content=parts if isinstance(parts, str) else "".join(part.text for part in parts))


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: bool = False


class Request(Strict):
    """What both ways to ask share."""

    model: str
    max_tokens: _Positive | None = None
    temperature: Annotated[float, Ge(0), Le(2)] = 1.0
    top_p: Annotated[float, Ge(0), Le(1)] = 1.0
    n: Annotated[int, Gt(0), Le(128)] = 1
    stop: _Stop = None
    seed: Annotated[int, Ge(-(2**63)), Le(2**63 - 1)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: Annotated[str, Len(1, 200)] | None = None

    @property
    def stops(self) -> list[str]:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if not all(0 < len(stop) <= 1000 for stop in stops):
            raise bad("a stop text must have 1 to 1000 characters", "stop")
        return stops

    @property
    def usage_asked(self) -> bool:
        if self.stream_options is not None and not self.stream:
            raise bad("stream_options has a meaning only with stream: true", "stream_options")
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, max_new_tokens: int, seed: int) -> Sampling:
        """How to draw; a seed is taken modulo 2**31, and `seed` is for requests without one."""
        return Sampling(
            temperature=0.0 if self.temperature < GREEDY_BELOW else self.temperature,
            top_p=max(self.top_p, MIN_TOP_P),
            max_new_tokens=max_new_tokens,
            seed=(seed if self.seed is None else self.seed) % 2**31,
        )


class ChatRequest(Request):
    """POST /v1/chat/completions"""

    messages: Annotated[list[ChatMessage], Len(1, 2000)]
    max_completion_tokens: _Positive | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Ge(0), Le(20)] | None = None
    store: bool = False
    metadata: Annotated[dict[Annotated[str, Len(1, 64)], Annotated[str, Len(0, 512)]], Len(0, 16)] | None = None
    safety_identifier: Annotated[str, Len(1, 200)] | None = None

    @property
    def most_tokens(self) -> int | None:
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise bad("max_tokens and max_completion_tokens differ; give one of them", "max_tokens")
        return self.max_completion_tokens or self.max_tokens

    @property
    def top(self) -> int | None:
        """Likely tokens to report with each one drawn; None: no log-probabilities."""
        if self.top_logprobs is not None and not self.logprobs:
            raise bad("top_logprobs has a meaning only with logprobs: true", "top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


_Token = Annotated[int, Ge(0), Le(2**31 - 1)]


class TextRequest(Request):
    """POST /v1/completions"""

    prompt: str | Annotated[list[str], Len(1, 128)] | list[_Token] | Annotated[list[list[_Token]], Len(1, 128)]
    max_tokens: Annotated[int, Ge(0), Le(2**31 - 1)] = 16
    logprobs: Annotated[int, Ge(0), Le(20)] | None = None
    echo: bool = False

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt or isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return self.prompt  # type: ignore[return-value]


def parse(kind: type[Model], body: bytes) -> Model:
    """The request in `body`. Raises ApiError 400 that names the parameter and what is wrong with it."""
    try:
        fields = json.loads(body, parse_constant=_no_constant)
        if not isinstance(fields, dict):
            raise bad("the body must be a JSON object")
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise bad("a text has half of a surrogate pair") from error
    except (ValueError, RecursionError) as error:
        raise bad(f"the body is not JSON: {str(error)[:200] or 'nested too deeply'}") from error
    given = {name: value for name, value in fields.items() if value is not None}
    if isinstance(given.get("messages"), list):
        given["messages"] = [_without_nulls(message) for message in given["messages"]]
    for name in [name for name in given if name not in kind.model_fields]:
        if name not in NEUTRAL:
            near = difflib.get_close_matches(name, [*kind.model_fields, *NEUTRAL], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise bad(f"unknown parameter {name[:100]!r}{hint}", name[:100], "unknown_parameter")
        if not any(type(given[name]) is type(value) and given[name] == value for value in _numbers(NEUTRAL[name])):
            shown = " or ".join(json.dumps(value) for value in NEUTRAL[name])
            raise bad(f"{name!r} is not offered here; leave it out (or {shown})", name, "unsupported_parameter")
        del given[name]
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _explain(error) from error


def _numbers(values: tuple[Any, ...]) -> list[Any]:
    return [*values, *(float(value) for value in values if type(value) is int)]


def _without_nulls(message: Any) -> Any:
    """Answers sent back as messages carry `refusal: null` and the like, which say nothing."""
    return (
        {name: value for name, value in message.items() if value is not None} if isinstance(message, dict) else message
    )


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _explain(error: ValidationError) -> Exception:
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    # Where several types are possible, the fault inside the right one says more than that it is not another one.
    first = max(errors, key=lambda one: (not one["type"].endswith("_type"), len(one["loc"])))
    place = ".".join(str(part) for part in first["loc"] if not _names_a_type(part))[:200]
    if first["type"] == "missing":
        return bad(f"{place} is missing", place, "missing_required_parameter")
    if first["type"] == "extra_forbidden":
        return bad(f"unknown field {place!r}", place, "unknown_parameter")
    return bad(f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}", place, "invalid_value")


def _names_a_type(part: Any) -> bool:
    """Pydantic puts the tried type of a union into the place; it is no part of what was sent."""
    return isinstance(part, str) and (part in ("str", "TextPart") or "[" in part)
