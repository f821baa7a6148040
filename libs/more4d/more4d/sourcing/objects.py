"""One try at an object in S3 through s3fs: read range by range, continued where an earlier try ended."""

import fsspec

from more4d.sourcing.addresses import FetchError
from more4d.sourcing.http import TransientError
from more4d.sourcing.limits import FetchLimits
from more4d.sourcing.store import Place

_BLOCK = 8 * 2**20


def open_s3(limits: FetchLimits) -> fsspec.AbstractFileSystem:
    """S3 with the endpoint and the credentials of the environment (AWS_ENDPOINT_URL, AWS_PROFILE, ...), never a row's."""
    config = {
        "connect_timeout": limits.connect_timeout,
        "read_timeout": limits.read_timeout,
        "max_pool_connections": limits.parallel,
        # Tries are counted by the caller, who also keeps what came.
        "retries": {"total_max_attempts": 1},
    }
    return fsspec.filesystem(
        "s3", anon=limits.s3_anonymous, config_kwargs=config, use_listings_cache=False, skip_instance_cache=True
    )


def try_s3(fs: fsspec.AbstractFileSystem, url: str, place: Place, limits: FetchLimits) -> None:
    """Bring the part of `place` to its full length. Raises TransientError where a repetition may help, else FetchError."""
    from botocore.exceptions import BotoCoreError, NoCredentialsError

    try:
        _copy(fs, url, place, limits)
    except FileNotFoundError as error:
        raise FetchError("S3: no such object") from error
    except PermissionError as error:
        raise FetchError("S3: access denied") from error
    except NoCredentialsError as error:
        raise FetchError("S3: no credentials; set them as for the AWS tools, or source.fetch.s3_anonymous") from error
    except (BotoCoreError, OSError) as error:
        raise TransientError(f"S3: {type(error).__name__}") from error
    except ValueError as error:
        raise FetchError("S3: not a bucket and key") from error


def _copy(fs: fsspec.AbstractFileSystem, url: str, place: Place, limits: FetchLimits) -> None:
    facts = fs.info(url)
    size, version = int(facts["size"] or 0), str(facts.get("ETag") or "")
    if facts["type"] != "file" or not size:
        raise FetchError("S3: a folder, or an object without bytes")
    if size > limits.max_bytes:
        raise FetchError(f"too large: {size} bytes, above source.fetch.max_bytes={limits.max_bytes}")
    done, validator = place.begun()
    if not done or validator != version or done > size:
        place.begin(version)
        done = 0
    with place.part.open("ab") as part:
        while done < size:
            piece = fs.cat_file(url, start=done, end=min(done + _BLOCK, size))
            if not isinstance(piece, bytes) or not piece:
                raise TransientError("S3: the object ends early")
            part.write(piece)
            part.flush()
            done += len(piece)
    if str(fs.info(url).get("ETag") or "") != version:
        place.drop()
        raise TransientError("the file changed while it was downloaded")
