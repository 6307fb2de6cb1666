# SPDX-License-Identifier: Apache-2.0
"""Entry point of `pointsman-lab` and `python -m pointsman_lab`."""

from pointsman_lab.cli.app import main

if __name__ == "__main__":
    main()
