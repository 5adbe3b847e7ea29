"""The report of a night: one HTML file that needs nothing else, neither network nor server.

    tables ─▶ night.py (numbers) ─┬─▶ attention.py (what to do) ─┐
                                  └─▶ charts.py (Vega-Lite) ─────┴─▶ page.py + page.html ─▶ FILE.html

Without --examples it names no user and cites no text, so it needs no correction when a user is forgotten.
"""
