"""What was measured, kept and handed out again.

- profile: the parameters that proved best for one model, on one machine, under one build
- studies: a folder for everything that one study has measured
- typed: a value out of JSON, held against a type
"""
