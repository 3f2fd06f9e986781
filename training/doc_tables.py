"""Tables that commands write into the pages of docs/."""

from pathlib import Path

from evoxtral.errors import RecipeError


def write_block(page: Path, start: str, end: str, block: str) -> None:
    """Put text between two marks of a page. Raises RecipeError for a page without them."""
    before, mark, rest = page.read_text(encoding="utf-8").partition(start)
    if not mark or end not in rest:
        raise RecipeError(f"{page} has no {start.strip()} with {end} behind it: there is no place for the table.")
    page.write_text(before + start + block + end + rest.partition(end)[2], encoding="utf-8")
