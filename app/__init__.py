"""The web page: builds settings, starts commands and shows what happens. Never imports torch."""
