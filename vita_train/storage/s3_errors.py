"""What boto3's errors mean to the reader: fix the settings, or try again later."""

from __future__ import annotations

from urllib.parse import urlsplit

from boto3.exceptions import Boto3Error
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)
from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError, S3ValidationError

from vita_train.errors import StorageError, UserError, VitaError

#: Everything boto3 raises for a request; ValueError is its word for a malformed endpoint, and
#: KeyError what comes of an
#: answer that lacks what S3's always have, such as a page with status 200.
S3_ERRORS = (
    BotoCoreError,
    ClientError,
    Boto3Error,
    RetriesExceededError,
    S3DownloadFailedError,
    S3ValidationError,
    ValueError,
    KeyError,
)

_AGAIN = "run the same command again"
_CREDENTIALS = (
    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN (or the profile or role "
    "in use)"
)
_IDENTITY = (
    "check the workload identity: the service account, its role, and that the role may use the "
    "bucket"
)
_REFUSED = {
    "AccessDenied",
    "AllAccessDisabled",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "AccountProblem",
    "401",
    "403",
}
_CONFLICT = {"PreconditionFailed", "412"}
_LATER = {408, 409, 425, 429}
#: Refusals of a request that may well be taken when it is made again: bytes were changed on the
#: way, or the answer to a
#: finished upload was lost and the server knows it no more.
_PASSING = {"RequestTimeout", "SlowDown", "BadDigest", "XAmzContentSHA256Mismatch", "NoSuchUpload"}


def code_of(error: Exception) -> str:
    """Return the service's error code; empty for errors that did not come from it."""
    return (
        str(error.response.get("Error", {}).get("Code", ""))
        if isinstance(error, ClientError)
        else ""
    )


def is_missing(error: Exception) -> bool:
    """Say whether the key or its bucket is not there."""
    return code_of(error) in {"NoSuchKey", "NoSuchBucket", "NotFound", "404"}


def bucket_is_missing(error: Exception) -> bool:
    """Say whether the service named the bucket as what is not there."""
    return code_of(error) == "NoSuchBucket"


def is_conflict(error: Exception) -> bool:
    """Say whether a conditional write was refused because the key is taken."""
    return code_of(error) in _CONFLICT


def translate(error: Exception, uri: str, bucket: str, endpoint: str) -> VitaError:
    """Return the error to raise in place of one of `S3_ERRORS`."""
    if isinstance(error, ClientError):
        return _translate_answer(error, uri, bucket, endpoint)
    if isinstance(error, NoCredentialsError | PartialCredentialsError | ProfileNotFound):
        return UserError(
            "no credentials for S3 were found",
            code="VT-USE-109",
            where=uri,
            remedy="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )
    if isinstance(error, CredentialRetrievalError):
        return StorageError(
            f"the credentials for S3 could not be fetched: {_line(error)}",
            code="VT-STORE-004",
            where=uri,
            remedy=_IDENTITY,
        )
    if isinstance(error, ParamValidationError | ValueError):
        return UserError(
            f"cannot be used: {_line(error)}",
            code="VT-USE-110",
            where=uri,
            remedy="check storage.root (s3://<bucket>/<prefix>) and storage.endpoint "
            "(http(s)://<host>)",
        )
    if isinstance(error, KeyError):
        return StorageError(
            f"the answer is not S3's: it has no {_line(error)}",
            code="VT-STORE-009",
            where=uri,
            remedy="check storage.endpoint, and whether a proxy or a login page stands before it; "
            "then "
            f"{_AGAIN}",
        )
    if isinstance(error, EndpointConnectionError | ConnectTimeoutError):
        # Not always the S3 server: a role is taken on at another one.
        asked = urlsplit(str(error.kwargs.get("endpoint_url", "")))
        return StorageError(
            f"nothing answers at {asked.scheme}://{asked.netloc}",
            code="VT-STORE-005",
            where=uri,
            remedy=f"check storage.endpoint and the network, then {_AGAIN}",
        )
    cause = error.last_exception if isinstance(error, RetriesExceededError) else error
    return StorageError(
        f"the S3 request failed: {_line(cause)}", code="VT-STORE-006", where=uri, remedy=_AGAIN
    )


def _translate_answer(error: ClientError, uri: str, bucket: str, endpoint: str) -> VitaError:
    code = code_of(error)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if is_missing(error):
        return UserError(
            f"bucket {bucket!r} does not exist at {endpoint}",
            code="VT-USE-111",
            where=uri,
            remedy="create it, or correct storage.root or storage.endpoint",
        )
    if error.operation_name.startswith("AssumeRole"):
        return UserError(
            f"the role for S3 could not be taken on ({_answer(error)})",
            code="VT-USE-112",
            where=uri,
            remedy=_IDENTITY,
        )
    # Before the refusals: it comes with status 403
    if code == "RequestTimeTooSkewed":
        return UserError(
            "the clocks of this machine and of the S3 server differ too much",
            code="VT-USE-113",
            where=uri,
            remedy="set this machine's clock",
        )
    if code in _REFUSED or status in (401, 403):
        return UserError(
            f"the S3 server refused access ({code})",
            code="VT-USE-114",
            where=uri,
            remedy=_CREDENTIALS,
        )
    if 400 <= status < 500 and status not in _LATER and code not in _PASSING:
        return UserError(
            f"the S3 server refused the request ({_answer(error)})",
            code="VT-USE-115",
            where=uri,
            remedy="check storage.root and storage.endpoint",
        )
    return StorageError(
        f"the S3 server failed ({_answer(error)})", code="VT-STORE-007", where=uri, remedy=_AGAIN
    )


def _answer(error: ClientError) -> str:
    """Return what the server said, and to what."""
    message = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())
    return f"{code_of(error)} to {error.operation_name}{': ' if message else ''}{message}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
