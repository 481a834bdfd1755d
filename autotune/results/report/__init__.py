"""A study as a page to look at, and as a few lines to paste.

verdict       what the evidence says, as a sentence
facts         the tables: both sides, warnings, failures, memory
surroundings  the environment, as names with values
series        what the charts are drawn from
looks         colours and shapes
ticks         where an axis has its ticks, and how many points are drawn
charts        drawing; the only import of matplotlib
svg           a drawing made part of a page, in the colours of the page
tables        the data of the charts
sections      each chart with what to see in it, and its table
page          all of it as one HTML file; the only import of jinja2
markdown      the short form
shell         a command as a shell reads it back
"""
