"""Download weights from the Hub: bases and adapters by their ids, `owner/name` or `owner/name@revision`."""

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from evoxtral.errors import CheckpointError
from evoxtral.model import lora

log = logging.getLogger(__name__)

# The Hub's repository also holds the weights in Mistral's own format, which are not downloaded.
FILES = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "tekken.json", "model*.safetensors", "model.safetensors.index.json", lora.CONFIG_FILE, lora.WEIGHTS_FILE,
    "alignment.json", "confidence.json", "phonemes.safetensors",  # see alignment.py, confidence.py, phoneme_head.py
)  # fmt: skip
_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")
_NOT_A_REFERENCE = "{} is neither a folder nor a Hub id (owner/name or owner/name@revision)."
GATED = "{0} is gated: accept its terms at https://huggingface.co/{0}, then log in (`hf auth login` or HF_TOKEN)."
_REPORT_EVERY = 3.0  # s, of a download


def is_id(reference: str) -> bool:
    """Whether a reference is a Hub id and not an existing file or folder."""
    return _ID.fullmatch(reference) is not None and not Path(reference).exists()


def fetch(reference: str, files: tuple[str, ...] = FILES, on_progress: Callable[[str], None] | None = None) -> Path:
    """The folder of a base or an adapter; a Hub id is downloaded. Raises CheckpointError.

    on_progress: called every few seconds with a line on the progress of the download; None for the log.
    """
    if Path(reference).is_dir():
        return Path(reference)
    if not _ID.fullmatch(reference):
        raise CheckpointError(_NOT_A_REFERENCE.format(reference))
    return Path(_download(reference, files, on_progress or log.info))


def _download(reference: str, files: tuple[str, ...], on_progress: Callable[[str], None]) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        HTTPError,  # of whichever HTTP library the client uses
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repo, _, revision = reference.partition("@")
    try:
        size = bytes_to_download(reference, files)
        asked = {"revision": revision or None, "allow_patterns": files}
        folder = snapshot_download(repo, **asked, tqdm_class=_progress(repo, size, on_progress))
        if size:
            on_progress(f"Downloaded {repo}")
        return folder
    except HFValidationError as error:
        raise CheckpointError(_NOT_A_REFERENCE.format(reference)) from error
    except GatedRepoError as error:
        raise CheckpointError(GATED.format(repo)) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{repo} is not on the Hub, or it is private and you are not logged in (HF_TOKEN)."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{repo} has no revision {revision or 'main'!r}.") from error
    except (LocalEntryNotFoundError, HTTPError, ConnectionError) as error:
        raise CheckpointError(
            f"{reference} is not on this machine and the Hub cannot be reached: check the network, or choose the "
            "model tiny."
        ) from error
    except OSError as error:
        raise CheckpointError(f"{reference} could not be stored on this machine: {error.strerror or error}.") from error
    except RuntimeError as error:  # of the Hub's transport for large files, a full disk included
        raise CheckpointError(f"The download of {reference} broke off ({error}): start it again.") from error


def bytes_to_download(reference: str, files: tuple[str, ...] = FILES) -> int:
    """Bytes of a Hub id's files that are still to be downloaded, by asking the Hub; 0 where it is offline.

    Raises CheckpointError if the disk has no room for them, and what the Hub's client raises.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import DryRunError

    repo, _, revision = reference.partition("@")
    try:
        plan = snapshot_download(
            repo,
            revision=revision or None,
            allow_patterns=files,
            dry_run=True,
            tqdm_class=_progress(repo, 0, log.debug),
        )
    except DryRunError:  # offline: nothing would be downloaded
        return 0
    needed = sum(file.file_size or 0 for file in plan if file.will_download)
    cache = next(p for p in (Path(constants.HF_HUB_CACHE), *Path(constants.HF_HUB_CACHE).parents) if p.exists())
    free = shutil.disk_usage(cache).free
    if needed > free:
        raise CheckpointError(
            f"{repo} needs {needed / 1e9:.1f} GB of disk and {cache} has {free / 1e9:.1f} GB free: "
            "make room, or set HF_HOME."
        )
    return needed


def _progress(repo: str, size: int, on_progress: Callable[[str], None]) -> type:
    """A tqdm class for the Hub's client that reports the bytes downloaded of `size` instead of drawing a bar, for the
    page and for logs."""
    from tqdm import tqdm

    furthest = size / 100  # bytes; earlier than this, the time left cannot be estimated

    class Progress(tqdm):
        monitor_interval = 0  # no thread of its own

        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **{**settings, "mininterval": _REPORT_EVERY})

        def display(self, *arguments, **settings):
            nonlocal furthest
            # One of the client's bars counts files, and two count the same bytes.
            if self.unit == "B" and furthest < self.n < size:
                furthest = self.n
                left = tqdm.format_interval((size - self.n) * self.format_dict["elapsed"] / self.n)
                on_progress(f"Downloading {repo}: {self.n / size:.0%} of {size / 1e9:.1f} GB, {left} left")

        def close(self):
            """Nothing was drawn, so there is nothing to clear."""

    return Progress
