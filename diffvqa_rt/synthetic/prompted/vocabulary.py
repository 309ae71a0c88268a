"""A small vocabulary: it spells any English prompt, and our own prompts in whole words (SPEC §5).

    python -m diffvqa_rt.synthetic.prompted.vocabulary diffvqa_rt/metrics/aigc_vqa/tiny-vocab.txt

A test holds that this is the file. Where the prompt generator gets new words, write it anew and put its SHA-256 into
the preset.
"""

import argparse
import hashlib
import string
import sys
from pathlib import Path

from diffvqa_rt.files import write_whole
from diffvqa_rt.synthetic.prompted.prompts import vocabulary
from diffvqa_rt.text.wordpiece import SPECIAL_TOKENS

LINES = 1024

_CHARACTERS = string.digits + string.ascii_lowercase + string.punctuation


def prompt_vocabulary() -> bytes:
    """The content of a `vocab.txt` of LINES pieces; the last ones are unused."""
    inside = [f"##{character}" for character in string.digits + string.ascii_lowercase]
    words = [word for word in vocabulary() if len(word) > 1]
    pieces = [*SPECIAL_TOKENS, *_CHARACTERS, *inside, *words]
    unused = [f"[unused{number}]" for number in range(LINES - len(pieces))]
    return "".join(f"{piece}\n" for piece in pieces + unused).encode()


def main(argv: list[str] | None = None) -> int:
    """The command: 0 done, 2 wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m diffvqa_rt.synthetic.prompted.vocabulary", description="Write a small vocabulary for prompts."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the vocab.txt to write")
    path, content = parser.parse_args(argv).file, prompt_vocabulary()
    write_whole(path, lambda part: part.write_bytes(content))
    print(f"{path}: SHA-256 {hashlib.sha256(content).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
