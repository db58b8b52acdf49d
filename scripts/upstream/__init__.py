"""The parts of scripts/upstream_tests.py and scripts/django_tests.py.

:mod:`.environment` gets ready what the tests need, :mod:`.compare` finds the difference.
plugins/ is for the SDK's tests alone, under pytest; django_suite/ for Django's.
"""
