"""The command line: parse, call one library function, render the answer, map errors to codes."""
