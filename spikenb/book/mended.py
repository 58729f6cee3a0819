"""The Sphinx extension that mends what the tools write and assistive technology or a phone stumbles over."""

import re


def _mend(app, pagename, templatename, context, doctree):
    """A bibliography is a list, and its entries are the items: ARIA has dropped the role that docutils gives them."""
    if "doc-biblioentry" in context.get("body", ""):
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')
    if '<table class="table">' in context.get("body", ""):
        context["body"] = re.sub(r'<table class="table">.*?</table>', _words, context["body"], flags=re.S)


def _words(table):
    """A table of words, which are cards on a phone: each cell carries its column's head. One of numbers stays."""
    from bs4 import BeautifulSoup  # a kernel need not have it

    soup = BeautifulSoup(table[0], "html.parser")
    heads, cells = soup.select("thead th"), soup.select("tbody td")
    if any(head.select(".math") for head in heads) or max((len(c.get_text()) for c in cells), default=0) < 40:
        return table[0]
    soup.table["class"] = ["table", "spike-words"]
    for row in soup.select("tbody tr"):
        for head, cell in zip(heads, row.select("td"), strict=False):
            cell["data-title"] = head.get_text().strip()
    return str(soup)


def setup(app):
    app.connect("html-page-context", _mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
