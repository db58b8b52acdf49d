"""From an SDK release to the files of vendored_integration/_vendor/.

What an installation runs, in reading order: releases, upstream, patch, package, sbom.
What writes patches/: edits, verify, drive, port.
"""
