"""An experiment to start from: learned pooling, and networks of other semifields, over many seeds.

`python -m examples.thesis --help` says what it does; README.md beside this file shows it.
"""
