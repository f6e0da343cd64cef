"""Refusals in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}` with a status and headers."""

import math

from starlette.responses import JSONResponse

KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is refused. `seconds`: when it makes sense to try again."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, seconds: float = 0.0
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.seconds = status, message, param, code, seconds

    @property
    def body(self) -> dict:
        kind = KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {"retry-after": str(whole_seconds(self.seconds))} if self.seconds else {}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse(self.body, self.status, headers)


def whole_seconds(seconds: float) -> int:
    """Rounded up, for who comes back too early is refused again."""
    return max(1, math.ceil(seconds))


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)
