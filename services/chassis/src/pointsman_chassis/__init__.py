# SPDX-License-Identifier: Apache-2.0
"""How a Pointsman process runs, for every service alike; it knows no service. See DESIGN.md beside `src`."""
