"""The command `python -m diffvqa_rt.synthetic`."""

import sys

from diffvqa_rt.synthetic.make import main

if __name__ == "__main__":
    sys.exit(main())
