"""What the S3 service says or fails to say, as our errors: each tells what the caller should do.

| answer | error |
|---|---|
| 404, no such key | not yet published: files come by about 11:00 New York of the next day, and a closed day has none |
| 403 | not entitled: the key's plan has no flat files, or none so old |
| 401, 403 with a key that is unknown or whose secret is wrong; no such bucket | configuration |
| 412, 416 | :class:`ChangedError`: the object is another one than that whose bytes we have |
| 429, 5xx | retryable; 429 and 503 (``SlowDown``) pause the gate |
| no answer | retryable |
| a body that ends early | malformed |
"""

from __future__ import annotations

from typing import Any, Final

from closingbell.errors import (
    ClosingbellError,
    ConfigurationError,
    MalformedResponseError,
    NotEntitledError,
    NotYetPublishedError,
    RetryableError,
)

#: What S3 calls keys that are not right, with HTTP 403 as a refusal has it too.
_BAD_KEYS: Final = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AuthorizationHeaderMalformed")

_SET_KEYS: Final = "Set POLYGON_FLATFILES_KEY and POLYGON_FLATFILES_SECRET to the S3 keys of your account's page."


class ChangedError(MalformedResponseError):
    """The object was replaced between two parts of its download: what there is of the old one is of no use."""


def malformed(what: str, path: str, particulars: object = None) -> MalformedResponseError:
    """An object that breaks its own contract; ``what`` is the same sentence for every object."""
    return MalformedResponseError(what, value=path if particulars is None else f"{path}: {particulars}")


def of_exception(error: Exception, path: str, *, cut: bool = False) -> ClosingbellError:
    """Our error for one of the client's.

    Args:
        error: as s3fs raises it: its own, with the answer in its cause; or any library's below it.
        path: the object asked for.
        cut: whether the answer had begun.
    """
    for each in (error, error.__cause__):
        answer = getattr(each, "response", None)
        if isinstance(answer, dict):
            return _of_answer(answer, path)
    if cut:
        return malformed("the flat file's body was cut off", path, type(error).__name__)
    return RetryableError("the flat files' server does not answer", value=f"{path}: {type(error).__name__}")


def _of_answer(answer: dict[str, Any], path: str) -> ClosingbellError:
    told, meta = answer.get("Error", {}), answer.get("ResponseMetadata", {})
    code, status = str(told.get("Code", "")), int(meta.get("HTTPStatusCode", 0))
    said = f"{path}: HTTP {status} {code}"
    if code == "NoSuchBucket":
        return ConfigurationError("there is no such bucket", value=said, fix="Set POLYGON_FLATFILES_BUCKET.")
    if status == 404:
        fix = "It comes by about 11:00 New York of the next day. The next run asks for its cells by range."
        return NotYetPublishedError("the flat file is not there", value=said, fix=fix)
    if code in _BAD_KEYS or status == 401:
        return ConfigurationError("the flat files' keys are refused", value=said, fix=_SET_KEYS)
    if status == 403:
        fix = "See which flat files your plan includes; without the two keys all bars come by range."
        return NotEntitledError("the plan does not include this flat file", value=said, fix=fix)
    if status in (412, 416):
        return ChangedError("the flat file was replaced while it was fetched", value=said)
    return RetryableError(
        f"the flat files' server answers HTTP {status}", value=said, status=status, retry_after=_wait(meta)
    )


def _wait(meta: dict[str, Any]) -> float | None:
    said = str(meta.get("HTTPHeaders", {}).get("retry-after", ""))
    return float(said) if said.isdecimal() else None
