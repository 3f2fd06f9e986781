"""Who may ask: bearer tokens, how often and how much at a time each client may, and an id for every request."""

import contextvars
import hashlib
import hmac
import logging
import math
import re
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evoxtral.errors import EvoxtralError
from evoxtral.serve import refusals
from evoxtral.serve.limits import ALWAYS_ANSWERED, CLIENT, Limits, drop_body
from evoxtral.serve.monitoring import Monitor

OPEN = {"/health", "/ready", "/docs", "/redoc", "/openapi.json"}  # without a token: they tell nothing of any recording
MAX_CLIENTS = 10_000  # addresses whose rate is remembered
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NO_TOKEN = "This service asks for a token: send the header `Authorization: Bearer TOKEN`."
_WRONG_TOKEN = "This token is not known here: ask whoever runs the service for one."

log = logging.getLogger(__name__)
request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="-")


def read_tokens(path: str | Path) -> dict[bytes, str]:
    """SHA-256 of each token of a file -> its name. A line is `TOKEN` or `NAME TOKEN`; `#` begins a comment.

    Raises EvoxtralError, which never holds a token.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise EvoxtralError(f"The token file {path} cannot be read: {reason}.") from error
    tokens = {}
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        if len(words) > 2:
            raise EvoxtralError(f"Line {number} of {path} is neither a token nor a name and a token.")
        if words:
            tokens[_digest(words[-1])] = words[0] if len(words) == 2 else f"token-{number}"
    if not tokens:
        raise EvoxtralError(f"The token file {path} has no token in it: nobody could ask anything.")
    return tokens


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


class Guard:
    """ASGI middleware: only known tokens, and of each only so many requests a minute and at a time."""

    def __init__(self, app: ASGIApp, tokens: Mapping[bytes, str], limits: Limits):
        self.app, self.tokens, self.limits = app, tokens, limits
        self._buckets: dict[str, tuple[float, float]] = {}  # client -> requests left, and when that was
        self._under_way: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            return await self.app(scope, receive, send)
        client = self._client(scope)
        if client is None:
            given = "authorization" in Headers(scope=scope)
            asked = {"WWW-Authenticate": "Bearer"}
            return await self._refuse(401, _WRONG_TOKEN if given else _NO_TOKEN, asked, scope, receive, send)
        if scope["path"] in ALWAYS_ANSWERED:
            return await self.app(scope, receive, send)
        wait = self._wait(client)
        if wait:
            sentence = f"More than {self.limits.per_minute:g} requests a minute: ask again in {wait} s."
            return await self._refuse(429, sentence, {"Retry-After": str(wait)}, scope, receive, send)
        if self.limits.concurrent is not None and self._under_way[client] >= self.limits.concurrent:
            sentence = f"More than {self.limits.concurrent} requests at a time: ask again when one is answered."
            return await self._refuse(429, sentence, refusals.RETRY_AFTER, scope, receive, send)
        self._under_way[client] += 1
        scope[CLIENT] = client
        try:
            await self.app(scope, receive, send)
        finally:
            self._under_way[client] -= 1
            if not self._under_way[client]:
                del self._under_way[client]

    def _client(self, scope: Scope) -> str | None:
        """The name of the token, the address where none is asked for; None if it is not known."""
        if not self.tokens:
            return scope["client"][0] if scope.get("client") else ""
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        given = _digest(token.strip())
        # Every token is compared, each in constant time: how long it takes tells nothing.
        known = [name for own, name in self.tokens.items() if hmac.compare_digest(own, given)]
        return known[0] if known and scheme.lower() == "bearer" else None

    def _wait(self, client: str) -> int:
        """Seconds until a client may ask again; 0, and one request fewer is left, if now."""
        rate = self.limits.per_minute
        if rate is None:
            return 0
        now, most = time.monotonic(), max(1.0, rate)
        left, then = self._buckets.get(client, (most, now))
        left = min(most, left + (now - then) * rate / 60)
        if left < 1:
            return math.ceil((1 - left) * 60 / rate)
        if len(self._buckets) >= MAX_CLIENTS:
            self._buckets.clear()
        self._buckets[client] = (left - 1, now)
        return 0

    async def _refuse(
        self, status: int, sentence: str, headers: Mapping[str, str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        await drop_body(receive, int(self.limits.megabytes * 1e6))
        await refusals.answer(scope["path"], status, sentence, headers=headers)(scope, receive, send)


class RequestIds:
    """ASGI middleware: an id in the answer and in every log line, the client's own where it sends a fitting one; and
    one log line and one count for each request."""

    def __init__(self, app: ASGIApp, monitor: Monitor):
        self.app, self.monitor = app, monitor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        own = Headers(scope=scope).get("x-request-id", "")
        name = own if _ID.fullmatch(own) else f"req_{uuid.uuid4().hex}"
        request_id.set(name)  # never reset: the server logs what went wrong after this, and each request has its task
        begun, status = time.perf_counter(), 499  # that of a client who left, as nginx has it

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = name
            await send(message)

        try:
            await self.app(scope, receive, named)
        finally:
            elapsed = time.perf_counter() - begun
            self.monitor.answered(scope, status)
            level = logging.DEBUG if scope["path"] in ALWAYS_ANSWERED else logging.INFO
            log.log(level, "%s %s %d %.2f s", scope["method"], scope["path"], status, elapsed)


def name_requests_in_logs() -> None:
    """Put the id of the request into every line of every handler of the root logger."""

    def add(record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True

    for handler in logging.getLogger().handlers:
        handler.addFilter(add)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(request_id)s %(message)s"))
