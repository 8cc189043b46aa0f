"""The CPU: libraries compiled by the machine's C++ compiler, and the calls into them."""
