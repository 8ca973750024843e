"""The HTTP face: every call of the vendor's API is logged, let in or refused, answered, and sometimes spoilt."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from starlette.types import Receive, Scope, Send

from infra.market import aggregates, identity, reference, status
from infra.market.body import Front, Fronts
from infra.market.config import Config
from infra.market.control import control
from infra.market.faults import CONTENT, Faults, Rule, distort
from infra.market.log import CallLog
from infra.market.market import Ask, Market
from infra.market.query import TOO_MANY, RefusedError, with_cursor
from infra.market.quota import Limiter
from infra.market.send import Answer, deliver, replaced
from infra.market.skew import PLAIN, Skew
from infra.market.wire import Payload, quote

CONTROL: Final = "/_market"

Handler = Callable[..., Payload]

_ROUTES: Final[tuple[tuple[re.Pattern[str], Handler], ...]] = tuple(
    (re.compile(pattern), handler)
    for pattern, handler in (
        (r"/v2/aggs/ticker/([^/]+)/range/([^/]+)/([^/]+)/([^/]+)/([^/]+)", aggregates.ticker_range),
        (r"/v2/aggs/grouped/locale/([^/]+)/market/([^/]+)/([^/]+)", aggregates.market_day),
        (r"/v3/reference/splits", reference.splits),
        (r"/v3/reference/dividends", reference.dividends),
        (r"/v3/reference/tickers", identity.tickers),
        (r"/v3/reference/tickers/([^/]+)", identity.ticker),
        (r"/vX/reference/tickers/([^/]+)/events", identity.events),
        (r"/v1/marketstatus/upcoming", status.upcoming),
        (r"/v1/marketstatus/now", status.now),
    )
)


class App:
    """The ASGI application.

    Args:
        config: what the market is to be.

    Raises:
        ConfigurationError: the replay file cannot be used.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.market = Market(config)
        self.log = CallLog()
        self.faults = Faults(self.market.source)
        self.limiter = Limiter(config.quota, config.window, count_refused=config.count_429)
        self._fronts = Fronts()
        self._control = control(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = time.monotonic()
        path: str = scope["path"]
        if path.startswith(CONTROL):
            await self._control(scope, receive, send)
            return
        query_string = scope["query_string"].decode("latin-1")
        row = self.log.open(received, scope["method"], path, query_string)
        rule: Rule | None = None
        request_id = uuid.uuid4().hex
        try:
            params = dict(parse_qsl(query_string, keep_blank_values=True))
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            self._admit(headers, params, received)
            rule = self.faults.pick(row["path"], path.split("/"))
            skews = self.faults.skews(row["path"], path.split("/"))
            row["fault"] = "+".join([*([rule.action] if rule else []), *(skew.action for skew, _ in skews)]) or None
            base_url = f"{scope['scheme']}://{headers.get('host', 'localhost')}"
            ask = Ask(path, with_cursor(params), base_url, Skew(skews) if skews else PLAIN)
            answer = await self._answer(scope["method"], ask, params, headers, rule, request_id)
        except RefusedError as refused:
            answer = Answer(refused.status, quote(refused.body(request_id)).encode(), headers=refused.headers)
        except BaseException:
            row["status"] = 500
            raise
        if rule:
            answer = replaced(answer, rule, request_id)
        row["status"], row["rows"] = answer.status, answer.rows
        try:
            await deliver(send, answer, rule)
        finally:
            row["seconds"] = round(time.monotonic() - received, 6)

    def _admit(self, headers: dict[str, str], params: dict[str, str], received: float) -> None:
        """Raises: RefusedError: 401 without an accepted key, 429 when the key has used up its quota."""
        bearer = headers.get("authorization", "")
        key = bearer[7:].strip() if bearer[:7].lower() == "bearer " else params.get("apiKey", "")
        if not key:
            raise RefusedError(401, "API Key was not provided")
        if self.config.keys and key not in self.config.keys:
            raise RefusedError(401, "Unknown API Key")
        wait = self.limiter.admit(key, received)
        if wait is not None:
            told = {"retry-after": str(int(-(-wait // 1)) or 1)} if self.config.retry_after else {}
            raise RefusedError(429, TOO_MANY, told)

    async def _answer(
        self,
        method: str,
        ask: Ask,
        params: dict[str, str],
        headers: dict[str, str],
        rule: Rule | None,
        request_id: str,
    ) -> Answer:
        handler, parts = self._route(method, ask.path)
        key = (ask.path, tuple(sorted(ask.params.items())), ask.base_url, self.market.epoch())
        lying = rule is not None and rule.action in CONTENT
        spoilt = lying or ask.skew is not PLAIN
        held = None if spoilt or handler is status.now else self._fronts.get(key)
        if held is None:
            # In a thread, so that another call's time of receipt is not held up by this one's work.
            payload = await asyncio.to_thread(handler, self.market, ask, *parts)
            if rule and lying:
                payload = distort(payload, rule, f"{ask.base_url}{ask.path}?{_encoded(params)}")
            front, tail = Front(payload.front(), payload.rows), payload
            if not spoilt:
                self._fronts.put(key, front, Payload(tail=payload.tail, raw=payload.raw))
        else:
            front, tail = held
        back = tail.back(request_id)
        answer = Answer(200, b"", front.rows, {"x-request-id": request_id, "vary": "Accept-Encoding"})
        if "gzip" in headers.get("accept-encoding", ""):
            answer.headers["content-encoding"] = "gzip"
            answer.body = front.gzip(back)
        else:
            answer.body = front.plain + back
        return answer

    @staticmethod
    def _route(method: str, path: str) -> tuple[Handler, tuple[Any, ...]]:
        for pattern, handler in _ROUTES:
            if match := pattern.fullmatch(path):
                if method != "GET":
                    raise RefusedError(405, "Method not allowed")
                return handler, match.groups()
        raise RefusedError(404, "The requested resource was not found")


def _encoded(params: dict[str, str]) -> str:
    return urlencode({name: value for name, value in params.items() if name != "apiKey"})
