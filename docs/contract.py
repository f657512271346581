"""Writes the page of the contract from the contract itself whenever the site is built: a hook of mkdocs."""

import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from mkdocs.exceptions import PluginError
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
CONTRACT = "mattebox/v1/background_removal.proto"
PAGE = "reference/contract.md"
MARK = "<!-- the contract -->"
PROTOC = ROOT / ".venv-proto" / "bin" / "python"

# The place of a comment is a path of numbers, which are those of the fields in descriptor.proto.
_MESSAGES, _ENUMS, _SERVICES, _SYNTAX = 4, 5, 6, 12
_MEMBERS = 2  # the number of a message's fields, an enum's values and a service's methods alike

_SCALARS = {
    FieldDescriptorProto.TYPE_BOOL: "bool",
    FieldDescriptorProto.TYPE_BYTES: "bytes",
    FieldDescriptorProto.TYPE_FLOAT: "float",
    FieldDescriptorProto.TYPE_STRING: "string",
    FieldDescriptorProto.TYPE_UINT32: "uint32",
    FieldDescriptorProto.TYPE_UINT64: "uint64",
}


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Puts the contract in place of the page's mark; mkdocs calls this for every page.

    Raises:
        PluginError: the contract can't be read, or the page has no mark.
    """
    if page.file.src_uri != PAGE:
        return markdown
    if MARK not in markdown:
        raise PluginError(f"{PAGE} has no line {MARK}")
    return markdown.replace(MARK, Reference(described()).markdown())


def described() -> FileDescriptorProto:
    """Returns the contract with its comments, as read by the protoc that generates the committed code (`make proto`).

    Raises:
        PluginError: protoc is missing, or refuses the contract.
    """
    if not PROTOC.exists():
        raise PluginError(f"{PROTOC} is missing: make docs installs it")
    places = subprocess.run(
        [PROTOC, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "contract.binpb"
        command = [str(PROTOC), "-m", "grpc_tools.protoc", "-I", "protos", "-I", places, "--include_source_info"]
        done = subprocess.run([*command, "-o", str(file), CONTRACT], cwd=ROOT, check=False)  # protoc prints its errors
        if done.returncode != 0:
            raise PluginError(f"protoc refuses {CONTRACT}")
        return FileDescriptorSet.FromString(file.read_bytes()).file[0]


class Reference:
    """The page of a contract: the service, then messages and enums in the contract's order.

    Args:
        contract: the contract with its comments.
    """

    def __init__(self, contract: FileDescriptorProto) -> None:
        self._contract = contract
        self._places = {tuple(place.path): place for place in contract.source_code_info.location}

    def markdown(self) -> str:
        """Returns the whole page in Markdown."""
        contract = self._contract
        parts = [_prose("".join(self._places[_SYNTAX,].leading_detached_comments))]
        parts += [self._service(service, (_SERVICES, i)) for i, service in enumerate(contract.service)]
        parts += ["## Messages", *(self._message(each, (_MESSAGES, i)) for i, each in enumerate(contract.message_type))]
        parts += ["## Enums", *(self._enum(each, (_ENUMS, i)) for i, each in enumerate(contract.enum_type))]
        return "\n\n".join(parts)

    def _service(self, service: ServiceDescriptorProto, path: tuple[int, ...]) -> str:
        parts = [f"## {service.name}", self._comment(path)]
        for number, method in enumerate(service.method):
            asked = ("stream of " if method.client_streaming else "") + self._type(method.input_type)
            answered = ("stream of " if method.server_streaming else "") + self._type(method.output_type)
            comment = self._comment((*path, _MEMBERS, number))
            parts += [f"### {method.name}", f"{asked} → {answered}", comment]
        return "\n\n".join(parts)

    def _message(self, message: DescriptorProto, path: tuple[int, ...]) -> str:
        rows = [
            (f"`{field.name}`", self._field_type(field, message), self._comment((*path, _MEMBERS, number)))
            for number, field in enumerate(message.field)
        ]
        return self._section(message.name, path, ("field", "type", "meaning"), rows)

    def _enum(self, enum: EnumDescriptorProto, path: tuple[int, ...]) -> str:
        rows = [
            (f"`{value.name}`", self._comment((*path, _MEMBERS, number))) for number, value in enumerate(enum.value)
        ]
        return self._section(enum.name, path, ("value", "meaning"), rows)

    def _section(self, name: str, path: tuple[int, ...], head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
        lines = [" | ".join(cell.replace("\n", " ").replace("|", "\\|") for cell in row) for row in rows]
        table = "\n".join(f"| {line} |" for line in [" | ".join(head), " | ".join("---" for _ in head), *lines])
        return f"### {name}\n\n{self._comment(path)}" + (f"\n\n{table}" if lines else "")

    def _field_type(self, field: FieldDescriptorProto, message: DescriptorProto) -> str:
        name = _SCALARS.get(field.type) or self._type(field.type_name)
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            return f"repeated {name}"
        if field.HasField("oneof_index"):
            return f"{name}, one of *{message.oneof_decl[field.oneof_index].name}*"
        return name

    def _type(self, full_name: str) -> str:
        """Returns a type's name, as a link if the page describes the type."""
        name = full_name.removeprefix(f".{self._contract.package}.")
        return full_name.removeprefix(".") if "." in name else f"[{name}](#{name.lower()})"

    def _comment(self, path: tuple[int, ...]) -> str:
        """Returns the comment at a place. Raises PluginError if there is none, which buf's rules forbid."""
        comment = self._places[path].leading_comments
        if not comment:
            raise PluginError(f"{CONTRACT}: the element at {path} has no comment")
        return _prose(comment)


def _prose(comment: str) -> str:
    """Returns a comment as Markdown: underscores in names are escaped, indented lines become a block of their own."""
    lines = [line.removeprefix(" ") for line in comment.rstrip().splitlines()]
    parts: list[str] = []
    for number, line in enumerate(lines):
        indented = line.startswith("  ")
        if indented != (number > 0 and lines[number - 1].startswith("  ")):
            parts.append("```" if not indented else "\n```text")
        parts.append(line if indented else line.replace("_", "\\_").replace("<", "&lt;").replace("[", "\\["))
    if lines[-1].startswith("  "):
        parts.append("```")
    return "\n".join(parts)
