"""Images, captions and the order in which training sees them.

Everything here is a function of files, settings, seed and position: no state, nothing that depends on the file system's
order. ``folders``, ``captions``, ``buckets``, ``images``, ``samples``, ``epoch`` and ``checks`` do without torch.
"""
