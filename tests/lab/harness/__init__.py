"""Runs tests of pytest within the lab (tests/lab/README.md), and drives the machines of those tests.

Outside: plugin, labs, tally, artifacts, guests. Inside: inside, fixtures, machine, api, console, jail, network.
"""
