"""The parts of scripts/upstream_tests.py and scripts/django_tests.py.

:mod:`.suites` runs others' tests, and finds the difference between two runs.
plugins/ is for the SDK's tests alone, under pytest; django_suite/ for Django's.
"""
