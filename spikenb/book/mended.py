"""The Sphinx extension that mends what the tools write and assistive technology stumbles over."""


def _mend(app, pagename, templatename, context, doctree):
    """A bibliography is a list, and its entries are the items: ARIA has dropped the role that docutils gives them."""
    if "doc-biblioentry" in context.get("body", ""):
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def setup(app):
    app.connect("html-page-context", _mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
