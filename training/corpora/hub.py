"""Datasets of the Hub: fetched to the cache of its own client."""

from pathlib import Path

from evoxtral.errors import RecipeError

PATTERNS = (
    "*.parquet", "*.jsonl", "*.csv", "*.txt", "*.wav", "*.flac", "*.mp3", "*.ogg", "*.opus", "*.m4a", "*.mp4", "*.webm",
)  # fmt: skip


def fetch_dataset(reference: str) -> Path:
    """The folder of a Hub dataset, `owner/name` or `owner/name@revision`, downloaded if need be. Raises RecipeError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repo, _, revision = reference.partition("@")
    neither = f"There is no folder {reference}: give the folder of a corpus, or a Hub dataset (owner/name)."
    if repo.count("/") != 1 or repo.startswith(("/", ".")):
        raise RecipeError(neither)
    try:
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision or None, allow_patterns=PATTERNS))
    except HFValidationError:
        raise RecipeError(neither) from None
    except GatedRepoError:
        address = f"https://huggingface.co/datasets/{repo}"
        raise RecipeError(
            f"{repo} is gated: accept its terms at {address}, then log in (`hf auth login` or HF_TOKEN)."
        ) from None
    except RepositoryNotFoundError:
        raise RecipeError(
            f"There is no folder {reference}, and no such dataset on the Hub, or it is private and you are not logged "
            "in (HF_TOKEN)."
        ) from None
    except RevisionNotFoundError:
        raise RecipeError(f"{repo} has no revision {revision!r}: check it on the Hub.") from None
    except (LocalEntryNotFoundError, HTTPError, ConnectionError):
        raise RecipeError(
            f"There is no folder {reference}, and the Hub cannot be reached: check the path, or the network."
        ) from None
