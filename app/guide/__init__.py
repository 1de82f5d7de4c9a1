"""What the Guide tab says and does, apart from its layout in app/tabs/guide.py."""
