"""Downloads models from a hub and uploads them.

In: a name such as `acme/buyers`. Out: the downloaded folder in a cache, which is then read and
checked like every model folder. The package `huggingface_hub` is optional and slow to import, so it
is imported only when needed.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from userbert.errors import InputError, ModelError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
"""OWNER/MODEL: the name of a model on a hub."""
_LOG_IN = "log in with `hf auth login`, or pass a token"
"""Advice in errors about access."""


def folder_of(
    name: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """Returns a model folder: the local folder `name`, or the downloaded model `name` of a hub.

    A text OWNER/MODEL that is no local path names a hub's model. Every other `name` is returned as
    a path, without a check that it exists. `revision`, `cache_dir`, `token` and `local_files_only`
    are for downloads, see `UserBert.from_pretrained`. Raises `ModelError` if the hub does not have
    the model or cannot be reached, or if `huggingface_hub` is not installed. Raises `InputError` if
    `revision` is set for a local folder.
    """
    is_hub_name = isinstance(name, str) and _NAME.fullmatch(name) and not Path(name).exists()
    if not is_hub_name:
        if revision is not None:
            raise InputError(
                f"revision: {name} is a local folder, which has no revisions. Leave revision "
                "out, or give the name of a hub's model, such as acme/buyers."
            )
        return Path(name)
    if find_spec("huggingface_hub") is None:
        raise ModelError(
            f"{name}: there is no such local folder, and downloading from a hub needs "
            "huggingface_hub. Install it with: pip install 'userbert[hub]'"
        )
    from huggingface_hub import snapshot_download

    with _hub_errors(str(name), revision):
        return Path(
            snapshot_download(
                str(name),
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                local_files_only=local_files_only,
                library_name="userbert",
                library_version=version("userbert"),
            )
        )


def upload(
    write: Callable[[Path], None], name: str, *, private: bool, token: str | bool | None
) -> str:
    """Uploads the folder that `write` fills to the hub's model `name`; returns the page's address.

    The upload is one commit. A new repository is private if `private` is true. Raises `InputError`
    if `name` is not valid, the hub refuses the upload, or `huggingface_hub` is not installed.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{name}: expected OWNER/MODEL, such as acme/buyers.")
    if find_spec("huggingface_hub") is None:
        raise InputError(
            "uploading to a hub needs huggingface_hub. Install it with: pip install 'userbert[hub]'"
        )
    from huggingface_hub import HfApi

    hub = HfApi(token=token, library_name="userbert", library_version=version("userbert"))
    with TemporaryDirectory() as folder:
        write(Path(folder))
        with _hub_errors(name, None):
            hub.create_repo(name, private=private, exist_ok=True)
            hub.upload_folder(
                repo_id=name,
                folder_path=folder,
                commit_message="Upload a model of userbert",
                delete_patterns="metrics.jsonl",  # of the model that this upload replaces
            )
    return f"{hub.endpoint}/{name}"


@contextmanager
def _hub_errors(name: str, revision: str | None) -> Iterator[None]:
    """Turns errors of `huggingface_hub` into `ModelError`s that say what to do."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    # The error class of the HTTP client, which depends on the library's version.
    http_error: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
    try:
        yield
    except InputError:
        raise
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{name} on {hub} is gated. Ask for access on its page, then {_LOG_IN}."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"{name} on {hub} has no revision {revision!r}. Name a branch, a tag or a commit."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{name} is neither a local folder nor a model on {hub} that you can access. Correct "
            f"the name; for a private model, {_LOG_IN}."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ModelError(
            f"{name} is neither a local folder nor a downloaded model, and {hub} cannot be reached "
            "or local_files_only is set. Connect to the hub, or copy the model's folder here."
        ) from error
    except (http_error, OSError, ValueError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        remedy = f"You may have to {_LOG_IN}." if status in (401, 403) else "Try again later."
        lines = str(error).splitlines() or [type(error).__name__]
        raise ModelError(f"{name}: {hub} says: {lines[0].rstrip('.')}. {remedy}") from error
