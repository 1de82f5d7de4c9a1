"""Parts of the page that more than one tab uses, or that draw themselves."""
