"""What a client is told when a request fails: OpenAI's error object under /v1, one sentence in `detail` elsewhere."""

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from evoxtral.errors import AudioError, DeviceFullError, EvoxtralError

RETRY_AFTER = {"Retry-After": "5"}  # s; a short clip's time
UNEXPECTED = "The service failed: name the request id of this answer to whoever runs it."
# As in https://platform.openai.com/docs/guides/error-codes; others are of the type below with no code.
_CODES = {401: "invalid_api_key", 404: "not_found", 429: "rate_limit_exceeded", 503: "overloaded"}


class Refusal(HTTPException):
    """A request that is not answered.  param: the field that is wrong.  code: OpenAI's word for what is wrong."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(status, message, headers)
        self.param, self.code = param, code


class Unexpected(EvoxtralError):
    """What nobody foresaw, in the middle of a stream, where no status can be sent any more."""

    def __init__(self) -> None:
        super().__init__(UNEXPECTED)


def error_object(status: int, message: str, param: str | None = None, code: str | None = None) -> dict:
    """OpenAI's, https://platform.openai.com/docs/api-reference/errors: `type` tells whose mistake it is."""
    kind = "requests" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code or _CODES.get(status)}}


def answer(
    path: str,
    status: int,
    message: str,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The answer for a failed request to this path."""
    under_v1 = f"{path}/".startswith("/v1/")
    content = error_object(status, message, param, code) if under_v1 else {"detail": message}
    return JSONResponse(content, status, headers)


def of(error: EvoxtralError, path: str) -> tuple[int, str | None, Mapping[str, str] | None]:
    """Status, field and headers for an error of ours."""
    if isinstance(error, DeviceFullError):
        return 503, None, RETRY_AFTER
    if isinstance(error, Unexpected):
        return 500, None, None
    if isinstance(error, AudioError):  # OpenAI says 400 for a file that it cannot read
        return 400 if path.startswith("/v1/") else 422, "file", None
    return 400, None, None


def add_to(app: FastAPI) -> None:
    """Answer every error of an app in these shapes."""

    @app.exception_handler(EvoxtralError)
    def mistake(request: Request, error: EvoxtralError) -> JSONResponse:
        status, param, headers = of(error, request.url.path)
        return answer(request.url.path, status, str(error), param, headers=headers)

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> JSONResponse:
        param, code = (error.param, error.code) if isinstance(error, Refusal) else (None, None)
        return answer(request.url.path, error.status_code, error.detail, param, code, error.headers)

    @app.exception_handler(RequestValidationError)
    def misfit(request: Request, error: RequestValidationError) -> JSONResponse:
        """Every field that does not fit, in one sentence instead of FastAPI's tree."""
        problems = (f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors())
        return answer(request.url.path, 422, "; ".join(problems) + ".")

    @app.exception_handler(Exception)
    def unexpected(request: Request, error: Exception) -> JSONResponse:
        return answer(request.url.path, 500, UNEXPECTED)
