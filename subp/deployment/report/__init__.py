"""One page about training runs and measurements: `content.py` reads them, `figures.py` draws, `page.py` lays out.

May import what the rest of subp.deployment may; nothing else imports it but the command.
"""
