"""Way of a student to the hub and back, by ``huggingface_hub``; ``HF_ENDPOINT`` and ``HF_TOKEN`` are heeded."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from m2mkd import __version__
from m2mkd.errors import InputError
from m2mkd.files import replacing
from m2mkd.hub.layout import FOLDER_FILES, HubStudent, read_hub_folder
from m2mkd.hub.package import write_package

NETWORK: type[Exception] = HfHubHTTPError.__bases__[0]
"""Base of all errors of the library by which the installed ``huggingface_hub`` connects."""
LOG_IN = "run 'hf auth login', or set HF_TOKEN to a token that may write there"
ONLINE = "check the network, HF_ENDPOINT and HF_HUB_OFFLINE"


def push(run: Path, repo_id: str, *, revision: str | None = None, private: bool = False) -> str:
    """Publish a student in a repository of the hub, which is created if it does not exist.

    Parameters
    ----------
    run
        Folder of a finished run of ``train_student``.
    repo_id
        Repository, written ``owner/name``.
    revision
        Branch; None: the main one.
    private
        True: a new repository is private.

    Returns
    -------
    str
        Address of the commit.

    Raises
    ------
    InputError
        If the run is not a finished student, or the hub refuses.
    """
    if get_token() is None:
        raise InputError(f"{repo_id}: no token for the hub; {LOG_IN}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_package(run, folder, repo_id)
        api = HfApi(library_name="m2mkd", library_version=__version__)
        with _explained(repo_id, revision):
            api.create_repo(repo_id, private=private, exist_ok=True)
            message = f"Student {run.parent.name}/{run.name}"
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message).commit_url)


def pull(repo_id: str, folder: Path, *, revision: str | None = None) -> HubStudent:
    """Fetch a student from a repository of the hub, and check it.

    Parameters
    ----------
    repo_id, revision
        Repository, written ``owner/name``, and its branch, tag or commit; None: the main branch.
    folder
        Folder for the files. It is replaced when all of them have arrived and match their digests.

    Raises
    ------
    InputError
        If the hub refuses, the repository is not a student of this suite, or the weights do not match their digest; or if the folder holds
        other files.
    """
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - set(FOLDER_FILES)):
        raise InputError(f"{folder}: holds other files; give a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as partial:
        with _explained(repo_id, revision):
            api = HfApi(library_name="m2mkd", library_version=__version__)
            commit = api.model_info(repo_id, revision=revision).sha  # the same for every file, though the branch may move
            for name in FOLDER_FILES:
                api.hf_hub_download(repo_id, name, revision=commit, local_dir=partial)
        shutil.rmtree(partial / ".cache", ignore_errors=True)
        try:
            read_hub_folder(partial)
        except InputError as error:
            raise InputError(str(error).replace(str(partial), f"{repo_id}: {folder}")) from None
    return read_hub_folder(folder)


@contextmanager
def _explained(repo_id: str, revision: str | None) -> Iterator[None]:
    """Report in one line what the hub or the way to it refuses."""
    try:
        yield
    except HFValidationError as error:
        raise InputError(f"{repo_id}: not the name of a repository ({error}); write owner/name") from None
    except GatedRepoError:
        raise InputError(f"{repo_id}: access must be asked for on its page; ask, then {LOG_IN}") from None
    except RepositoryNotFoundError:
        raise InputError(f"{repo_id}: no such repository, or a private one; correct the name, or {LOG_IN}") from None
    except RevisionNotFoundError:
        raise InputError(f"{repo_id}: has no revision {revision}; give a branch, tag or commit that it has") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, FileMetadataError) as error:
        raise InputError(f"{repo_id}: the hub cannot be reached ({error}); {ONLINE}") from None
    except EntryNotFoundError:
        raise InputError(f"{repo_id}: lacks one of {', '.join(FOLDER_FILES)}; give a repository that 'm2mkd push' wrote") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        fix = LOG_IN if status in (401, 403) else "try again later"
        raise InputError(f"{repo_id}: the hub answers {status} ({error.server_message or error.response.reason_phrase}); {fix}") from None
    except NETWORK as error:
        raise InputError(f"{repo_id}: the hub cannot be reached ({error}); {ONLINE}") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise InputError(f"{repo_id}: the transfer failed ({error}); try again") from None
