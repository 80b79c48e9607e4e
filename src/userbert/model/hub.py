"""Models on a hub: from a name to a folder that was downloaded, and from a folder to the hub.

In: a name such as `acme/buyers`. Out: the folder in the hub's own cache, which is read and checked
as any other. Nothing but transport is done here; a model has one format wherever it lies. The hub's
library is optional and takes longer to import than NumPy, so it is imported when it is asked.
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
_LOG_IN = "log in by `hf auth login`, or give a token"


def folder_of(
    name: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder that is meant: the one of this name here, else a hub's, which is downloaded.

    Raises `ModelError` if the hub has no such model, or it cannot be had.
    """
    is_hubs = isinstance(name, str) and _NAME.fullmatch(name) and not Path(name).exists()
    if not is_hubs:
        if revision is not None:
            raise InputError(
                f"revision: {name} is a folder here, which has none. Leave it out, or give a "
                "hub's name, such as acme/buyers."
            )
        return Path(name)
    if find_spec("huggingface_hub") is None:
        raise ModelError(
            f"{name}: there is no such folder here, and models of a hub need huggingface_hub. "
            "Install it with: pip install 'userbert[hub]'"
        )
    from huggingface_hub import snapshot_download

    with _told(str(name), revision):
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
    """Let `write` fill a folder, put it on the hub as one commit, and return its address.

    Raises `InputError` if the hub does not take it.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{name}: expected the owner's and the model's name: acme/buyers.")
    if find_spec("huggingface_hub") is None:
        raise InputError("hubs need huggingface_hub. Install it with: pip install 'userbert[hub]'")
    from huggingface_hub import HfApi

    hub = HfApi(token=token, library_name="userbert", library_version=version("userbert"))
    with TemporaryDirectory() as folder:
        write(Path(folder))
        with _told(name, None):
            hub.create_repo(name, private=private, exist_ok=True)
            hub.upload_folder(
                repo_id=name,
                folder_path=folder,
                commit_message="Upload a model of userbert",
                delete_patterns="metrics.jsonl",  # the curve of a model that was there before
            )
    return f"{hub.endpoint}/{name}"


@contextmanager
def _told(name: str, revision: str | None) -> Iterator[None]:
    """Say in one message what the hub's library raises."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    # That of the client that it uses, which is another by its version.
    of_transport: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
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
            f"{name} is neither a folder here nor a model on {hub} that you may reach. Correct the "
            f"name; for a private one {_LOG_IN}."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ModelError(
            f"{name} is neither a folder here nor among the models that were downloaded, and {hub} "
            "was not asked or cannot be reached. Connect to it, or copy the model's folder here."
        ) from error
    except (of_transport, OSError, ValueError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        remedy = f"You may have to {_LOG_IN}." if status in (401, 403) else "Try again later."
        lines = str(error).splitlines() or [type(error).__name__]
        raise ModelError(f"{name}: {hub} says: {lines[0].rstrip('.')}. {remedy}") from error
