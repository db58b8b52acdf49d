"""The parts of scripts/upstream_tests.py; plugins/ is for pytest alone.

:mod:`.compare` reads pytest's results and finds the difference; :mod:`.explained` is
the list of differences that this project makes on purpose; :mod:`.environment` gets
ready what the tests need.
"""
