"""What was measured, kept and handed out again.

profile     the parameters that proved best for one model, on one machine, under one build
studies     a folder for everything that one study has measured
journal     the record of a study, which is only ever appended to
stored      a study, read whole
changes     what is different between two sets of circumstances
compare     two studies side by side
columns     the columns of a table, with their units
rows        a study as rows of them
conditions  when a test ran and what the machine did meanwhile, as cells
table       rows as CSV text, and the table that grows during a night
export      tables as files; nothing else knows pandas
effects     what each parameter was worth, and how sure that is
report      a page to look at, and its short form
apply       a profile in the formats of the tools that put it to use
typed       a value out of JSON, held against a type
"""
