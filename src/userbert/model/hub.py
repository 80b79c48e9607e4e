"""Downloads models from a hub and uploads them.

In: a name such as `acme/buyers`. Out: the folder in the hub's own cache, which is then read and
checked like any model folder. The hub's library is optional and slower to import than NumPy, so it
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
_LOG_IN = "log in with `hf auth login`, or pass a token"


def folder_of(
    name: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """Returns the local folder `name` if there is one, else downloads the hub's model `name`.

    Raises `ModelError` if the hub has no such model or cannot be reached, and `InputError` if
    `revision` is set for a local folder.
    """
    is_hub_name = isinstance(name, str) and _NAME.fullmatch(name) and not Path(name).exists()
    if not is_hub_name:
        if revision is not None:
            raise InputError(
                f"revision: {name} is a local folder, which has no revisions. Leave it out, or "
                "give the name of a hub's model, such as acme/buyers."
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
    """Uploads the folder that `write` fills as one commit; returns its address.

    Raises `InputError` if the hub refuses it.
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
                delete_patterns="metrics.jsonl",  # metrics of the model that was there before
            )
    return f"{hub.endpoint}/{name}"


@contextmanager
def _hub_errors(name: str, revision: str | None) -> Iterator[None]:
    """Raises errors of the hub's library as `ModelError`, with advice in the message."""
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
