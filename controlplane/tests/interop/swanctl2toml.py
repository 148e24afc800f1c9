#!/usr/bin/env python3
"""Turns a swanctl.conf into the [connections] and [secrets] of a culvert.toml.

  swanctl2toml.py swanctl.conf

The keys are the same in both; only the syntax differs.  Values stay text, as swanctl has
them, so that culvert itself parses and judges them.
"""
import json
import re
import sys


def parse(lines):
    """swanctl.conf: `name {`, `key = value`, `}`, one a line, comments with #."""
    root = {}
    stack = [root]
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line == "}":
            stack.pop()
        elif m := re.fullmatch(r"([^\s={}]+)\s*\{", line):
            stack.append(stack[-1].setdefault(m[1], {}))
        elif m := re.fullmatch(r"([^\s={}]+)\s*=\s*(.*)", line):
            value = m[2].strip()
            if len(value) >= 2 and value[0] == value[-1] == '"':
                value = value[1:-1]
            stack[-1][m[1]] = value
        else:
            sys.exit(f"swanctl2toml.py: line {number}: not understood: {line}")
    if len(stack) != 1:
        sys.exit("swanctl2toml.py: braces do not match")
    return root


def key(name):
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def emit(section, path):
    values = {k: v for k, v in section.items() if not isinstance(v, dict)}
    if values:
        print(f"\n[{'.'.join(map(key, path))}]")
        for k, v in values.items():
            print(f"{key(k)} = {json.dumps(v)}")
    for k, v in section.items():
        if isinstance(v, dict):
            emit(v, path + [k])


def main():
    with open(sys.argv[1]) as f:
        conf = parse(f)
    for name in ("connections", "secrets"):
        emit(conf.get(name, {}), [name])


if __name__ == "__main__":
    main()
