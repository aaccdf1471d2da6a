"""The frame of the pages that recsys writes: one HTML file, nothing to fetch, light and dark."""

from collections.abc import Sequence
from html import escape

# Colours by use, so that drawings follow the reader's light or dark theme. Series are told apart by
# lightness too.
STYLE = """
:root{color-scheme:light dark;--ink:#1f2328;--soft:#6a737d;--paper:#fff;--shade:#f5f5f2;
--line:#d9d8d3;--grid:#ecebe6;--good:#1a7f4b;--bad:#b3372c;--warn:#9a6700;--plus:59,110,168;--minus:201,91,60;
--c0:#3b6ea8;--c1:#d08a3c;--c2:#4f9a6b;--c3:#a85c8f;--c4:#7a6fb0;--c5:#8a8471;
--c6:#3aa0a8;--c7:#b5534f}
@media(prefers-color-scheme:dark){:root{--ink:#e3e5e8;--soft:#9aa2ab;--paper:#15181c;--shade:#1e2227;
--line:#3a4047;--grid:#2a2f35;--good:#56c288;--bad:#ef7d70;--warn:#d9a441;--plus:96,155,222;
--minus:226,124,92;--c0:#6ea3dd;--c1:#e2a55c;--c2:#73bf8f;--c3:#cf8abb;--c4:#a299d6;--c5:#b3ad98;
--c6:#5cc3cb;--c7:#dd8480}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:76rem;padding:1.5rem 1rem 4rem;
color:var(--ink);background:var(--paper);overflow-wrap:break-word}
h1{font-size:1.6rem;line-height:1.2} h2{font-size:1.25rem;margin:2.5rem 0 .5rem}
h3{font-size:1rem;margin:1.5rem 0 .4rem}
a{color:var(--c0)} p,li{max-width:46rem} .soft{color:var(--soft)} code{font-size:.9em}
nav{columns:14rem;background:var(--shade);padding:.8rem 1.2rem;border-radius:6px}
nav ol{margin:0;padding-left:1.3rem}
pre{overflow-x:auto;background:var(--shade);padding:1rem;font-size:12px}
svg{max-width:100%} svg text{font-family:system-ui,sans-serif}
"""


def page(title: str, parts: Sequence[str], style: str = "") -> str:
    """The whole document: `parts` one after the other under the title."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style>"
    )
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'
