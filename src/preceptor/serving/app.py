"""The server without the labelling pages: `create_app(workspace)`."""

from anyio import to_thread
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from preceptor.config import ServeConfig
from preceptor.serving.api import Service, authorise, openai_router
from preceptor.serving.errors import ApiError
from preceptor.store import Workspace


def create_app(workspace: Workspace, config: ServeConfig | None = None) -> FastAPI:
    """The OpenAI-compatible API of a workspace's models.

    `/health` answers anybody; everything else, addresses that do not exist included, wants a key.
    """
    service = Service(workspace, config or ServeConfig())

    app = FastAPI(title="Preceptor", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = service
    app.include_router(openai_router(workspace, service=service))

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Answers when the server is ready."""
        return {"status": "ok"}

    @app.get("/openapi.json", include_in_schema=False)
    async def description(request: HttpRequest) -> Response:
        await to_thread.run_sync(authorise, service, request)
        return JSONResponse(app.openapi())

    @app.exception_handler(ApiError)
    async def refused(_request: HttpRequest, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def no_such(request: HttpRequest, error: HTTPException) -> Response:
        """An address or method that does not exist: said to those with a key only."""
        try:
            await to_thread.run_sync(authorise, service, request)
        except ApiError as refusal:
            return refusal.response()
        response = ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}").response()
        response.headers.update(error.headers or {})
        return response

    return app
