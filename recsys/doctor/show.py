"""An examination for people."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def print_examination(found: dict[str, Any], console: "Console") -> None:
    """Draws what `examine` returned: versions beside imports, devices, then faults and fixes."""
    from rich.table import Table

    versions = Table("package", "version", box=None, header_style="bold")
    for name, version in found["versions"].items():
        versions.add_row(name, version or "[dim]–[/dim]")
    imports = Table("import", "", "seconds", box=None, header_style="bold")
    for module, result in found["imports"].items():
        mark = "[green]works[/green]" if result["ok"] else "[red]fails[/red]"
        seconds = result["seconds"]
        imports.add_row(module, mark, "" if seconds is None else f"{seconds:.1f}")
    both = Table.grid(padding=(0, 6))
    both.add_row(versions, imports)
    console.print(both)

    devices = found["devices"]
    gpus = ", ".join(f"{gpu['name']} ({gpu['memory_gib']} GiB)" for gpu in devices["gpus"])
    console.print(
        f"\n{devices['cpus']} CPUs, {devices['memory_gib']} GiB memory, GPUs: {gpus or 'none'}"
    )
    matches = found["triple"]["matches"]
    console.print(
        "torch, torchrec and fbgemm-gpu "
        + ("[green]match[/green]" if matches else "[red]do not match[/red]")
    )
    for note in found["notes"]:
        console.print(f"Note: {note}", markup=False, highlight=False)
    for fault in found["faults"]:
        console.print(f"\n[red]Fault:[/red] {_plain(fault['what'])}", highlight=False)
        # Whole on one line, to be copied.
        console.print(f"  Fix: {fault['fix']}", markup=False, highlight=False, soft_wrap=True)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
