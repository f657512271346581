"""Takes the plots of benchmarks/results into the site: a hook of mkdocs."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
PAGE = "benchmarks.md"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds each plot under results/; mkdocs calls this once it knows the files of docs/."""
    for path in sorted(RESULTS.rglob("*.png")):
        uri = f"results/{path.relative_to(RESULTS).as_posix()}"
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Points the page's plots, which name the files of the repository, to their places in the site."""
    return markdown.replace("../benchmarks/results/", "results/") if page.file.src_uri == PAGE else markdown
