"""Pictures of numbers: plain data in, an SVG that needs nothing else out.

They are drawn by matplotlib's SVG backend. A page that travels by mail, into a supplement and onto paper
wants pictures of some KB each that hold no script and print as they look: interactive libraries embed
megabytes of script in each page and draw nothing without it. Text stays text (`svg.fonttype: none`): it can
be searched, copied and read aloud, and no name has to find its letters in matplotlib's own font. And
matplotlib is what the field draws with, which is the upkeep. It is imported when the first picture is drawn.
"""
