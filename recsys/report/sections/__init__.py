"""The parts of the page, each from the document alone: `part(document) -> HTML or ""`."""
