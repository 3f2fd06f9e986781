"""Evoxtral-Bench over sets that still bite: ladders of noise, rooms, codecs and texts, controls, and anyone's folder.

`sets` builds clips from texts and a seed, `recordings` reads people's from installed packages, `running` transcribes
and scores them, `report` writes the page, `command` is `python -m evoxtral bench`.
"""
